"""The drift gate: finds the variant of a precision that drifts least, or says why none passes.

Range methods are compared first; if none passes, the most harmful layers are reverted to higher precision.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgeasd.calibration.drift.drift import Drift, DriftLimits
from edgeasd.calibration.progress import ProgressCallback, no_progress
from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.fp16 import to_half
from edgeasd.calibration.quantization.layer_noise import embedding, layer_sensitivity, quantised_layers, signal_to_noise
from edgeasd.calibration.quantization.placement import Target
from edgeasd.calibration.quantization.qdq import Ranges, int8_cpu_graph, int8_graph
from edgeasd.calibration.quantization.ranges import METHODS, Collected
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.system.files import write_json

_FORMAT = 1
TRIALS = 40
"""Largest number of layers that are tried, by default."""
KINDS = ("fp16", "int8", "int8-cpu")
Measure = Callable[[onnx.ModelProto], Drift]
"""For example edgeasd.calibration.drift.candidate.DriftMeasure."""


@dataclass(frozen=True)
class Fp16Layer:
    """A layer that was reverted to higher precision (float32 for int8-cpu), and why."""

    name: str
    decibels: float
    """Signal-to-noise ratio of the embedding with this layer alone in eight bits; the lower the more harmful."""
    rms_before: float
    """Of the score change of normal clips, in units of s, before it was reverted."""
    rms_after: float
    used_before: float
    """The largest part that was used of any limit of drift before it was reverted; the gate holds up to 1."""
    used_after: float

    @property
    def reason(self) -> str:
        """One readable line."""
        return (
            f"{self.name}: alone in eight bits it leaves the embedding {self.decibels:.1f} dB above its noise; "
            f"with it reverted, the worst figure uses {self.used_after:.0%} of its limit (before {self.used_before:.0%}) "
            f"and scores change by {self.rms_after:.3g} rms (before {self.rms_before:.3g})"
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {**asdict(self), "reason": self.reason}


@dataclass(frozen=True)
class GateResult:
    """The best graph that was found, with everything that was measured on the way."""

    kind: str
    """ "fp16", "int8" or "int8-cpu"."""
    limits: DriftLimits
    model: onnx.ModelProto | None
    """None if no graph could be built or measured. If the gate does not hold, for study only."""
    method: str | None
    """Of the ranges; None for fp16, or without a graph."""
    drift: Drift | None
    """Of `model`."""
    by_method: dict[str, Drift]
    """Of each range method, without a reverted layer."""
    refused: dict[str, str]
    """Methods whose graph could not be built or measured, and why."""
    fp16_layers: tuple[Fp16Layer, ...]
    """In the order in which they were reverted, the most harmful first."""
    sensitivity: dict[str, float]
    """dB of every layer alone in eight bits; empty if no layer had to be reverted."""
    noise: dict[str, float]
    """dB of every convolution and of z in `model`, in the order in which they run."""
    trials: int
    """Layers that were tried."""
    reasons: tuple[str, ...]
    """Why the gate does not hold; empty if it does."""

    @property
    def passed(self) -> bool:
        """Whether `model` may go into a bundle."""
        return self.model is not None and not self.reasons

    def to_json(self) -> dict[str, Any]:
        """All of it but the graph, as a plain dictionary."""
        return {
            "precision": self.kind,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "limits": self.limits.to_json(),
            "method": self.method,
            "drift": None if self.drift is None else self.drift.to_json(),
            "by_method": {name: drift.to_json() for name, drift in self.by_method.items()},
            "refused": self.refused,
            "kept": [layer.to_json() for layer in self.fp16_layers],
            "sensitivity": self.sensitivity,
            "noise": self.noise,
            "trials": self.trials,
        }


@dataclass
class GateState:
    """Measurements of an interrupted gate, by what was measured; a second run takes them from here."""

    fingerprint: str
    """Of the encoder, the ranges and the evidence; a file of others is ignored."""
    path: Path | None
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    sensitivity: dict[str, float] = field(default_factory=dict)
    """By range method and layer, in dB."""

    @classmethod
    def load_or_new(cls, path: Path | None, fingerprint: str) -> GateState:
        """The state in `path` if it is of the same work, else an empty one."""
        found = cls(fingerprint, path)
        try:
            stored = json.loads(path.read_bytes()) if path is not None else {}
            if stored.get("format") == _FORMAT and stored.get("fingerprint") == fingerprint:
                trials = dict(stored["trials"])
                for trial in trials.values():
                    _outcome(trial)
                found.sensitivity = {str(key): float(value) for key, value in stored["sensitivity"].items()}
                found.trials = trials
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # No state or a damaged one: the work starts over, and nothing is lost but time.
            return cls(fingerprint, path)
        return found

    def trial(self, method: str, fp16_layers: Collection[str], measure: Callable[[], Drift]) -> Drift | str:
        """The drift of a graph, measured once; a message if it cannot be built or measured."""
        key = _key(method, fp16_layers)
        if key not in self.trials:
            try:
                self.trials[key] = {"drift": measure().to_json()}
            except CheckFailed as error:
                self.trials[key] = {"refused": str(error)}
            self._save()
        return _outcome(self.trials[key])

    def layer(self, method: str, layer: str, measure: Callable[[], float]) -> float:
        """The sensitivity of a layer, measured once."""
        key = f"{method} {layer}"
        if key not in self.sensitivity:
            self.sensitivity[key] = measure()
            self._save()
        return self.sensitivity[key]

    def _save(self) -> None:
        if self.path is not None:
            write_json(
                self.path,
                {
                    "format": _FORMAT,
                    "fingerprint": self.fingerprint,
                    "trials": self.trials,
                    "sensitivity": self.sensitivity,
                },
            )


def _key(method: str, fp16_layers: Collection[str]) -> str:
    return " ".join([method, *sorted(fp16_layers)])


def _outcome(trial: dict[str, Any]) -> Drift | str:
    return str(trial["refused"]) if "refused" in trial else Drift.from_json(trial["drift"])


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
    report: ProgressCallback = no_progress,
) -> GateResult:
    """Build the variant `kind` of the float32 `encoder` that drifts least, within `limits` if possible.

    1. A graph by each of `methods` is measured. One within the limits comes before one outside; among equals
    the smaller rms change of scores counts, then the order of `methods`.
    2. If that one is outside the limits, each of its layers is measured alone in eight bits, and layers are
    reverted to higher precision, the most harmful first, until the limits hold. A layer that does not lower the
    drift is not reverted. At most `budget` layers are tried, within `seconds` if given; that limit depends on the
    machine, so a result that it cuts short is not reproducible.

    "fp16" takes neither ranges nor methods and is measured once. `segments` (N, frames, n_mels) are a few real
    ones, 8 say, of different clips, on which layers are compared. With `state`, a file, every measurement is saved atomically,
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
    chosen = min(by_method, key=lambda name: (by_method[name].limit_usage(limits) > 1.0, by_method[name].rms))
    drift, trials = by_method[chosen], 0
    fp16_layers: list[Fp16Layer] = []
    sensitivity: dict[str, float] = {}
    if kind != "fp16" and budget > 0 and drift.violations(limits):
        sensitivity = work.sensitivities(chosen)
        drift, fp16_layers, trials = work.revert_to_fp16(chosen, drift, sensitivity, budget, seconds)
    model = work.build(chosen, [layer.name for layer in fp16_layers])
    report(work.done, work.done, "noise of each layer")
    return GateResult(
        kind=kind,
        limits=limits,
        model=model,
        method=None if kind == "fp16" else chosen,
        drift=drift,
        by_method=by_method,
        refused=refused,
        fp16_layers=tuple(fp16_layers),
        sensitivity=sensitivity,
        noise=signal_to_noise(prepared, model, segments, threads=threads),
        trials=trials,
        reasons=tuple(drift.violations(limits)),
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
    report: ProgressCallback
    total: int
    done: int = 0
    _ranges: dict[str, Ranges] = field(default_factory=dict)

    def build(self, method: str, keep: Collection[str]) -> onnx.ModelProto:
        """The graph with the ranges of `method` and the layers `keep` in higher precision."""
        if self.collected is None or self.kind == "fp16":
            return to_half(self.encoder)
        if method not in self._ranges:

            def report(done: int, total: int, text: str = "") -> None:  # noqa: ARG001
                self.report(self.done, self.total, f"{method} ranges {done}/{total}")

            self._ranges[method] = self.collected.ranges(method, report=report)
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

    def revert_to_fp16(
        self, method: str, drift: Drift, sensitivity: dict[str, float], budget: int, seconds: float | None
    ) -> tuple[Drift, list[Fp16Layer], int]:
        """(drift, reverted layers, layers tried) when the limits hold, the layers end or the budget does."""
        until = None if seconds is None else time.monotonic() + seconds
        fp16_layers: list[Fp16Layer] = []
        tried = 0
        self.total += min(budget, len(sensitivity))
        for layer, decibels in sensitivity.items():
            if tried >= budget or (until is not None and time.monotonic() >= until):
                break
            tried += 1
            outcome = self._trial(method, [*(one.name for one in fp16_layers), layer])
            if not isinstance(outcome, Drift) or not _better(outcome, drift, self.limits):
                continue
            used = drift.limit_usage(self.limits), outcome.limit_usage(self.limits)
            fp16_layers.append(Fp16Layer(layer, decibels, drift.rms, outcome.rms, *used))
            drift = outcome
            if not drift.violations(self.limits):
                break
        return drift, fp16_layers, tried

    def _trial(self, method: str, keep: list[str]) -> Drift | str:
        self.report(self.done, self.total, f"{keep[-1]} in higher precision" if keep else method)
        outcome = self.state.trial(method, keep, lambda: self.measure(self.build(method, keep)))
        self.done += 1
        self.report(self.done, self.total)
        return outcome


def _better(one: Drift, other: Drift, limits: DriftLimits) -> bool:
    """Nearer to the limits, or with smaller changes: flips and ranks stay the same for many steps, then jump."""
    return one.rms < other.rms or one.limit_usage(limits) < other.limit_usage(limits)


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
