"""Sound inputs by name: ALSA capture devices, files and folders, raw PCM from a pipe or a command."""

from __future__ import annotations

from edgeasd.runtime.sources.alsa import AlsaChannels, AlsaSource
from edgeasd.runtime.sources.alsa_device import AlsaDevice
from edgeasd.runtime.sources.base import MultiSource, Source, SourceEvent
from edgeasd.runtime.sources.command import CommandSource, kill_commands
from edgeasd.runtime.sources.files import FileSource
from edgeasd.runtime.sources.opening import open_channels, open_source
from edgeasd.runtime.sources.pcm import PcmSource
from edgeasd.runtime.sources.playlist import PlaylistSource
from edgeasd.runtime.sources.reopening import Reopening
from edgeasd.runtime.sources.split import ChannelSource, ChannelSplit

__all__ = [
    "AlsaChannels",
    "AlsaDevice",
    "AlsaSource",
    "ChannelSource",
    "ChannelSplit",
    "CommandSource",
    "FileSource",
    "MultiSource",
    "PcmSource",
    "PlaylistSource",
    "Reopening",
    "Source",
    "SourceEvent",
    "kill_commands",
    "open_channels",
    "open_source",
]
