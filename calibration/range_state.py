"""The work of collecting ranges so far, as a file from which an interrupted run goes on."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.atomic import write_bytes


@dataclass
class RangeState:
    """Counts and arrays of `edgeasd.calibration.ranges.collect`, tensor by tensor."""

    fingerprint: str
    """Of the encoder, the segments and what else the result depends on."""
    done: int
    """Segments of both passes."""
    lowest: npt.NDArray[np.float32]
    highest: npt.NDArray[np.float32]
    histograms: npt.NDArray[np.int64]

    @classmethod
    def load_or_new(cls, path: Path | None, fingerprint: str, tensors: int, bins: int) -> RangeState:
        """What `path` holds where it is of the same work, else an empty state."""
        found = None if path is None else _read(path)
        if found is not None and found.fingerprint == fingerprint:
            shapes = (found.lowest.shape, found.highest.shape, found.histograms.shape)
            if shapes == ((tensors,), (tensors,), (tensors, bins)):
                return found
        return cls(
            fingerprint,
            0,
            np.full(tensors, np.inf, np.float32),
            np.full(tensors, -np.inf, np.float32),
            np.zeros((tensors, bins), np.int64),
        )

    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all; npz without pickled objects."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            fingerprint=np.array(self.fingerprint),
            done=np.array(self.done),
            lowest=self.lowest,
            highest=self.highest,
            histograms=self.histograms,
        )
        write_bytes(path, buffer.getvalue())


def _read(path: Path) -> RangeState | None:
    """None for a file that is not there or is no state: then the work starts over, and nothing is lost but time."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return RangeState(
                str(arrays["fingerprint"]),
                int(arrays["done"]),
                np.asarray(arrays["lowest"], np.float32),
                np.asarray(arrays["highest"], np.float32),
                np.asarray(arrays["histograms"], np.int64),
            )
    except Exception:
        # Damaged npz makes numpy, zipfile, zlib and tokenize raise; they share no base.
        return None
