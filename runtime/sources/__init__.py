"""Sound inputs by name: files, raw PCM on standard input, ALSA capture devices."""

from __future__ import annotations

import sys

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources.alsa import AlsaSource
from edgeasd.runtime.sources.base import Source
from edgeasd.runtime.sources.files import FileSource
from edgeasd.runtime.sources.pcm import PcmSource

__all__ = ["AlsaSource", "FileSource", "PcmSource", "Source", "open_source"]


def _open_standard_input(sample_rate: int, format: str, channels: int, channel: int | None, mix: bool) -> Source:
    if sys.stdin is None:
        raise InputError("standard input: is closed; pipe raw PCM into this command")
    if sys.stdin.isatty():
        raise InputError("standard input: is a terminal; pipe raw PCM into this command or name a file")
    return PcmSource(sys.stdin.buffer, sample_rate, format, channels, channel, mix)


def open_source(
    *,
    device: str | None = None,
    input: str | None = None,
    sample_rate: int = 16000,
    channel: int | None = None,
    mix: bool = False,
    resample: bool = False,
    realtime: bool = False,
    pcm_format: str = "s16le",
    pcm_channels: int = 1,
    alsa_backend: str = "auto",
) -> Source:
    """Open exactly one of an ALSA `device` and an `input`: a file's path, or "-" for standard input.

    Every source yields mono float32 at `sample_rate` Hz. Channels are counted from 0. `resample` and
    `realtime` are for files; `pcm_format` and `pcm_channels` for standard input.
    Raises InputError for wrong use or bad input, DeviceError for a device that is not available.
    """
    if (device is None) == (input is None):
        raise InputError("one source is needed: pass either --device (such as hw:1) or --input (FILE or -)")
    if device is not None or input == "-":
        label = device if device is not None else "standard input"
        if resample:
            remedy = "use a plughw: device, which converts" if device is not None else "resample before the pipe"
            raise InputError(f"{label}: --resample is for files; {remedy}")
        if realtime:
            raise InputError(f"{label}: --realtime is for files, this comes at its own pace; leave it out")
    if device is not None:
        return AlsaSource(device, sample_rate, channel=channel, mix=mix, backend=alsa_backend)
    if input == "-":
        return _open_standard_input(sample_rate, pcm_format, pcm_channels, channel, mix)
    return FileSource(str(input), sample_rate, channel, mix, resample, realtime)
