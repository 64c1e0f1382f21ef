"""Clips collected on site, in the layout that training reads."""

from __future__ import annotations

from edgeasd.runtime.recording.check import ClipFigures, measure
from edgeasd.runtime.recording.folder import ClipFolder
from edgeasd.runtime.recording.recorder import Recorder

__all__ = ["ClipFigures", "ClipFolder", "Recorder", "measure"]
