"""The ranges of activations on normal segments, by ONNX Runtime's calibrators, with a state to resume from.

Two passes: the first finds the lowest and highest value of each tensor, the second fills histograms of that reach.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgeasd.calibration.progress import ProgressCallback, no_progress
from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.placement import calibrated_tensors
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.system.files import write_bytes

BINS = 2048
"""Of a histogram, over both signs."""
_ENTROPY_STEPS = 128
_WIDER = 1.001
"""Histograms reach a little beyond what was seen, so that rounding never makes one grow."""
_LEAST_REACH = 1e-6
Histogram = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], np.float32, np.float32, np.float32]
"""Counts, edges, lowest, highest, reach: as HistogramCollector.histogram_dict holds it."""
METHODS = ("minmax", "entropy", "percentile")
PERCENTILE = 99.999
BATCH = 4
"""Segments that run at once: with ResNet38 their activations take about 0.2 GB."""
_BATCHES_PER_SAVE = 8


@dataclass
class RangeState:
    """Counts and arrays of `edgeasd.calibration.quantization.ranges.collect`, tensor by tensor."""

    fingerprint: str
    """Of the encoder, the segments and what else the result depends on."""
    done: int
    """Segments of both passes."""
    lowest: npt.NDArray[np.float32]
    highest: npt.NDArray[np.float32]
    histograms: npt.NDArray[np.int64]

    @classmethod
    def load_or_new(cls, path: Path | None, fingerprint: str, tensors: int, bins: int) -> RangeState:
        """The state in `path` if it is of the same work, else an empty one."""
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
    """None if the file is missing or damaged; the work then starts again."""
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


def minmax_calibrator(model: onnx.ModelProto, tensors: Sequence[str], folder: Path) -> Any:
    """ONNX Runtime's MinMaxCalibrater for `tensors` only, ready to collect; works in `folder`.

    The minima are taken inside the graph, so that no activation leaves it.
    """
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    return _ready(_only(MinMaxCalibrater, tensors)(_saved(model, folder), augmented_model_path=f"{folder}/minmax.onnx"))


def histogram_calibrator(model: onnx.ModelProto, tensors: Sequence[str], folder: Path) -> Any:
    """ONNX Runtime's HistogramCalibrater for `tensors` only, with its collector made; works in `folder`."""
    from onnxruntime.quantization.calibrate import HistogramCalibrater

    calibrator = _ready(
        _only(HistogramCalibrater, tensors)(
            _saved(model, folder), augmented_model_path=f"{folder}/histogram.onnx", method="entropy", num_bins=BINS
        )
    )
    calibrator.collector = _collector("entropy")
    return calibrator


def _only(base: Any, tensors: Sequence[str]) -> Any:
    """A subclass of a calibrator that looks at `tensors`; by itself it takes all inputs and outputs of a kind of node."""

    class Only(base):
        def select_tensors_to_calibrate(self, model: Any) -> tuple[list[str], dict[str, Any]]:
            _, infos = super().select_tensors_to_calibrate(model)
            return list(tensors), infos

        def create_inference_session(self) -> None:
            self.infer_session = make_session(Path(self.augmented_model_path), optimisation="none")

    return Only


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "encoder.onnx"
    if not path.exists():
        path.write_bytes(model.SerializeToString())
    return path


def _ready(calibrator: Any) -> Any:
    calibrator.augment_graph()
    # The weights are in the session now.
    calibrator.model = None
    calibrator.create_inference_session()
    return calibrator


def _collector(method: str, percentile: float = 99.999) -> Any:
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector(
        method=method,
        symmetric=False,
        num_bins=BINS,
        num_quantized_bins=_ENTROPY_STEPS,
        percentile=percentile,
        scenario="same",
    )


def seed_histograms(
    tensors: Sequence[str],
    lowest: Sequence[float] | npt.NDArray[np.float32],
    highest: Sequence[float] | npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
) -> dict[str, Histogram]:
    """A collector's histograms with known reach and counts so far: what is collected then never makes them grow."""
    found = {}
    for index, tensor in enumerate(tensors):
        low, high = np.float32(lowest[index]), np.float32(highest[index])
        reach = np.float32(max(abs(low), abs(high)) * _WIDER + _LEAST_REACH)
        edges = np.linspace(-reach, reach, BINS + 1, dtype=np.float32)
        found[tensor] = (counts[index], edges, low, high, reach)
    return found


def threshold(method: str, histogram: Histogram, percentile: float) -> tuple[float, float]:
    """Range of one tensor by ONNX Runtime's "entropy" or "percentile"."""
    collector = _collector(method, percentile)
    collector.histogram_dict = {"tensor": histogram}
    with contextlib.redirect_stdout(io.StringIO()):
        low, high = collector.compute_collection_result()["tensor"][:2]
    return float(low), float(high)


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
        self, method: str, percentile: float = PERCENTILE, report: ProgressCallback = no_progress
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
    report: ProgressCallback = no_progress,
) -> Collected:
    """Run `segments` through the float32 `encoder` twice and return what its activations were.

    `report` is called with (done, total) in segments, both passes counted. With `state`, a file, the work
    done so far is saved every 32 segments, whole or not at all, and a later call with the same encoder
    and segments goes on from there; a state of others is ignored. The caller deletes it. Memory does not
    depend on the number of segments. The same input gives the same result. Raises InputError without segments,
    CheckFailed if a segment or an activation is not finite.
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
    segments: Segments, work: RangeState, offset: int, state: Path | None, on_batch: Callable[[], None]
) -> Iterator[Float32Array]:
    """Batches (n, 1, frames, n_mels) from where `work` stands; counts, saves and reports after each."""
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
        on_batch()


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
