"""Sound inputs: ALSA capture devices, files and folders, raw PCM from a pipe or a command."""

from __future__ import annotations

from edgeasd.runtime.sources.alsa import AlsaSource
from edgeasd.runtime.sources.base import (
    AudioChunk,
    Source,
    SourceEvent,
    SourceEventKind,
    SourceState,
    SourceStatus,
)
from edgeasd.runtime.sources.command import CommandSource, kill_commands
from edgeasd.runtime.sources.files import FileSource, PlaylistSource
from edgeasd.runtime.sources.open import SourceSettings, open_source, opener
from edgeasd.runtime.sources.pipe import PcmSource
from edgeasd.runtime.sources.reconnecting import ReconnectingSource
from edgeasd.runtime.sources.shared import SharedSources
from edgeasd.runtime.sources.splitter import ChannelSplitter, SplitChannel

__all__ = [
    "AlsaSource",
    "AudioChunk",
    "ChannelSplitter",
    "CommandSource",
    "FileSource",
    "PcmSource",
    "PlaylistSource",
    "ReconnectingSource",
    "SharedSources",
    "Source",
    "SourceEvent",
    "SourceEventKind",
    "SourceSettings",
    "SourceState",
    "SourceStatus",
    "SplitChannel",
    "kill_commands",
    "open_source",
    "opener",
]
