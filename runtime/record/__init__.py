"""Clips collected on site, in the layout that training reads."""

from __future__ import annotations

from edgeasd.runtime.record.clip_folder import ClipFigures, ClipFolder, measure
from edgeasd.runtime.record.session import Recorder

__all__ = ["ClipFigures", "ClipFolder", "Recorder", "measure"]
