"""One signal of an ALSA device: a channel or the mean, at the asked rate."""

from __future__ import annotations

from contextlib import suppress

from edgeasd.runtime.audio import Samples, StreamResampler, describe_channel, require_channel, select_channel
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources.alsa_common import ChannelsRefused, plug_hint
from edgeasd.runtime.sources.alsa_device import AlsaDevice, check_name
from edgeasd.runtime.sources.base import MAX_CHANNELS


class AlsaSource:
    """Live sound from an ALSA capture device such as "hw:1" or "plughw:1,0"; see `AlsaDevice`.

    Without `channels`, `channel` and `mix` it captures mono. With `resample` a device of another rate is
    opened at a higher one of its own and converted by soxr (HQ) in the stream, without a seam between
    blocks. `bits` is the width of a sample as captured. Raises what `AlsaDevice` raises.
    """

    live = True

    def __init__(
        self,
        device: str = "hw:1",
        sample_rate: int = 16000,
        channels: int | None = None,
        channel: int | None = None,
        mix: bool = False,
        backend: str = "auto",
        *,
        format: str = "auto",
        resample: bool = False,
    ) -> None:
        check_name(device)
        if channels is not None and not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"{device}: {channels} channels; give a number from 1 to {MAX_CHANNELS}")
        default = 0 if channels is None and not mix else None
        require_channel(device, channels or MAX_CHANNELS, default if channel is None else channel, mix)
        options = {"format": format, "resample": resample, "backend": backend}
        self._device = _open_with_channels(device, sample_rate, channels, channel, mix, options)
        self._channel, self._mix = channel, mix
        self.sample_rate, self.bits = sample_rate, self._device.bits
        self.converted = self._device.sample_rate != sample_rate
        self._resampler = self._new_resampler()
        self._overruns = 0
        choice = describe_channel(self._device.channels, channel, mix)
        changed = f" resampled to {sample_rate} Hz" if self.converted else ""
        self.name = f"{self._device.name}{changed}, {choice}"

    def _new_resampler(self) -> StreamResampler | None:
        return StreamResampler(self._device.sample_rate, self.sample_rate) if self.converted else None

    @property
    def overruns(self) -> int:
        """How often the device's buffer ran over since the start."""
        return self._device.overruns

    def read(self) -> Samples | None:
        """The next samples, shape (n,), n >= 1, float32; None after `close`."""
        while (frames := self._device.read()) is not None:
            samples = select_channel(frames, self._channel, self._mix)
            if self._resampler is None:
                return samples
            if self.overruns != self._overruns:  # the filter must not smear what was before a loss into what follows
                self._overruns, self._resampler = self.overruns, self._new_resampler()
                assert self._resampler is not None
            if len(samples := self._resampler.push(samples)):
                return samples
        return None

    def close(self) -> None:
        """Stop the capture; idempotent, and ends a `read` blocked in another thread."""
        self._device.close()


def _open_with_channels(
    device: str, rate: int, channels: int | None, channel: int | None, mix: bool, options: dict
) -> AlsaDevice:
    """Open with `channels`, else with the fewest that hold the choice; a device may know only more."""
    count = channels or (2 if mix else 1 + (channel or 0))
    try:
        return AlsaDevice(device, rate, count, **options)
    except ChannelsRefused as refusal:
        offered = refusal.offered
    if channels is None and (mix or channel is not None) and offered and offered >= 1 + (channel or 0):
        with suppress(ChannelsRefused):
            return AlsaDevice(device, rate, offered, **options)
    found = f", {offered} work" if offered else ""
    choice = f"pass --channel 0 to {offered - 1} (counted from 0)" if offered else "pass another --channel"
    raise DeviceError(
        f"{device}: does not capture {count} channel{'s' if count > 1 else ''}{found}; "
        + (f"{choice} or --mix, or " if channel is None and not mix else f"{choice}, or ")
        + plug_hint(device, "use a plughw: device")
    )
