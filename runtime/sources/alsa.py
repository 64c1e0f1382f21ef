"""Signals of an ALSA device at the asked rate: one channel or the mean, or all channels for those who share them."""

from __future__ import annotations

from contextlib import suppress

from edgeasd.runtime.audio.reader import (
    Samples,
    StreamResampler,
    describe_channel,
    require_channel,
    select_channel,
)
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources.alsa_common import ChannelsRefused, plug_hint
from edgeasd.runtime.sources.alsa_device import AlsaDevice, check_name
from edgeasd.runtime.sources.base import MAX_CHANNELS


class TooFewChannels(DeviceError):
    """The device has not the channel that is asked for, or not only one where none is named."""


class _Converter:
    """What a device delivers, at another rate; begins afresh where the device has lost something."""

    def __init__(self, device: AlsaDevice, sample_rate: int, channels: int) -> None:
        self._device, self._rate, self._channels = device, sample_rate, channels
        self.converts = device.sample_rate != sample_rate
        self._resampler: StreamResampler | None = None
        self._overruns = 0

    def push(self, samples: Samples) -> Samples:
        if not self.converts:
            return samples
        if self._resampler is None or self._device.overruns != self._overruns:
            # The filter must not smear what was before a loss into what follows.
            self._overruns = self._device.overruns
            self._resampler = StreamResampler(self._device.sample_rate, self._rate, self._channels)
        return self._resampler.push(samples)


class _Alsa:
    """What both have: an open device and its converter."""

    live = True

    def __init__(self, device: AlsaDevice, sample_rate: int, channels: int) -> None:
        self._device, self._converter = device, _Converter(device, sample_rate, channels)
        self.sample_rate, self.bits = sample_rate, device.bits
        self.converted = self._converter.converts
        self.name = device.name + (f" resampled to {sample_rate} Hz" if self.converted else "")

    @property
    def overruns(self) -> int:
        """How often the device's buffer ran over since the start."""
        return self._device.overruns

    def close(self) -> None:
        """Stop the capture; idempotent, and ends a `read` blocked in another thread."""
        self._device.close()


class AlsaSource(_Alsa):
    """Live sound from an ALSA capture device such as "hw:1" or "plughw:1,0"; see `AlsaDevice`.

    Without `channels`, `channel` and `mix` it captures mono. With `resample` a device of another rate is
    opened at a higher one of its own and converted by soxr (HQ) in the stream, without a seam between
    blocks. `bits` is the width of a sample as captured. Raises what `AlsaDevice` raises.
    """

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
        opened = _open_with_channels(device, sample_rate, channels, channel, mix, options)
        super().__init__(opened, sample_rate, 1)
        self._channel, self._mix = channel, mix
        self.name += f", {describe_channel(opened.channels, channel, mix)}"

    def read(self) -> Samples | None:
        """The next samples, shape (n,), n >= 1, float32; None after `close`."""
        while (frames := self._device.read()) is not None:
            if len(samples := self._converter.push(select_channel(frames, self._channel, self._mix))):
                return samples
        return None


class AlsaChannels(_Alsa):
    """All channels of an ALSA capture device at `sample_rate`: a `MultiSource` for `ChannelSplit`.

    Opened with as many channels as `channel` or `mix` takes, or with as many as the device has; with neither it
    is opened mono. The rest is as of `AlsaSource`.
    """

    def __init__(
        self,
        device: str,
        sample_rate: int = 16000,
        channel: int | None = None,
        mix: bool = False,
        backend: str = "auto",
        *,
        format: str = "auto",
        resample: bool = False,
    ) -> None:
        check_name(device)
        options = {"format": format, "resample": resample, "backend": backend}
        opened = _open_with_channels(device, sample_rate, None, channel, mix, options)
        super().__init__(opened, sample_rate, opened.channels)
        self.channels = opened.channels

    def read(self) -> Samples | None:
        """The next frames, shape (n, channels), n >= 1, float32; None after `close`."""
        while (frames := self._device.read()) is not None:
            if len(samples := self._converter.push(frames)):
                return samples
        return None


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
    raise TooFewChannels(
        f"{device}: does not capture {count} channel{'s' if count > 1 else ''}{found}; "
        + (f"{choice} or --mix, or " if channel is None and not mix else f"{choice}, or ")
        + plug_hint(device, "use a plughw: device")
    )
