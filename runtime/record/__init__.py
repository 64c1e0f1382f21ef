"""Clips collected on site, in the layout that training reads."""

from __future__ import annotations

from edgeasd.runtime.health.clip import ClipFigures, measure
from edgeasd.runtime.record.clip_folder import ClipFolder
from edgeasd.runtime.record.session import ClipRecorder, RecordedClip

__all__ = ["ClipFigures", "ClipFolder", "ClipRecorder", "RecordedClip", "measure"]
