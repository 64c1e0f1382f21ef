"""One door to every source: which one is asked for, and which options it has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources.alsa import AlsaChannels, AlsaSource, TooFewChannels
from edgeasd.runtime.sources.base import MultiSource, Source
from edgeasd.runtime.sources.command import Ahead, CommandSource, split_command
from edgeasd.runtime.sources.files import FileSource
from edgeasd.runtime.sources.pcm import PcmSource
from edgeasd.runtime.sources.playlist import PlaylistSource, list_folder
from edgeasd.runtime.sources.reopening import Reopening


def open_source(
    *,
    device: str | None = None,
    input: str | None = None,
    input_command: str | None = None,
    sample_rate: int = 16000,
    channel: int | None = None,
    mix: bool = False,
    resample: bool = False,
    realtime: bool = False,
    loop: bool = False,
    skip_bad: bool = False,
    once: bool = False,
    reopen: bool = False,
    pcm_format: str = "s16le",
    pcm_channels: int = 1,
    alsa_backend: str = "auto",
    alsa_format: str = "auto",
) -> Source:
    """Open exactly one of an ALSA `device`, an `input` (file, folder, or "-" for standard input) and an `input_command`.

    Every source yields mono float32 at `sample_rate` Hz. Channels are counted from 0. `resample` is for files and
    devices; `realtime`, `loop` and `skip_bad` for files; `pcm_format` and `pcm_channels` for standard input and
    commands. `reopen` brings back a device that stopped, and a command that ended, whatever its exit code; see
    `Reopening`. `once` says that a command is a converter: it is not live, is not restarted, and ends with code 0.
    Raises InputError for wrong use or bad input, DeviceError for a device that is not available.
    """
    if sum(given is not None for given in (device, input, input_command)) != 1:
        raise InputError(
            "one source is needed: pass either --device (such as hw:1) or --input (FILE, FOLDER or -) "
            "or --input-command"
        )
    if input is not None and input != "-":
        _refuse(input, "--once is for commands", once)
        return _open_files(input, sample_rate, channel, mix, resample, realtime, loop, skip_bad)
    label = device or ("standard input" if input else "--input-command")
    own_pace = "--realtime is for files, this comes at its own pace; leave it out"
    _refuse(label, own_pace, realtime)
    _refuse(label, "--loop and --skip-bad are for files; leave them out", loop or skip_bad)
    _refuse(label, "--once is for commands; leave it out", once and input_command is None)
    if device is not None:

        def open_device() -> AlsaSource:
            return AlsaSource(
                device,
                sample_rate,
                channel=channel,
                mix=mix,
                backend=alsa_backend,
                format=alsa_format,
                resample=resample,
            )

        return Reopening(open_device) if reopen else open_device()
    _refuse(label, "--resample is for files and devices; resample before the pipe", resample)
    if input_command is None:
        return _open_standard_input(sample_rate, pcm_format, pcm_channels, channel, mix)
    split_command(input_command)
    live, ahead = not once, Ahead()

    def open_command() -> CommandSource:
        given = (input_command, sample_rate, pcm_format, pcm_channels, channel, mix)
        return CommandSource(*given, live=live, ahead=ahead)

    return Reopening(open_command) if reopen and live else open_command()


def open_channels(
    *,
    wanted: Callable[[], Sequence[tuple[int | None, bool]]],
    device: str | None = None,
    input_command: str | None = None,
    sample_rate: int = 16000,
    resample: bool = False,
    once: bool = False,
    pcm_format: str = "s16le",
    pcm_channels: int = 1,
    alsa_backend: str = "auto",
    alsa_format: str = "auto",
) -> MultiSource:
    """All channels of a device or of a command, for a `ChannelSplit`; brought back where it is live, see `Reopening`.

    `wanted` gives the choices (channel, mix) of those who will share it, and is asked at every opening: a device is
    opened with as many channels as they need. Where it has not the highest, those below it decide. The rest is as
    of `open_source`.
    """
    if device is not None:

        def open_device() -> MultiSource:
            first: TooFewChannels | None = None
            for channel, mix in sorted(set(wanted()), key=lambda one: one[0] or 0, reverse=True):
                how = {"format": alsa_format, "resample": resample}
                try:
                    return AlsaChannels(device, sample_rate, channel, mix, alsa_backend, **how)  # type: ignore[arg-type]
                except TooFewChannels as error:
                    first = first or error
            raise first or InputError(f"{device}: nobody listens to it; open it for at least one channel")

        return Reopening(open_device)
    if input_command is None:
        raise InputError("a device or a command is needed; give one")

    ahead = Ahead()

    def open_command() -> MultiSource:
        given = (input_command, sample_rate, pcm_format, pcm_channels)
        return CommandSource(*given, live=not once, every_channel=True, ahead=ahead)

    return open_command() if once else Reopening(open_command)


def _refuse(label: str, why: str, asked: bool) -> None:
    if asked:
        raise InputError(f"{label}: {why}")


def _open_files(
    input: str,
    sample_rate: int,
    channel: int | None,
    mix: bool,
    resample: bool,
    realtime: bool,
    loop: bool,
    skip_bad: bool,
) -> Source:
    folder = Path(input).is_dir() if "\0" not in input else False
    if not folder and not loop:
        _refuse(input, "--skip-bad is for a folder; leave it out", skip_bad)
        return FileSource(input, sample_rate, channel, mix, resample, realtime)
    paths = list_folder(Path(input)) if folder else [Path(input)]
    how = {"realtime": realtime, "loop": loop, "skip_bad": skip_bad}
    return PlaylistSource(paths, sample_rate, channel, mix, resample, label=input if folder else None, **how)


def _open_standard_input(sample_rate: int, format: str, channels: int, channel: int | None, mix: bool) -> Source:
    if sys.stdin is None:
        raise InputError("standard input: is closed; pipe raw PCM into this command")
    if sys.stdin.isatty():
        raise InputError("standard input: is a terminal; pipe raw PCM into this command or name a file")
    return PcmSource(sys.stdin.buffer, sample_rate, format, channels, channel, mix)
