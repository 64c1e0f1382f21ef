"""Sources shared among streams: a sound card is opened once, and a command run once, for all who take its channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edgeasd.runtime.sources.base import Source
from edgeasd.runtime.sources.command import shown_command
from edgeasd.runtime.sources.open import (
    ChannelChoice,
    SourceSettings,
    check_choice,
    check_source,
    open_source,
    opener,
)
from edgeasd.runtime.sources.reconnecting import ReconnectingSource
from edgeasd.runtime.sources.splitter import ChannelSplitter


class SharedInput(NamedTuple):
    """The settings that decide how a device or command is opened. Streams that agree in them share it."""

    kind: str
    """device or input_command."""
    what: str
    resample: bool
    format: str
    """ALSA's, or that of a command's samples."""
    channels: int
    """Of a command."""
    once: bool
    pace: str
    reopen: bool


def shared_input(settings: SourceSettings) -> SharedInput | None:
    """What a stream shares with others; None for files and standard input, which are not shared."""
    rest = (settings.once, "drop" if settings.drops_sound else "block", settings.reopen)
    if settings.device is not None:
        return SharedInput("device", settings.device, settings.resample, settings.alsa_format, 0, *rest)
    if settings.input_command is not None:
        command, channels = settings.input_command, settings.pcm_channels
        return SharedInput("input_command", command, False, settings.pcm_format, channels, *rest)
    return None


class SharedSources:
    """The sources of all streams of a service. Not thread-safe: one thread opens them.

    With `wait_for_first_open` nothing is opened before the first `read` of a stream, and a live source that is not
    there yet is tried until it is. Without it, `open` raises what opening raises.
    """

    def __init__(self, *, wait_for_first_open: bool = True) -> None:
        self._waits = wait_for_first_open
        self._choices: dict[SharedInput, list[ChannelChoice]] = {}
        self._shared: dict[tuple[SharedInput, int, int | None], _SharedSource] = {}

    def plan(self, streams: Iterable[SourceSettings]) -> None:
        """Announce all streams, so that a device is opened at once with the channels of all."""
        self._choices = {}
        for settings in streams:
            if (key := shared_input(settings)) is not None:
                self._choices.setdefault(key, []).append((settings.channel, settings.mix))
        self._remove_ended()
        for (key, *_), shared in self._shared.items():
            if key in self._choices:
                shared.set_choices(self._choices[key])

    def open(self, settings: SourceSettings, sample_rate: int) -> Source:
        """The source of one stream at `sample_rate` Hz. Raises InputError for settings that do not go together."""
        check_source(settings)
        key = shared_input(settings)
        if key is None:
            return self._open_unshared(settings, sample_rate)
        check_choice(settings)
        self._remove_ended()
        place = (key, sample_rate, settings.recorded_rate)
        shared = self._shared.get(place)
        if shared is None:
            choices = self._choices.get(key, [(settings.channel, settings.mix)])
            shared = _SharedSource(settings, sample_rate, choices, self._waits)
            self._shared[place] = shared
        return shared.splitter.open(settings.channel, settings.mix)

    def _open_unshared(self, settings: SourceSettings, sample_rate: int) -> Source:
        if not self._waits:
            return open_source(settings, sample_rate)
        return ReconnectingSource(
            lambda: open_source(settings, sample_rate),
            name=settings.label,
            sample_rate=sample_rate,
            live=False,
            wait_for_first_open=True,
            retry=False,
        )

    def _remove_ended(self) -> None:
        for key in [key for key, shared in self._shared.items() if shared.splitter.is_over]:
            # The card is free for the next stream only when no thread is opening it any more.
            self._shared.pop(key).splitter.join(2.0)


class _SharedSource:
    """One device or command, and the number of channels that it was last opened for."""

    def __init__(
        self, settings: SourceSettings, sample_rate: int, choices: list[ChannelChoice], waits_for_first_open: bool
    ) -> None:
        self._what = settings.device or f"command {shown_command(settings.input_command or '')}"
        self._is_device, self._choices = settings.device is not None, choices
        self._asked_channels = 0
        self._opened: Source | None = None
        self._open_once = opener(settings, sample_rate, self._current_choices)
        self._source = ReconnectingSource(
            self._open,
            name=self._what,
            sample_rate=sample_rate,
            live=settings.is_live,
            wait_for_first_open=waits_for_first_open,
            retry=settings.is_live and settings.reopen,
        )
        self.splitter = ChannelSplitter(self._source, waits=not settings.drops_sound)

    def _current_choices(self) -> list[ChannelChoice]:
        self._asked_channels = _needed_channels(self._choices)
        return self._choices

    def _open(self) -> Source:
        """Open with the channels of all choices, including those added while it was being opened."""
        while True:
            self._opened = opened = self._open_once()
            if not self._has_too_few(opened):
                return opened
            opened.close()

    def set_choices(self, choices: list[ChannelChoice]) -> None:
        """Change the channels to be taken. A device that was opened for fewer is opened again."""
        self._choices = choices
        opened = self._opened
        if opened is not None and self._has_too_few(opened):
            self._source.restart(f"{self._what}: is opened again, with more channels")

    def _has_too_few(self, opened: Source) -> bool:
        available = max(opened.status.channels, self._asked_channels)
        return self._is_device and _needed_channels(self._choices) > available


def _needed_channels(choices: Iterable[ChannelChoice]) -> int:
    return max((2 if mix else 1 + (channel or 0) for channel, mix in choices), default=1)


def sharing_problems(streams: Mapping[str, SourceSettings], sample_rates: Mapping[str, int]) -> list[tuple[str, str]]:
    """(name, problem) of each stream that cannot share its input with the first stream that has it.

    `sample_rates` has the rate of the model of each stream, in Hz, if known.
    """
    first: dict[tuple[str, ...], str] = {}
    problems = []
    for name, settings in streams.items():
        key = shared_input(settings)
        if key is None:
            continue
        other = first.setdefault(_identity(key), name)
        other_key = shared_input(streams[other])
        if other == name or other_key is None:
            continue
        problem = (
            _difference(key, other_key)
            or _channel_conflict(settings, streams[other])
            or _rate_conflict(sample_rates.get(name), sample_rates.get(other))
            or _recorded_conflict(settings.recorded_rate, streams[other].recorded_rate)
        )
        if problem:
            problems.append((name, f"shares {key.what} with {other}, but {problem}"))
    return problems


def _difference(key: SharedInput, other: SharedInput) -> str | None:
    for field, value, other_value in zip(SharedInput._fields, key, other, strict=True):
        if value == other_value:
            continue
        if field == "what":
            return f"calls it otherwise than {other_value}, and a card is opened only once; write {other_value} in both"
        name = "alsa_format" if field == "format" and key.kind == "device" else field
        return f"{name} is {_toml(value)} here and {_toml(other_value)} there; make it the same in both"
    return None


def _channel_conflict(settings: SourceSettings, other: SourceSettings) -> str | None:
    """A mono stream or a mean changes if the device is opened with more channels for another stream."""
    if settings.device is None or (settings.channel, settings.mix) == (other.channel, other.mix):
        return None
    if settings.channel is not None and other.channel is not None:
        return None
    return "not both name a channel; give each its channel, counted from 0"


def _rate_conflict(rate: int | None, other: int | None) -> str | None:
    if rate is None or other is None or rate == other:
        return None
    return f"its bundle wants {rate} Hz and the other {other} Hz; use bundles of one rate"


def _recorded_conflict(rate: int | None, other: int | None) -> str | None:
    if rate == other:
        return None
    here, there = (f"recordings of {one} Hz" if one else "recordings of its own rate" for one in (rate, other))
    return f"its bundle was trained with {here} and the other with {there}; use bundles trained alike"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, int) else f'"{value}"'


def _identity(key: SharedInput) -> tuple[str, ...]:
    """Equal for the same card or command: hw:1, hw:1,0 and plughw:CARD=1 are one card."""
    kind, _, rest = key.what.partition(":")
    if key.kind != "device" or kind not in ("hw", "plughw"):
        return (key.kind, key.what)
    parts = {"CARD": "0", "DEV": "0", "SUBDEV": ""}
    for position, part in enumerate(rest.split(",")[:3]):
        name, equals, value = part.partition("=")
        parts[name if equals else list(parts)[position]] = value if equals else part
    return ("card", parts["CARD"], parts["DEV"])
