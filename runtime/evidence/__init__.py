"""The evidence of events: clip, scores and metadata in a folder named by the event ID."""

from __future__ import annotations

from edgeasd.runtime.evidence.archive import EvidenceStatus, evidence_files
from edgeasd.runtime.evidence.clip import ClipMetadata, read_metadata
from edgeasd.runtime.evidence.recorder import EvidenceRecorder
from edgeasd.runtime.evidence.settings import ClipSettings, KeepSettings
from edgeasd.runtime.evidence.writer import EvidenceWriter

__all__ = [
    "ClipMetadata",
    "ClipSettings",
    "EvidenceRecorder",
    "EvidenceStatus",
    "EvidenceWriter",
    "KeepSettings",
    "evidence_files",
    "read_metadata",
]
