"""Opens any source from one set of settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeasd.runtime.audio.reader import require_channel
from edgeasd.runtime.errors import InputError, redact
from edgeasd.runtime.sources.alsa import AlsaSource, TooFewChannels
from edgeasd.runtime.sources.base import Source
from edgeasd.runtime.sources.command import CommandSource, RealtimeLimit, shown_command, split_command
from edgeasd.runtime.sources.files import FileSource, PlaylistSource, list_folder
from edgeasd.runtime.sources.pipe import PcmSource
from edgeasd.runtime.sources.reconnecting import ReconnectingSource

ChannelChoice = tuple[int | None, bool]
"""A channel counted from 0, or None; and whether the mean of all is taken."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What to listen to, and how. Exactly one of `device`, `input` and `input_command`."""

    device: str | None = None
    """ALSA capture device."""
    input: str | None = None
    """File, folder of files, or "-" for raw PCM on standard input."""
    input_command: str | None = None
    """Command that writes raw PCM to its standard output."""
    channel: int | None = None
    """Counted from 0."""
    mix: bool = False
    """Take the mean of all channels."""
    resample: bool = False
    """Files and devices only."""
    realtime: bool = False
    """Files only."""
    loop: bool = False
    """Files only."""
    skip_bad: bool = False
    """Folders and loops only."""
    once: bool = False
    """The command is a converter: not live, not restarted, and its exit code 0 is the end of the sound."""
    reopen: bool = True
    """Open a device that stopped, or a command that ended, again. See `ReconnectingSource`."""
    pcm_format: str = "s16le"
    """Standard input and commands only."""
    pcm_channels: int = 1
    """Standard input and commands only."""
    alsa_format: str = "auto"
    recorded_rate: int | None = None
    """Of the bundle, in Hz, if below its sample rate (`FeatureSettings.recorded_rate`): sound passes through it."""
    pace: Literal["block", "drop"] | None = None
    """When scoring is late: the source waits, or sound is lost. `drop` for live sources by default."""

    @property
    def is_live(self) -> bool:
        """Whether sound that is not read in time is lost."""
        return self.device is not None or (self.input_command is not None and not self.once)

    @property
    def drops_sound(self) -> bool:
        """Whether sound is lost when scoring is late; otherwise the source waits."""
        return self.is_live if self.pace is None else self.pace == "drop"

    @property
    def label(self) -> str:
        """The source as it is asked for, in few words and without passwords."""
        what = self.device or redact(self.input or f"command {shown_command(self.input_command or '')}")
        return what if self.channel is None else f"{what}, channel {self.channel}"


def open_source(settings: SourceSettings, sample_rate: int = 16000) -> Source:
    """Open a source of mono float32 at `sample_rate` Hz.

    Raises InputError for wrong use or bad input, DeviceError for a device that is not available.
    """
    check_source(settings)
    if settings.input == "-":
        return _open_standard_input(settings, sample_rate)
    if settings.input is not None:
        return _open_files(settings, settings.input, sample_rate)
    open_once = opener(settings, sample_rate)
    if not (settings.reopen and settings.is_live):
        return open_once()
    return ReconnectingSource(open_once, name=settings.label, sample_rate=sample_rate, live=True)


def opener(
    settings: SourceSettings, sample_rate: int, wanted: Callable[[], Sequence[ChannelChoice]] | None = None
) -> Callable[[], Source]:
    """A function that opens the device or command of `settings` once.

    With `wanted` it opens every channel, for a `ChannelSplitter`. `wanted` returns the channels that its streams
    take and is called at every opening: a device is opened with as many channels as they need, or without the
    highest ones if it does not have those.
    """
    device, command = settings.device, settings.input_command
    if device is not None and wanted is not None:
        return lambda: _open_device_channels(settings, sample_rate, wanted())
    if device is not None:
        return lambda: AlsaSource(
            device,
            sample_rate,
            channel=settings.channel,
            mix=settings.mix,
            format=settings.alsa_format,
            resample=settings.resample,
            recorded_rate=settings.recorded_rate,
        )
    if command is None:
        raise InputError("a device or a command is needed; give one")
    limit = RealtimeLimit()
    return lambda: CommandSource(
        command,
        sample_rate,
        settings.pcm_format,
        settings.pcm_channels,
        settings.channel if wanted is None else None,
        settings.mix and wanted is None,
        live=settings.is_live,
        every_channel=wanted is not None,
        limit=limit,
        recorded_rate=settings.recorded_rate,
    )


def _open_device_channels(settings: SourceSettings, sample_rate: int, choices: Sequence[ChannelChoice]) -> AlsaSource:
    """Open a device with the channels of the choice that needs most and that it has."""
    assert settings.device is not None
    refusal: TooFewChannels | None = None
    for channel, mix in sorted(set(choices), key=lambda choice: choice[0] or 0, reverse=True):
        try:
            return AlsaSource(
                settings.device,
                sample_rate,
                channel=channel,
                mix=mix,
                format=settings.alsa_format,
                resample=settings.resample,
                every_channel=True,
                recorded_rate=settings.recorded_rate,
            )
        except TooFewChannels as error:
            refusal = refusal or error
    raise refusal or InputError(f"{settings.device}: no stream takes a channel of it; open it for at least one")


def check_source(settings: SourceSettings) -> None:
    """Raise InputError for settings that do not go together."""
    if sum(one is not None for one in (settings.device, settings.input, settings.input_command)) != 1:
        raise InputError(
            "one source is needed: pass either --device (such as hw:1) or --input (FILE, FOLDER or -) "
            "or --input-command"
        )
    if settings.input is not None and settings.input != "-":
        _refuse(settings.input, "--once is for commands", settings.once)
        return
    label = settings.device or ("standard input" if settings.input else "--input-command")
    _refuse(label, "--realtime is for files, this comes at its own pace; leave it out", settings.realtime)
    _refuse(label, "--loop and --skip-bad are for files; leave them out", settings.loop or settings.skip_bad)
    _refuse(label, "--once is for commands; leave it out", settings.once and settings.input_command is None)
    if settings.device is None:
        _refuse(label, "--resample is for files and devices; resample before the pipe", settings.resample)
    if settings.input_command is not None:
        split_command(settings.input_command)


def check_choice(settings: SourceSettings) -> None:
    """Raise InputError for a channel that the command does not have, or none of several."""
    if settings.input_command is not None:
        require_channel("input_command", settings.pcm_channels, settings.channel, settings.mix)


def _refuse(label: str, why: str, is_asked: bool) -> None:
    if is_asked:
        raise InputError(f"{label}: {why}")


def _open_files(settings: SourceSettings, input: str, sample_rate: int) -> Source:
    channel, mix, resample = settings.channel, settings.mix, settings.resample
    is_folder = Path(input).is_dir() if "\0" not in input else False
    if not is_folder and not settings.loop:
        _refuse(input, "--skip-bad is for a folder; leave it out", settings.skip_bad)
        recorded = settings.recorded_rate
        return FileSource(input, sample_rate, channel, mix, resample, settings.realtime, recorded_rate=recorded)
    return PlaylistSource(
        list_folder(Path(input)) if is_folder else [Path(input)],
        sample_rate,
        channel,
        mix,
        resample,
        realtime=settings.realtime,
        loop=settings.loop,
        skip_bad=settings.skip_bad,
        label=input if is_folder else None,
        recorded_rate=settings.recorded_rate,
    )


def _open_standard_input(settings: SourceSettings, sample_rate: int) -> Source:
    if sys.stdin is None:
        raise InputError("standard input: is closed; pipe raw PCM into this command")
    if sys.stdin.isatty():
        raise InputError("standard input: is a terminal; pipe raw PCM into this command or name a file")
    return PcmSource(
        sys.stdin.buffer,
        sample_rate,
        settings.pcm_format,
        settings.pcm_channels,
        settings.channel,
        settings.mix,
        recorded_rate=settings.recorded_rate,
    )
