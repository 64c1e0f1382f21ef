"""Live sound from an ALSA capture device: one channel, the mean, or all channels, at the asked rate."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from edgeasd.runtime.audio.reader import (
    MOST,
    Samples,
    StreamResampler,
    describe_channel,
    describe_rates,
    rate_steps,
    require_channel,
    select_channel,
)
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources.arecord import (
    BITS,
    FORMATS,
    ArecordCapture,
    ChannelsRefused,
    FormatRefused,
    RateRefused,
    Setup,
    plug_hint,
    require_arecord,
)
from edgeasd.runtime.sources.base import MAX_CHANNELS, AudioChunk, BaseSource, SourceStatus
from edgeasd.runtime.sources.pipe import PcmDecoder

OWN_RATES = (48000, 44100, 32000, 96000, 88200, 192000, 176400)
"""Rates that a device may have instead, in the order in which they are tried; only those above the asked one are."""


class TooFewChannels(DeviceError):
    """The device does not have the channel asked for, or captures several although none was named."""


class _Negotiation:
    """Finds a setup that the device takes. Each refusal rules something out, so it ends."""

    def __init__(self, device: str, format: str, resample: bool) -> None:
        if format not in ("auto", *FORMATS):
            raise InputError(f"{format}: not a sample format known here; use auto or one of {', '.join(FORMATS)}")
        self._device, self._resample = device, resample
        self._formats = list(FORMATS) if format == "auto" else [format]

    def open(self, rate: int, channels: int | None, channel: int | None, mix: bool) -> tuple[ArecordCapture, Setup]:
        """Open with `channels`, else with the fewest that include the choice; a device may have only more.

        Raises DeviceError, as TooFewChannels for the number of channels.
        """
        count = channels or (2 if mix else 1 + (channel or 0))
        try:
            return self._any_rate(rate, count)
        except ChannelsRefused as refusal:
            offered = refusal.offered
        if channels is None and (mix or channel is not None) and offered and offered >= 1 + (channel or 0):
            with suppress(ChannelsRefused):
                return self._any_rate(rate, offered)
        works = f", {offered} work" if offered else ""
        choice = f"pass --channel 0 to {offered - 1} (counted from 0)" if offered else "pass another --channel"
        raise TooFewChannels(
            f"{self._device}: does not capture {count} channel{'s' if count > 1 else ''}{works}; "
            + (f"{choice} or --mix, or " if channel is None and not mix else f"{choice}, or ")
            + plug_hint(self._device, "use a plughw: device")
        )

    def _any_rate(self, rate: int, channels: int) -> tuple[ArecordCapture, Setup]:
        try:
            return self._any_format(rate, channels)
        except RateRefused as refusal:
            nearest = refusal.offered
        if self._resample:
            own = [nearest] if nearest > rate else []
            for other in [*own, *(r for r in OWN_RATES if r > rate and r != nearest)]:
                with suppress(RateRefused):
                    return self._any_format(other, channels)
            raise DeviceError(
                f"{self._device}: captures at {nearest} Hz, which holds less than the {rate} Hz asked for; "
                "use another microphone"
            )
        hint = plug_hint(self._device, "choose a device that has this rate")
        raise DeviceError(
            f"{self._device}: does not capture at {rate} Hz, the nearest is {nearest} Hz; {hint}, or pass --resample"
        )

    def _any_format(self, rate: int, channels: int) -> tuple[ArecordCapture, Setup]:
        asked, remaining = self._formats[0], list(self._formats)
        offered: tuple[str, ...] = ()
        while remaining:
            setup = Setup(remaining.pop(0), rate, channels)
            try:
                opened = ArecordCapture(self._device, setup), setup
            except FormatRefused as refusal:
                offered = refusal.offered
                remaining = [format for format in remaining if format in offered]
                continue
            self._formats = [setup.format]
            return opened
        what = asked if len(self._formats) == 1 else "any of " + ", ".join(self._formats)
        hint = plug_hint(self._device, "use a plughw: device")
        raise DeviceError(f"{self._device}: does not capture {what}, it offers {', '.join(offered[:12])}; {hint}")


class AlsaSource(BaseSource):
    """Live sound from an ALSA capture device such as "hw:1" or "plughw:1,0".

    Without `channels`, `channel` and `mix` it captures mono. With `every_channel`, chunks have shape (n, channels):
    as many channels as `channel` or `mix` takes, or as the device has.
    Formats are tried in the order of `arecord.FORMATS`, or `format` alone; integers are divided by full scale.
    With `resample`, a device without `sample_rate` is opened at a higher rate of its own and converted by soxr
    (HQ) without a seam between chunks. With `recorded_rate` (`FeatureSettings.recorded_rate`) it is opened at that rate,
    or at a higher one of its own, and converted by way of it.
    Raises InputError for wrong arguments; DeviceError for a device that is missing, busy, refuses, or stops
    (unplugged, or no sound for 1.5 s), and without arecord.
    """

    def __init__(
        self,
        device: str = "hw:1",
        sample_rate: int = 16000,
        channels: int | None = None,
        channel: int | None = None,
        mix: bool = False,
        *,
        format: str = "auto",
        resample: bool = False,
        every_channel: bool = False,
        recorded_rate: int | None = None,
    ) -> None:
        if not device or "\0" in device:
            raise InputError(f"{device!r}: not an ALSA device name; list the devices with `edgeasd devices`")
        if channels is not None and not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"{device}: {channels} channels; give a number from 1 to {MAX_CHANNELS}")
        if not every_channel:
            default = 0 if channels is None and not mix else None
            require_channel(device, channels or MAX_CHANNELS, default if channel is None else channel, mix)
        negotiation = _Negotiation(device, format, resample or recorded_rate is not None)
        require_arecord()
        self._capture, self._setup = negotiation.open(recorded_rate or sample_rate, channels, channel, mix)
        self._decoder = PcmDecoder(FORMATS[self._setup.format], self._setup.channels)
        self._channel, self._mix, self._every = channel, mix, every_channel
        self._recorded_rate = recorded_rate
        steps = rate_steps(self._setup.rate, sample_rate, recorded_rate)
        self._is_resampled = len(steps) > 1
        name = f"{device} through arecord, {self._setup.format}, {describe_rates(steps)}"
        if not every_channel:
            name += f", {describe_channel(self._setup.channels, channel, mix)}"
        # A mean and a resampled sound need more bits than the device has.
        bits = 24 if mix or self._is_resampled else BITS[self._setup.format]
        columns = self._setup.channels if every_channel else 1
        super().__init__(name, sample_rate, live=True, bits=bits, channels=columns)
        self._resampler: StreamResampler | None = None
        self._has_gap, self._seen_overruns = False, 0

    @property
    def status(self) -> SourceStatus:
        """As of `Source`. Overruns just before the device stopped are included."""
        status, overruns = super().status, self._capture.overruns
        return status if overruns == status.overruns else self._change_status(overruns=overruns)

    def read(self) -> AudioChunk | None:
        """The next samples; None after `close`."""
        self._enter_read()
        while data := self._capture.read():
            if self._capture.overruns != self._seen_overruns:
                # The filter must not smear the sound before a loss into the sound after it.
                self._seen_overruns, self._has_gap, self._resampler = self._capture.overruns, True, None
            frames = self._decoder.push(data)
            if self._setup.format == "FLOAT_LE" and not (np.abs(frames) <= MOST).all():
                raise DeviceError(f"{self.name}: delivers samples that are no sound; pass another --alsa-format")
            samples = frames if self._every else select_channel(frames, self._channel, self._mix)
            if len(samples := self._resample(samples)):
                has_gap, self._has_gap = self._has_gap, False
                return self._make_chunk(samples, discontinuity=has_gap)
        return None

    def _resample(self, samples: Samples) -> Samples:
        if not self._is_resampled:
            return samples
        if self._resampler is None:
            channels = self._status.channels
            self._resampler = StreamResampler(self._setup.rate, self.sample_rate, channels, self._recorded_rate)
        return self._resampler.push(samples)

    def close(self) -> None:
        """Stop the capture and end a blocked `read`."""
        self._mark_closed()
        self._capture.close()
