"""The sources of the streams: files are opened for each, devices and commands once for all who listen to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgeasd.runtime.config.check import describe_source
from edgeasd.runtime.config.settings import StreamSettings
from edgeasd.runtime.config.sharing import SharedInput, check_choice, shared_input, wanted_channels
from edgeasd.runtime.service.patient import PatientSource
from edgeasd.runtime.sources import ChannelSource, ChannelSplit, open_channels, open_source

ServedSource = PatientSource | ChannelSource
_Choice = tuple[int | None, bool]


class _Shared:
    """One device or command, and how many channels it was last opened for."""

    def __init__(self, key: SharedInput, rate: int, stream: StreamSettings, wanted: list[_Choice]) -> None:
        self.key, self._rate, self.wanted = key, rate, wanted
        self._asked = 0
        self._opened: Any = None
        name, live = stream.device or f"command {stream.input_command}", stream.live
        self._device = PatientSource(self._open, name=name, sample_rate=rate, live=live, retry=live)
        self.split = ChannelSplit(self._device, waits=not stream.drops)

    def _open(self) -> Any:
        """All that is wanted, even where more was asked for while it was being opened."""
        while True:
            self._opened = opened = self._open_once()
            if not self._too_few(opened):
                return opened
            opened.close()

    def _open_once(self) -> Any:
        return open_channels(
            wanted=self._choices,
            device=self.key.what if self.key.kind == "device" else None,
            input_command=self.key.what if self.key.kind == "input_command" else None,
            sample_rate=self._rate,
            resample=self.key.resample,
            once=self.key.once,
            pcm_format=self.key.format,
            pcm_channels=self.key.channels,
            alsa_backend=self.key.alsa_backend,
            alsa_format=self.key.format,
        )

    def _choices(self) -> list[_Choice]:
        self._asked = _most(self.wanted)
        return self.wanted

    def want(self, wanted: list[_Choice]) -> None:
        """Who will listen from now on. A device that was opened for fewer channels is opened again."""
        self.wanted = wanted
        # Not what the device says: it is not in its place before it is read, and `_open` has looked by then.
        opened = self._opened
        if opened is not None and self._too_few(opened):
            opened.restart(f"{self.key.what}: is opened again, with more channels")

    def _too_few(self, opened: Any) -> bool:
        return self.key.kind == "device" and _most(self.wanted) > max(int(opened.channels), self._asked)


def _most(wanted: Iterable[_Choice]) -> int:
    """How many channels hold all choices."""
    return max((2 if mix else 1 + (channel or 0) for channel, mix in wanted), default=1)


class Inputs:
    """All sources of a service. It belongs to one thread."""

    def __init__(self) -> None:
        self._wanted: dict[SharedInput, list[_Choice]] = {}
        self._shared: dict[tuple[SharedInput, int], _Shared] = {}

    def plan(self, streams: Iterable[StreamSettings]) -> None:
        """Say which streams there will be, so that a device is opened at once with the channels of all."""
        self._wanted = wanted_channels(streams)
        self._forget()
        for (key, _), shared in self._shared.items():
            if key in self._wanted:
                shared.want(self._wanted[key])

    def source(self, stream: StreamSettings, rate: int) -> ServedSource:
        """The source of a stream at `rate` Hz; nothing is opened before its first `read`. Raises InputError."""
        key = shared_input(stream)
        if key is None:
            return _file_source(stream, rate)
        check_choice(stream)
        self._forget()
        shared = self._shared.get((key, rate))
        if shared is None:
            wanted = self._wanted.get(key, [(stream.channel, stream.mix)])
            shared = self._shared[key, rate] = _Shared(key, rate, stream, wanted)
        return shared.split.open(stream.channel, stream.mix)

    def _forget(self) -> None:
        """What has ended, or has nobody left, can be joined no more."""
        for key in [key for key, shared in self._shared.items() if shared.split.over]:
            # A card is free for the next one only when nobody is opening it any more.
            self._shared.pop(key).split.join(2.0)


def _file_source(stream: StreamSettings, rate: int) -> PatientSource:
    def open_it() -> Any:
        return open_source(
            input=stream.input,
            sample_rate=rate,
            channel=stream.channel,
            mix=stream.mix,
            resample=stream.resample,
            realtime=stream.realtime,
            loop=stream.loop,
            skip_bad=stream.skip_bad,
        )

    return PatientSource(open_it, name=describe_source(stream), sample_rate=rate, live=False, retry=False)
