"""The evidence of events: a clip, the scores and a picture, tied together by the event ID."""

from __future__ import annotations

from edgeasd.runtime.evidence.archive import EvidenceStatus, evidence_files
from edgeasd.runtime.evidence.clip import Facts, read_facts
from edgeasd.runtime.evidence.recorder import Recorder
from edgeasd.runtime.evidence.settings import ClipSettings, KeepSettings
from edgeasd.runtime.evidence.writer import EvidenceWriter

__all__ = [
    "ClipSettings",
    "EvidenceStatus",
    "EvidenceWriter",
    "Facts",
    "KeepSettings",
    "Recorder",
    "evidence_files",
    "read_facts",
]
