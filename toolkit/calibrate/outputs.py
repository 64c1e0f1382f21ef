"""Outputs of the fp32 encoder and the head for the clips, cached on disk so that no segment runs twice."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import clip_starts, live_starts
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.system.files import write_bytes
from edgeasd.toolkit.calibrate.clips import CalibrationClip, ClipSet
from edgeasd.toolkit.progress import ProgressCallback

_BATCH = 10
_LIVE_PART = 500
"""Live segments of one file: what an interrupted run loses at most."""


class Fp32Outputs:
    """Outputs of fp32 for the clips of one set, by the clip rule and by the live rule.

    `folder` caches them by content, encoder and amplitude; a damaged file is computed again.
    """

    def __init__(self, scorer: Scorer, encoder_sha256: str, clip_set: ClipSet, folder: Path) -> None:
        self._scorer = scorer
        self._clip_set = clip_set
        self._joined: tuple[tuple[CalibrationClip, ...], Float32Array] | None = None
        amplitude, settings = clip_set.amplitude, scorer.features.fingerprint()
        facts = [encoder_sha256, settings, amplitude.mean.hex(), amplitude.std.hex(), scorer.segments.model_dump_json()]
        self._folder = folder / f"fp32-{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:16]}"

    def by_clip(self, clips: Sequence[CalibrationClip], report: ProgressCallback) -> list[SegmentOutputs]:
        """q and d of the sections of each clip."""
        found = []
        for done, clip in enumerate(clips, start=1):
            found.append(self._cached(f"{clip.sha256}.npz", [clip], clip_starts(clip.frames, self._scorer.segments)))
            report(done, len(clips))
        return found

    def live(self, recordings: Sequence[Sequence[CalibrationClip]], report: ProgressCallback) -> list[SegmentOutputs]:
        """q and d of every live segment of each recording, as a device that starts with it scores it.

        A recording of several clips is scored as if they were one, their frames joined.
        """
        frames = [sum(clip.frames for clip in clips) for clips in recordings]
        starts = [live_starts(count, self._scorer.segments) for count in frames]
        total, done, found = sum(map(len, starts)), 0, []
        for clips, of_recording in zip(recordings, starts, strict=True):
            name = clips[0].sha256
            if len(clips) > 1:
                name = hashlib.sha256("|".join(clip.sha256 for clip in clips).encode()).hexdigest()
            parts = []
            for number, at in enumerate(range(0, len(of_recording), _LIVE_PART)):
                part = of_recording[at : at + _LIVE_PART]
                parts.append(self._cached(f"{name}-live{number:05d}.npz", clips, part))
                done += len(part)
                report(done, total)
            found.append(SegmentOutputs(np.concatenate([p.q for p in parts]), np.concatenate([p.d for p in parts])))
        return found

    def _cached(self, name: str, clips: Sequence[CalibrationClip], starts: Sequence[int]) -> SegmentOutputs:
        path = self._folder / name
        known = _read(path, len(starts))
        if known is not None:
            return known
        made = run_segments(self._scorer, self._features(clips), starts)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, q=made.q, d=made.d)
        write_bytes(path, buffer.getvalue())
        return made

    def _features(self, clips: Sequence[CalibrationClip]) -> Float32Array:
        if len(clips) == 1:
            return self._clip_set.features(clips[0])
        if self._joined is None or self._joined[0] != tuple(clips):
            self._joined = (tuple(clips), np.concatenate([self._clip_set.features(clip) for clip in clips]))
        return self._joined[1]


def run_segments(scorer: Scorer, features: Float32Array, starts: Sequence[int]) -> SegmentOutputs:
    """q and d of the segments of `features` (T, n_mels) that begin at `starts`, a few at a time."""
    length, q, d = scorer.segments.frames, [], []
    for at in range(0, len(starts), _BATCH):
        windows = np.stack([features[start : start + length] for start in starts[at : at + _BATCH]])
        scores = scorer.score_segments(windows)
        q.append(scores.q)
        d.append(scores.d)
    return SegmentOutputs(np.concatenate(q), np.concatenate(d))


def _read(path: Path, count: int) -> SegmentOutputs | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = SegmentOutputs(np.asarray(arrays["q"], np.float32), np.asarray(arrays["d"], np.float32))
    except Exception:
        # Damaged npz makes numpy, zipfile, zlib and tokenize raise; they share no base.
        return None
    return found if found.q.shape == found.d.shape == (count,) else None
