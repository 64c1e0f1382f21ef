"""ONNX Runtime's calibrators, held to the tensors we ask for and to histograms of a fixed size.

Source: onnxruntime.quantization.calibrate (its MinMaxCalibrater, HistogramCalibrater, HistogramCollector).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeasd.runtime.engines.onnxruntime import make_session

BINS = 2048
"""Of a histogram, over both signs."""
_ENTROPY_STEPS = 128
_WIDER = 1.001
"""Histograms reach a little beyond what was seen, so that rounding never makes one grow."""
_LEAST_REACH = 1e-6

Histogram = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], np.float32, np.float32, np.float32]
"""Counts, edges, lowest, highest, reach: as HistogramCollector.histogram_dict holds it."""


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
