"""The embeddings that a bank was fitted on, kept so that it can grow without training and without the old clips."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeasd.calibration.fit.bank import (
    Bank,
    BankPlan,
    Float32Array,
    Float64Array,
    fit_banks,
    k_centres,
)
from edgeasd.runtime.errors import InputError

NORMALS = "normals.npz"
"""Name of the file, in a run folder and in a bundle."""
MOST_SEGMENTS = 4096
"""Of the normals that a bank is fitted on. Four banks full; more would make a bundle large and a fit slow."""
MOST_LIVE = 4096
"""Live segments of the held-out normals: most of an hour, from which the tail of the threshold is found."""
MOST_OUTLIERS = 1024
"""Segments of outliers: d_max is a percentile of theirs, which as many settle."""
_GROUPS = ("stored", "held_out", "outliers")
_Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddedClips:
    """Embeddings of some segments of some clips."""

    z: Float32Array
    """(N, D)."""
    clips: _Int64Array
    """(N,): the clip of each segment, as an index of `contents`."""
    contents: tuple[str, ...]
    """SHA-256 of the clips."""

    def by_clip(self, values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Values (N,) of the segments as one array for each clip that has any."""
        return [values[self.clips == index] for index in range(len(self.contents)) if (self.clips == index).any()]

    def chosen(self, rows: npt.NDArray[Any]) -> EmbeddedClips:
        """These segments only; a clip without any keeps its place, so that it is known again."""
        return replace(self, z=self.z[rows], clips=self.clips[rows])

    def with_more(self, more: EmbeddedClips) -> EmbeddedClips:
        """These clips and, after them, `more`."""
        return EmbeddedClips(
            np.concatenate([self.z, more.z]),
            np.concatenate([self.clips, more.clips + len(self.contents)]),
            (*self.contents, *more.contents),
        )


def embedded_clips(parts: Sequence[Float32Array], contents: Sequence[str], size: int) -> EmbeddedClips:
    """Of the embeddings of each clip, (segments, D), and the contents of the clips; `size` is D."""
    z = np.concatenate([np.empty((0, size), np.float32), *parts]).astype(np.float32)
    clips = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int64)
    return EmbeddedClips(z, clips, tuple(contents))


@dataclass(frozen=True)
class StoredNormals:
    """What banks are fitted on and judged by."""

    plans: tuple[BankPlan, ...]
    size: int
    """Stored normals of each bank, at most."""
    neighbours: int
    sections: int
    """Segments of each clip that are stored."""
    stored: EmbeddedClips
    """The banks are fitted on these."""
    held_out: EmbeddedClips
    """Normals that no bank holds, by the clip rule: constants and threshold are found with them."""
    outliers: EmbeddedClips
    """Other machines, by the clip rule; none where none were at hand."""
    live: Float32Array
    """(L, D): the live segments of the held-out normals one after another; the threshold is found with them."""

    def fit(self) -> tuple[tuple[Bank, ...], Float64Array]:
        """As `fit_banks` of the stored normals. Raises InputError for too few clips, copies, values not finite."""
        return fit_banks(self.stored.z, self.stored.clips, self.plans, size=self.size, neighbours=self.neighbours)

    def bounded(self) -> StoredNormals:
        """With at most MOST_SEGMENTS stored, by k-centre, and MOST_OUTLIERS outliers, evenly."""
        stored, outliers = self.stored, self.outliers
        if len(stored.z) > MOST_SEGMENTS:
            scaled = stored.z / np.maximum(stored.z.std(axis=0), 1e-6)
            stored = stored.chosen(k_centres(scaled, MOST_SEGMENTS))
        if len(outliers.z) > MOST_OUTLIERS:
            outliers = outliers.chosen(np.linspace(0, len(outliers.z) - 1, MOST_OUTLIERS).round().astype(np.int64))
        return replace(self, stored=stored, outliers=outliers, live=self.live[-MOST_LIVE:])

    def to_bytes(self) -> bytes:
        """As npz without objects and without a date: the same normals give the same bytes."""
        plans = [_plan_text(plan) for plan in self.plans]
        arrays: dict[str, npt.NDArray[Any]] = {
            "plans": np.array(plans),
            "settings": np.array([self.size, self.neighbours, self.sections]),
            "live": self.live,
        }
        for name in _GROUPS:
            group: EmbeddedClips = getattr(self, name)
            arrays |= {f"{name}.z": group.z, f"{name}.clips": group.clips}
            arrays[f"{name}.contents"] = np.array(group.contents, dtype="<U64")
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> StoredNormals:
        """The inverse. Raises InputError, naming `place`, for anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                plans = tuple(_plan(str(text)) for text in file["plans"])
                size, neighbours, sections = (int(value) for value in file["settings"])
                stored, held_out, outliers = (_group(file, name) for name in _GROUPS)
                live = file["live"]
                if live.dtype != np.float32 or live.ndim != 2 or not np.isfinite(live).all():
                    raise ValueError("live holds what no normals hold")
        except Exception as error:  # of numpy, zipfile or zlib: whatever a damaged file makes of them
            raise InputError(f"{place}: no stored normals ({type(error).__name__}: {error}); export again") from None
        return cls(plans, size, neighbours, sections, stored, held_out, outliers, live)


def _plan_text(plan: BankPlan) -> str:
    first, last = plan.level or (0, 0)
    return f"{plan.columns[0]} {plan.columns[1]} {plan.map} {plan.weight!r} {first} {last} {plan.name}"


def _plan(text: str) -> BankPlan:
    first, last, kind, weight, low, high, name = text.split(" ", 6)
    level = (int(low), int(high)) if int(high) else None
    return BankPlan(name, (int(first), int(last)), kind, float(weight), level)


def _group(file: Any, name: str) -> EmbeddedClips:
    z, clips, contents = (file[f"{name}.{part}"] for part in ("z", "clips", "contents"))
    whole = z.ndim == 2 and z.dtype == np.float32 and clips.shape == (len(z),) and np.isfinite(z).all()
    if not (whole and (len(z) == 0 or (clips.min() >= 0 and clips.max() < len(contents)))):
        raise ValueError(f"{name} holds what no normals hold")
    return EmbeddedClips(z, clips.astype(np.int64), tuple(str(one) for one in contents))


def section_starts(frames: int, length: int, count: int) -> list[int]:
    """First frames of `count` segments spread over a clip, both ends included; fewer where they would coincide."""
    last = max(0, frames - length)
    return sorted({round(last * i / max(1, count - 1)) for i in range(count)})
