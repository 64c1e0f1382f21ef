"""The drift gate: the range method and the layers with which a precision variant keeps its limits, or why none does."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnxruntime

from edgeasd.calibration.drift import Drift
from edgeasd.calibration.drift_limits import DriftLimits
from edgeasd.calibration.encoder_parts import prepare
from edgeasd.calibration.gate_result import GateResult, KeptLayer
from edgeasd.calibration.gate_state import GateState
from edgeasd.calibration.half import to_half
from edgeasd.calibration.layers import signal_to_noise
from edgeasd.calibration.placement import Target
from edgeasd.calibration.qdq import Ranges, int8_cpu_graph, int8_graph
from edgeasd.calibration.ranges import METHODS, Collected
from edgeasd.calibration.sensitivity import embedding, layer_sensitivity, quantised_layers
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.logmel import Float32Array

TRIALS = 40
"""Layers that are tried at most where nobody says."""
KINDS = ("fp16", "int8", "int8-cpu")

Measure = Callable[[onnx.ModelProto], Drift]
"""For example edgeasd.calibration.candidate.DriftMeasure."""


class Told(Protocol):
    """A report of progress, as edgeasd.toolkit.progress makes them."""

    def __call__(self, done: int, total: int, text: str = "") -> None: ...


def _untold(done: int, total: int, text: str = "") -> None:
    """A report that says nothing."""


def pass_gate(
    encoder: onnx.ModelProto,
    collected: Collected | None,
    kind: str,
    measure: Measure,
    limits: DriftLimits,
    *,
    segments: Float32Array,
    evidence: str = "",
    methods: Sequence[str] = METHODS,
    budget: int = TRIALS,
    seconds: float | None = None,
    state: Path | None = None,
    threads: int | None = None,
    report: Told = _untold,
) -> GateResult:
    """Build the variant `kind` of the float32 `encoder` that drifts least, within `limits` where that can be had.

    1. A graph by each of `methods` is measured. One within the limits comes before one beyond; among equals
    the smaller rms change of scores counts, then the order of `methods`.
    2. Where that one is beyond the limits, each of its layers is measured alone in eight bits, and layers are put
    back to higher precision, the most harmful first, until the limits hold. A layer that does not lower the drift
    is not put back. At most `budget` layers are tried, within `seconds` where given: that limit depends on
    the machine, and a result that it cut short is not the same every time. All else is.

    "fp16" takes neither ranges nor methods and is measured once. `segments` (N, frames, n_mels) are a few real
    ones, 8 say, of different clips, on which layers are compared. With `state`, a file, every measurement is kept, whole or not at all,
    and a later call with the same encoder, ranges, segments and `evidence` (a hash of what `measure` rests on:
    DriftMeasure.evidence) goes on from there; the caller deletes it. `report` is called with (done, total,
    text). Raises InputError for an unknown kind or method, without ranges or segments, and for a negative budget.
    """
    _check(kind, collected, segments, methods, budget)
    prepared = prepare(encoder)
    work = _Gate(
        prepared,
        collected,
        kind,
        measure,
        limits,
        GateState.load_or_new(state, _fingerprint(prepared, collected, kind, segments, evidence)),
        segments,
        threads,
        report,
        len(methods) if collected is not None else 1,
    )
    by_method, refused = work.compare(methods if kind != "fp16" else ("fp16",))
    if not by_method:
        reasons = tuple(f"{name}: {why}" for name, why in refused.items())
        return GateResult(kind, limits, None, None, None, {}, refused, (), {}, {}, 0, reasons)
    chosen = min(by_method, key=lambda name: (by_method[name].used_up(limits) > 1.0, by_method[name].rms))
    drift, trials = by_method[chosen], 0
    kept: list[KeptLayer] = []
    sensitivity: dict[str, float] = {}
    if kind != "fp16" and budget > 0 and drift.beyond(limits):
        sensitivity = work.sensitivities(chosen)
        drift, kept, trials = work.put_back(chosen, drift, sensitivity, budget, seconds)
    model = work.build(chosen, [layer.name for layer in kept])
    report(work.done, work.done, "noise of each layer")
    return GateResult(
        kind=kind,
        limits=limits,
        model=model,
        method=None if kind == "fp16" else chosen,
        drift=drift,
        by_method=by_method,
        refused=refused,
        kept=tuple(kept),
        sensitivity=sensitivity,
        noise=signal_to_noise(prepared, model, segments, threads=threads),
        trials=trials,
        reasons=tuple(drift.beyond(limits)),
    )


@dataclass
class _Gate:
    """One run: what it works on, and how far it is."""

    encoder: onnx.ModelProto
    collected: Collected | None
    kind: str
    measure: Measure
    limits: DriftLimits
    state: GateState
    segments: Float32Array
    threads: int | None
    report: Told
    total: int
    done: int = 0
    _ranges: dict[str, Ranges] = field(default_factory=dict)

    def build(self, method: str, keep: Collection[str]) -> onnx.ModelProto:
        """The graph with the ranges of `method` and the layers `keep` in higher precision."""
        if self.collected is None or self.kind == "fp16":
            return to_half(self.encoder)
        if method not in self._ranges:
            self._ranges[method] = self.collected.ranges(
                method, report=lambda done, of: self.report(self.done, self.total, f"{method} ranges {done}/{of}")
            )
        make = int8_graph if self.kind == "int8" else int8_cpu_graph
        return make(self.encoder, self._ranges[method], keep)

    def compare(self, methods: Sequence[str]) -> tuple[dict[str, Drift], dict[str, str]]:
        """Drift of each method, and why there is none of others."""
        found: dict[str, Drift] = {}
        refused: dict[str, str] = {}
        for method in methods:
            outcome = self._trial(method, [])
            if isinstance(outcome, Drift):
                found[method] = outcome
            else:
                refused[method] = outcome
        return found, refused

    def sensitivities(self, method: str) -> dict[str, float]:
        """dB of each layer alone in eight bits, the most harmful first."""
        layers = quantised_layers(self.encoder, Target(self.kind))
        self.total += len(layers)
        exact = embedding(self.encoder, "fp32", self.segments, self.threads)
        found = {}
        for layer in layers:
            self.report(self.done, self.total, f"{layer} alone")

            def measured(layer: str = layer) -> float:
                def build(keep: Collection[str]) -> onnx.ModelProto:
                    return self.build(method, keep)

                return layer_sensitivity(layer, layers, build, self.kind, self.segments, exact, threads=self.threads)

            found[layer] = self.state.layer(method, layer, measured)
            self.done += 1
        return {layer: found[layer] for layer in sorted(layers, key=lambda one: found[one])}

    def put_back(
        self, method: str, drift: Drift, sensitivity: dict[str, float], budget: int, seconds: float | None
    ) -> tuple[Drift, list[KeptLayer], int]:
        """(drift, layers put back, layers tried) once the limits hold, the layers end or the budget does."""
        until = None if seconds is None else time.monotonic() + seconds
        kept: list[KeptLayer] = []
        tried = 0
        self.total += min(budget, len(sensitivity))
        for layer, decibels in sensitivity.items():
            if tried >= budget or (until is not None and time.monotonic() >= until):
                break
            tried += 1
            outcome = self._trial(method, [*(one.name for one in kept), layer])
            if not isinstance(outcome, Drift) or not _better(outcome, drift, self.limits):
                continue
            used = drift.used_up(self.limits), outcome.used_up(self.limits)
            kept.append(KeptLayer(layer, decibels, drift.rms, outcome.rms, *used))
            drift = outcome
            if not drift.beyond(self.limits):
                break
        return drift, kept, tried

    def _trial(self, method: str, keep: list[str]) -> Drift | str:
        self.report(self.done, self.total, f"{keep[-1]} kept" if keep else method)
        outcome = self.state.trial(method, keep, lambda: self.measure(self.build(method, keep)))
        self.done += 1
        self.report(self.done, self.total)
        return outcome


def _better(one: Drift, other: Drift, limits: DriftLimits) -> bool:
    """Nearer to the limits, or with smaller changes: a flip or a rank stands still for many steps, and both jump."""
    return one.rms < other.rms or one.used_up(limits) < other.used_up(limits)


def _check(kind: str, collected: Collected | None, segments: Float32Array, methods: Sequence[str], budget: int) -> None:
    if kind not in KINDS:
        raise InputError(f"precision {kind}: has no drift gate; use one of {', '.join(KINDS)}")
    if kind != "fp16" and collected is None:
        raise InputError(f"precision {kind}: needs ranges; collect them from normal clips")
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise InputError(f"range methods {', '.join(unknown) or 'none'}: use some of {', '.join(METHODS)}")
    if not len(segments):
        raise InputError("drift gate: no segments to compare layers on; give a few real ones")
    if budget < 0:
        raise InputError(f"budget {budget}: give 0 layers or more")


def _fingerprint(
    prepared: onnx.ModelProto, collected: Collected | None, kind: str, segments: Float32Array, evidence: str
) -> str:
    digest = hashlib.sha256(prepared.SerializeToString(deterministic=True))
    digest.update(f"{kind} {evidence} {onnxruntime.__version__} {np.__version__}".encode())
    digest.update(np.ascontiguousarray(segments, np.float32).tobytes())
    if collected is not None:
        for array in (collected.lowest, collected.highest, collected.histograms):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
