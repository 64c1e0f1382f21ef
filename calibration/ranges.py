"""Ranges of activations over normal segments, by ONNX Runtime's calibrators, in bounded memory.

ONNX Runtime's histogram calibrators keep every activation of everything they are fed in one call, and
a later, louder segment makes their histograms grow without limit. So they are fed one batch at a time,
and twice: the min-max calibrator finds how far each tensor reaches, and histograms of that width and
a fixed number of bins are filled after that. Entropy and percentile are then computed by
ONNX Runtime from the same histograms. The order of the segments makes no difference.
Source: onnxruntime.quantization.calibrate.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgeasd.calibration.encoder_parts import prepare
from edgeasd.calibration.ort_calibrators import (
    BINS,
    histogram_calibrator,
    minmax_calibrator,
    seed_histograms,
    threshold,
)
from edgeasd.calibration.placement import calibrated_tensors
from edgeasd.calibration.range_state import RangeState
from edgeasd.calibration.reporting import Report, unreported
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.logmel import Float32Array

METHODS = ("minmax", "entropy", "percentile")
PERCENTILE = 99.999
BATCH = 4
"""Segments that run at once: with ResNet38 their activations take about 0.2 GB."""
_BATCHES_PER_SAVE = 8


class Segments(Protocol):
    """Log-mel segments (N, frames, n_mels) float32 that need not lie in memory: an array, a memory map, a reader."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Float32Array: ...


@dataclass(frozen=True)
class Collected:
    """What was seen of each tensor of a prepared encoder."""

    segments: int
    tensors: tuple[str, ...]
    lowest: npt.NDArray[np.float32]
    """(tensors,)"""
    highest: npt.NDArray[np.float32]
    """(tensors,)"""
    histograms: npt.NDArray[np.int64]
    """(tensors, BINS), each of even width from minus to plus the tensor's reach."""

    def ranges(
        self, method: str, percentile: float = PERCENTILE, report: Report = unreported
    ) -> dict[str, tuple[float, float]]:
        """Lowest and highest value to quantise, by tensor.

        "minmax": all that was seen. "percentile": the middle `percentile` per cent of the values.
        "entropy": the width that keeps most of the distribution's information in 128 steps. The last
        two never exceed the first. Entropy takes about half a second a tensor, so `report` is called with
        (done, total) tensors. Raises InputError for another method or percentile.
        """
        if method not in METHODS:
            raise InputError(f"range method {method}: unknown; use one of {', '.join(METHODS)}")
        if not 0 < percentile <= 100:
            raise InputError(f"percentile {percentile}: use one above 0 and up to 100")
        found = {}
        for index, tensor in enumerate(self.tensors):
            low, high = float(self.lowest[index]), float(self.highest[index])
            if method != "minmax" and low < high:
                seeded = seed_histograms([tensor], [low], [high], self.histograms[index : index + 1])
                low, high = threshold(method, seeded[tensor], percentile)
            found[tensor] = (low, high)
            report(index + 1, len(self.tensors))
        return found


def collect(
    encoder: onnx.ModelProto,
    segments: Segments,
    *,
    state: Path | None = None,
    report: Report = unreported,
) -> Collected:
    """Run `segments` through the float32 `encoder` twice and return what its activations were.

    `report` is called with (done, total) in segments, both passes counted. With `state`, a file, the work
    done so far is saved every 32 segments, whole or not at all, and a later call with the same encoder
    and segments goes on from there; a state of others is ignored. The caller deletes it. Memory does not
    depend on the number of segments. The same input gives the same result. Raises InputError without segments,
    CheckFailed where a segment or an activation is not finite.
    """
    if len(segments) == 0:
        raise InputError("ranges: no segments to collect them from; give normal clips")
    prepared = prepare(encoder)
    tensors = calibrated_tensors(prepared)
    work = RangeState.load_or_new(state, _fingerprint(prepared, segments), len(tensors), BINS)
    total = 2 * len(segments)
    with tempfile.TemporaryDirectory(prefix="edgeasd-ranges-") as folder:
        for pass_number, run in enumerate((_find_reach, _fill_histograms)):
            first = pass_number * len(segments)
            if work.done < first + len(segments):
                batches = _batches(segments, work, first, state, lambda: report(work.done, total))
                run(prepared, tensors, work, batches, Path(folder))
    return Collected(len(segments), tuple(tensors), work.lowest, work.highest, work.histograms)


def _find_reach(
    model: onnx.ModelProto, tensors: list[str], work: RangeState, batches: Iterable[Float32Array], folder: Path
) -> None:
    with _quiet():
        calibrator = minmax_calibrator(model, tensors, folder)
    for batch in batches:
        with _quiet():
            # Of this batch alone: what came before is in `work`, where it can be saved.
            calibrator.calibrate_tensors_range = None
            calibrator.collect_data(_Reader(calibrator, batch))
            seen = calibrator.compute_data().data
        pairs = np.array([[np.min(seen[t].lowest), np.max(seen[t].highest)] for t in tensors], np.float32)
        if not np.isfinite(pairs).all():
            worst = tensors[int(np.argmin(np.isfinite(pairs).all(axis=1)))]
            raise CheckFailed(f"ranges: {worst} is not finite on these clips; train the model again")
        work.lowest = np.minimum(work.lowest, pairs[:, 0])
        work.highest = np.maximum(work.highest, pairs[:, 1])


def _fill_histograms(
    model: onnx.ModelProto, tensors: list[str], work: RangeState, batches: Iterable[Float32Array], folder: Path
) -> None:
    with _quiet():
        calibrator = histogram_calibrator(model, tensors, folder)
    calibrator.collector.histogram_dict = seed_histograms(tensors, work.lowest, work.highest, work.histograms)
    for batch in batches:
        with _quiet():
            calibrator.collect_data(_Reader(calibrator, batch))
        found = calibrator.collector.histogram_dict
        work.histograms = np.stack([found[tensor][0] for tensor in tensors])


def _batches(
    segments: Segments, work: RangeState, offset: int, state: Path | None, told: Callable[[], None]
) -> Iterator[Float32Array]:
    """Batches (n, 1, frames, n_mels) from where `work` stands; counts, saves and tells after each."""
    starts = range(work.done - offset, len(segments), BATCH)
    for number, start in enumerate(starts, start=1):
        part = np.asarray(segments[start : min(start + BATCH, len(segments))], np.float32)
        # Checked here too: ONNX Runtime's ReLU and minimum make a number of what is none.
        if not np.isfinite(part).all():
            raise CheckFailed(
                f"ranges: a value of segments {start} to {start + len(part) - 1} is not finite; check the clips"
            )
        yield part[:, None]
        work.done += len(part)
        if state is not None and (number % _BATCHES_PER_SAVE == 0 or number == len(starts)):
            work.save(state)
        told()


class _Reader:
    """One batch, in the form ONNX Runtime's calibrators read."""

    def __init__(self, calibrator: Any, batch: Float32Array) -> None:
        self._next: dict[str, Float32Array] | None = {calibrator.infer_session.get_inputs()[0].name: batch}

    def get_next(self) -> dict[str, Float32Array] | None:
        given, self._next = self._next, None
        return given


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's calibrators print to standard output, which belongs to our results, and warn of what we refuse."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _fingerprint(model: onnx.ModelProto, segments: Segments) -> str:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(f"{onnxruntime.__version__} {np.__version__} {BINS} {BATCH} {len(segments)}".encode())
    for start in range(0, len(segments), 64):
        digest.update(np.ascontiguousarray(segments[start : start + 64], np.float32).tobytes())
    return digest.hexdigest()
