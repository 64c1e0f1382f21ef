"""Which streams share one input: a sound card is opened once, and a command run once, however many listen to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edgeasd.runtime.audio.reader import require_channel
from edgeasd.runtime.config.load import Problem
from edgeasd.runtime.config.settings import StreamSettings


class SharedInput(NamedTuple):
    """All that decides how an input is opened; streams that agree in it share it."""

    kind: str
    """device or input_command."""
    what: str
    resample: bool
    format: str
    """ALSA's, or that of a command's samples."""
    alsa_backend: str
    channels: int
    """Of a command."""
    once: bool
    pace: str


def shared_input(stream: StreamSettings) -> SharedInput | None:
    """What a stream shares with others; None for files, which anyone may open as often as they like."""
    pace = "drop" if stream.drops else "block"
    if stream.device is not None:
        how = (stream.resample, str(stream.alsa_format), str(stream.alsa_backend), 0, False, pace)
        return SharedInput("device", stream.device, *how)
    if stream.input_command is not None:
        return SharedInput(
            "input_command", stream.input_command, False, stream.format, "", stream.channels, stream.once, pace
        )
    return None


def check_choice(stream: StreamSettings) -> None:
    """Raise InputError for a channel that its command has not, or none of several."""
    if stream.input_command is not None:
        require_channel("input_command", stream.channels, stream.channel, stream.mix)


def sharing_problems(streams: Mapping[str, StreamSettings], rates: Mapping[str, int]) -> list[Problem]:
    """One for each stream that cannot share its input with the first one that has it.

    `rates` has the sample rate of the model of each stream, in Hz, where that is known.
    """
    first: dict[tuple[str, ...], str] = {}
    problems = []
    for name, stream in streams.items():
        mine = shared_input(stream)
        if mine is None:
            continue
        other = first.setdefault(_place(mine), name)
        if other == name:
            continue
        theirs = shared_input(streams[other])
        assert theirs is not None
        problem = (
            _difference(mine, theirs) or _choice(stream, streams[other]) or _rates(rates.get(name), rates.get(other))
        )
        if problem:
            problems.append(Problem(f"streams.{name}", f"shares {mine.what} with {other}, but {problem}"))
    return problems


def _difference(mine: SharedInput, theirs: SharedInput) -> str | None:
    for field in SharedInput._fields:
        one, two = getattr(mine, field), getattr(theirs, field)
        if one == two:
            continue
        if field == "what":
            return f"calls it otherwise than {two}, and a card is opened only once; write {two} in both"
        name = "alsa_format" if field == "format" and mine.kind == "device" else field
        return f"{name} is {_toml(one)} here and {_toml(two)} there; make it the same in both"
    return None


def _choice(mine: StreamSettings, theirs: StreamSettings) -> str | None:
    """A mono stream or a mean is another sound where a neighbour has the device opened with more channels."""
    if mine.device is None or (mine.channel, mine.mix) == (theirs.channel, theirs.mix):
        return None
    if mine.channel is not None and theirs.channel is not None:
        return None
    return "not both name a channel; give each its channel, counted from 0"


def _rates(mine: int | None, theirs: int | None) -> str | None:
    if mine is None or theirs is None or mine == theirs:
        return None
    return f"its bundle wants {mine} Hz and the other {theirs} Hz; use bundles of one rate"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, int) else f'"{value}"'


def _place(one: SharedInput) -> tuple[str, ...]:
    """Equal for what is the same card or command: hw:1, hw:1,0 and plughw:CARD=1 are one."""
    kind, _, rest = one.what.partition(":")
    if one.kind != "device" or kind not in ("hw", "plughw"):
        return (one.kind, one.what)
    given = {"CARD": "0", "DEV": "0", "SUBDEV": ""}
    for position, part in enumerate(rest.split(",")[:3]):
        name, equals, value = part.partition("=")
        given[name if equals else list(given)[position]] = value if equals else part
    return ("card", given["CARD"], given["DEV"])


def wanted_channels(streams: Iterable[StreamSettings]) -> dict[SharedInput, list[tuple[int | None, bool]]]:
    """For each input the choices (channel, mix) of all its streams."""
    found: dict[SharedInput, list[tuple[int | None, bool]]] = {}
    for stream in streams:
        key = shared_input(stream)
        if key is not None:
            found.setdefault(key, []).append((stream.channel, stream.mix))
    return found
