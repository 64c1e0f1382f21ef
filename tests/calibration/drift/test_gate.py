"""The drift gate on real graphs: it chooses by measurement, puts back what hurts, and fails with reasons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeasd.calibration.drift.candidate import DriftMeasure, clip_outputs
from edgeasd.calibration.drift.drift import Drift, DriftLimits
from edgeasd.calibration.drift.gate import GateResult, pass_gate
from edgeasd.calibration.fit.clips import SegmentView, choose_segments
from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.ranges import Collected, collect
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings

Encoder = Callable[..., onnx.ModelProto]
SEGMENTS = SegmentSettings(frames=256, hop=2, sections=2)
ANY = DriftLimits(rank_correlation=-1, largest_change=1e9, flipped_share=1)
SCORE = ScoreSettings(
    alpha=0.0, alpha_source="test", d_min=0.0, d_max=1.0, d_min_source="test", d_max_source="test", mode="deploy"
)


def clip(seed: int) -> np.ndarray:
    """260 frames of noise of its own level and colour: the scores of such clips differ."""
    rng = np.random.default_rng(seed)
    colour = np.interp(np.arange(128), [0, 64, 127], rng.normal(0, 0.5, 3))
    return (rng.normal(-1.0, 1.0, (260, 128)) + colour).astype(np.float32)


def with_outlier_channel(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function, but one channel between two convolutions is 500 times larger than the others."""
    made = prepare(model)
    values = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes = {node.name: node for node in made.graph.node}

    def scale(name: str, index: tuple[object, ...], factor: float) -> None:
        array = numpy_helper.to_array(values[name]).copy()
        array[index] *= factor
        values[name].CopyFrom(numpy_helper.from_array(array, name))

    for name in nodes["stages.1.0.conv1"].input[1:]:
        scale(name, (0,), 500.0)
    scale(nodes["stages.1.0.conv2"].input[1], (slice(None), 0), 1 / 500.0)
    return made


class Setting:
    """An encoder, its ranges, and the measure of its drift on clips of their own; counts what it measures."""

    def __init__(self, encoder: onnx.ModelProto) -> None:
        self.encoder, self.measured = encoder, 0
        self.range_clips, self.drift_clips = [clip(i) for i in range(8)], [clip(100 + i) for i in range(24)]
        chosen = choose_segments(self.range_clips, 8, SEGMENTS)
        self.view = SegmentView(self.range_clips, chosen, 256)
        self.collected: Collected = collect(encoder, self.view)
        (centre,) = np.mean([self._z(one) for one in self.range_clips], axis=0, keepdims=True)
        size = float(np.mean(np.square(centre)))

        def head(z: np.ndarray) -> dict[str, np.ndarray]:
            d = (np.square(z - centre).mean(axis=1) / size).astype(np.float32)
            return {"q": np.zeros_like(d), "d": d}

        self.head = head
        self.reference = clip_outputs(encoder, "fp32", head, self.drift_clips, SEGMENTS, threads=1)

    def _z(self, one: np.ndarray) -> np.ndarray:
        got: list[np.ndarray] = []

        def keep(z: np.ndarray) -> dict[str, np.ndarray]:
            got.append(z)
            return {"q": z[:, 0], "d": z[:, 0]}

        clip_outputs(self.encoder, "fp32", keep, [one], SEGMENTS, threads=1)
        return got[0].mean(axis=0)

    def measure(self, kind: str) -> DriftMeasure:
        return DriftMeasure(kind, self.reference, self.head, self.drift_clips, SEGMENTS, SCORE, None, threads=1)

    def gate(self, kind: str, limits: DriftLimits, **options: object) -> GateResult:
        measure = self.measure(kind)

        def counted(model: onnx.ModelProto) -> Drift:
            self.measured += 1
            return measure(model)

        options = {"methods": ("minmax",), "segments": self.view[0:2], "evidence": measure.evidence(), **options}
        return pass_gate(self.encoder, self.collected, kind, counted, limits, threads=1, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain(random_encoder: Encoder) -> Setting:
    return Setting(random_encoder("quick"))


@pytest.fixture(scope="module")
def planted(random_encoder: Encoder) -> Setting:
    return Setting(with_outlier_channel(random_encoder("quick")))


def same(one: GateResult, two: GateResult) -> bool:
    assert one.model is not None
    assert two.model is not None
    return one.to_json() == two.to_json() and one.model.SerializeToString() == two.model.SerializeToString()


def test_only_the_planted_bad_channel_is_put_back(planted: Setting, plain: Setting) -> None:
    healthy = plain.gate("int8-cpu", ANY).drift
    hurt = planted.gate("int8-cpu", ANY).drift
    assert healthy is not None
    assert hurt is not None
    assert hurt.rms > 2 * healthy.rms
    limits = DriftLimits(rank_correlation=-1, largest_change=1.5 * healthy.relative)
    found = planted.gate("int8-cpu", limits)
    assert found.passed, found.reasons
    assert [layer.name for layer in found.fp16_layers] == ["stages.1.0.conv2"]
    assert found.fp16_layers[0].decibels == min(found.sensitivity.values())
    assert found.trials == 1
    assert found.drift is not None
    assert found.drift.rms < hurt.rms / 2
    assert "stages.1.0.conv2: alone in eight bits it leaves" in found.fp16_layers[0].reason
    assert list(found.noise)[-1] == "z"


def test_without_a_budget_it_fails_and_says_why(planted: Setting, plain: Setting) -> None:
    healthy = plain.gate("int8-cpu", ANY).drift
    assert healthy is not None
    found = planted.gate("int8-cpu", DriftLimits(rank_correlation=-1, largest_change=healthy.relative), budget=0)
    assert not found.passed
    assert (found.fp16_layers, found.trials, found.sensitivity) == ((), 0, {})
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith("a normal clip's score changes by")


def test_limits_that_nothing_keeps_end_with_the_budget(plain: Setting) -> None:
    found = plain.gate("int8-cpu", DriftLimits(rank_correlation=1, largest_change=0), budget=2)
    assert not found.passed
    assert found.trials == 2
    assert any(reason.startswith("a normal clip's score") for reason in found.reasons)
    assert plain.gate("int8-cpu", DriftLimits(largest_change=0), budget=5, seconds=0.0).trials == 0


def test_of_the_methods_the_one_with_the_least_drift_is_chosen(plain: Setting) -> None:
    found = plain.gate("int8-cpu", ANY, methods=("percentile", "minmax"))
    assert set(found.by_method) == {"percentile", "minmax"}
    assert found.method == min(found.by_method, key=lambda name: found.by_method[name].rms)
    assert found.drift == found.by_method[str(found.method)]


def test_an_interrupted_gate_goes_on_and_gives_the_same_bytes(planted: Setting, tmp_path: Path) -> None:
    limits = DriftLimits(rank_correlation=-1, largest_change=0.001)
    expected = planted.gate("int8-cpu", limits, budget=3)
    state, before = tmp_path / "gate.json", planted.measured

    def stop(done: int, total: int, text: str = "") -> None:
        assert done <= total
        if text.endswith("in higher precision") and planted.measured > before + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planted.gate("int8-cpu", limits, budget=3, state=state, report=stop)
    done = planted.measured - before
    assert 1 < done < 4
    resumed = planted.gate("int8-cpu", limits, budget=3, state=state)
    assert planted.measured - before == 4, "one for the method and three layers, each once"
    assert same(resumed, expected)
    again = planted.gate("int8-cpu", limits, budget=3, state=state)
    assert planted.measured - before == 4
    assert same(again, expected)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}', '{"format": 1, "fingerprint": "other", "trials": {}}'])
def test_a_state_of_other_work_or_a_damaged_one_is_ignored(plain: Setting, tmp_path: Path, damage: str) -> None:
    state = tmp_path / "gate.json"
    state.write_text(damage)
    before = plain.measured
    assert same(plain.gate("int8-cpu", ANY, state=state), plain.gate("int8-cpu", ANY))
    assert plain.measured == before + 2
    assert json.loads(state.read_text())["trials"]


def test_other_evidence_is_measured_anew(plain: Setting, tmp_path: Path) -> None:
    state, before = tmp_path / "gate.json", plain.measured
    for evidence in ("one", "one", "two"):
        plain.gate("int8-cpu", ANY, state=state, evidence=evidence)
    assert plain.measured == before + 2


def test_fp16_takes_the_same_measure_without_ranges(plain: Setting) -> None:
    measure = plain.measure("fp16")
    found = pass_gate(
        plain.encoder, None, "fp16", measure, DriftLimits.defaults("fp16"), segments=plain.view[0:2], threads=1
    )
    assert found.passed, found.reasons
    assert found.method is None
    assert found.drift is not None
    assert 0 < found.drift.relative < 0.1
    assert found.by_method == {"fp16": found.drift}
    assert found.noise["z"] > 50


def test_int8_for_tensorrt_passes_too(plain: Setting) -> None:
    found = plain.gate("int8", ANY)
    assert found.passed
    assert found.model is not None
    assert {node.op_type for node in found.model.graph.node} >= {"QuantizeLinear", "Cast"}


def test_a_graph_that_gives_no_numbers_fails_with_that_reason(plain: Setting) -> None:
    def measure(model: onnx.ModelProto) -> Drift:
        raise CheckFailed("drift: the variant gives clip 0 a score that is not a number; remove the clip")

    found = pass_gate(
        plain.encoder, plain.collected, "int8-cpu", measure, ANY, segments=plain.view[0:2], methods=("minmax",)
    )
    assert not found.passed
    assert found.model is None
    assert found.reasons == ("minmax: drift: the variant gives clip 0 a score that is not a number; remove the clip",)
    assert found.to_json()["drift"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fp8"}, "precision fp8: has no drift gate"),
        ({"methods": ("median",)}, "range methods median"),
        ({"methods": ()}, "range methods none"),
        ({"budget": -1}, "budget -1"),
        ({"segments": np.zeros((0, 256, 128), np.float32)}, "no segments"),
    ],
)
def test_wrong_use_is_refused(plain: Setting, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain.gate(**{"kind": "int8-cpu", "limits": ANY, **options})  # type: ignore[arg-type]


def test_two_measures_of_other_clips_have_other_evidence(plain: Setting) -> None:
    one = plain.measure("int8")
    assert one.evidence() == plain.measure("int8").evidence()
    assert one.evidence() != plain.measure("int8-cpu").evidence()
    other = clip_outputs(plain.encoder, "fp32", plain.head, plain.range_clips, SEGMENTS, threads=1)
    changed = DriftMeasure("int8", other, plain.head, plain.range_clips, SEGMENTS, SCORE, None)
    assert one.evidence() != changed.evidence()
