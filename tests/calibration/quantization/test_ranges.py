"""Ranges: what ONNX Runtime's calibrators see, in bounded memory, resumable, the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeasd.calibration.quantization import ranges as module
from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.placement import calibrated_tensors
from edgeasd.calibration.quantization.ranges import METHODS, Collected, RangeState, collect
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.errors import CheckFailed, InputError

Encoder = Callable[..., onnx.ModelProto]
Noise = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def collected(random_encoder: Encoder, segments: Noise) -> Collected:
    return collect(random_encoder("quick"), segments(10))


def activations(model: onnx.ModelProto, tensors: list[str], x: np.ndarray) -> dict[str, np.ndarray]:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    return dict(zip(tensors, make_session(made.SerializeToString()).run(tensors, {"logmel": x[:, None]})))


def same(one: Collected, two: Collected) -> bool:
    return one.tensors == two.tensors and all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in ("lowest", "highest", "histograms")
    )


def test_minmax_and_percentile_are_those_of_the_activations(
    random_encoder: Encoder, segments: Noise, collected: Collected
) -> None:
    model = prepare(random_encoder("quick"))
    tensors = calibrated_tensors(model)
    assert list(collected.tensors) == tensors
    exact = activations(model, tensors, segments(10))
    widest, middle = collected.ranges("minmax"), collected.ranges("percentile", 99.0)
    for index, tensor in enumerate(tensors):
        values = exact[tensor].astype(np.float64)
        assert widest[tensor] == pytest.approx((values.min(), values.max()), rel=1e-5, abs=1e-6)
        bin_width = 2 * 1.001 * np.abs(values).max() / collected.histograms.shape[1]
        low, high = np.quantile(values, [0.005, 0.995])
        assert middle[tensor] == pytest.approx((low, high), abs=2.1 * bin_width)
        assert collected.histograms[index].sum() == values.size, "every value is counted once"


def test_each_method_is_narrower_than_all_that_was_seen(collected: Collected) -> None:
    few = Collected(10, collected.tensors[:1], collected.lowest[:1], collected.highest[:1], collected.histograms[:1])
    widest, told = few.ranges("minmax"), []
    narrowed = {m: few.ranges(m, report=lambda done, total: told.append((done, total))) for m in METHODS}
    for found in narrowed.values():
        for tensor, (low, high) in found.items():
            assert widest[tensor][0] <= low < high <= widest[tensor][1]
    assert told == [(1, 1)] * 3
    assert narrowed["entropy"] != widest
    assert narrowed["entropy"] == few.ranges("entropy")


def test_the_order_of_segments_makes_no_difference(random_encoder: Encoder, segments: Noise) -> None:
    """Fed as they come, ONNX Runtime's histograms would grow when a loud segment follows quiet ones."""
    x = segments(8) * np.array([0.01] * 4 + [1.0] * 4, np.float32)[:, None, None]
    one, two = collect(random_encoder("quick"), x), collect(random_encoder("quick"), x[::-1])
    assert one.histograms.shape == (len(one.tensors), 2048)
    assert same(one, two)


def test_segments_need_not_lie_in_memory(random_encoder: Encoder, segments: Noise, collected: Collected) -> None:
    class Reader:
        largest = 0

        def __len__(self) -> int:
            return 10

        def __getitem__(self, part: slice) -> np.ndarray:
            found = segments(10)[part]
            self.largest = max(self.largest, len(found))
            return found

    reader = Reader()
    assert same(collect(random_encoder("quick"), reader), collected)


def test_no_call_sees_more_than_a_batch(
    random_encoder: Encoder, segments: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = module._Reader.get_next

    def get_next(self: module._Reader) -> dict[str, np.ndarray] | None:
        given = plain(self)
        seen.extend(len(batch) for batch in (given or {}).values())
        return given

    monkeypatch.setattr(module._Reader, "get_next", get_next)
    collect(random_encoder("quick"), segments(10))
    assert seen == [4, 4, 2] * 2


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [40, 72, 112])
def test_an_interrupted_run_goes_on_where_it_was(
    random_encoder: Encoder, segments: Noise, tmp_path: Path, after: int
) -> None:
    model, x, state = random_encoder("quick"), segments(70), tmp_path / "ranges.npz"
    told: list[int] = []
    again: list[int] = []

    def stop(done: int, total: int) -> None:
        assert total == 140
        if done >= after:
            raise Stopped

    with pytest.raises(Stopped):
        collect(model, x, state=state, report=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["ranges.npz"]
    resumed = collect(model, x, state=state, report=lambda done, total: told.append(done))
    assert told[0] == {40: 36, 72: 74, 112: 106}[after], "the last whole block of 32 is not done again"
    assert told[-1] == 140
    assert same(resumed, collect(model, x))
    assert same(collect(model, x, state=state, report=lambda done, total: again.append(done)), resumed)
    assert again == [], "finished work is not done again"


def test_a_state_of_other_segments_or_a_damaged_one_is_not_used(
    random_encoder: Encoder, segments: Noise, collected: Collected, tmp_path: Path
) -> None:
    state = tmp_path / "ranges.npz"
    collect(random_encoder("quick"), segments(4, seed=5), state=state)
    assert same(collect(random_encoder("quick"), segments(10), state=state), collected)
    state.write_bytes(state.read_bytes()[:1000])
    assert same(collect(random_encoder("quick"), segments(10), state=state), collected)
    state.write_text("not a state")
    assert RangeState.load_or_new(state, "x", 3, 4).done == 0


def test_nothing_is_printed(
    random_encoder: Encoder, segments: Noise, collected: Collected, capfd: pytest.CaptureFixture[str]
) -> None:
    collect(random_encoder("quick"), segments(2)).ranges("percentile")
    assert capfd.readouterr() == ("", "")


def test_what_cannot_give_ranges_is_refused(random_encoder: Encoder, segments: Noise, collected: Collected) -> None:
    with pytest.raises(InputError, match="no segments to collect them from"):
        collect(random_encoder("quick"), segments(0))
    x = segments(6)
    x[5, 3, 3] = np.nan
    with pytest.raises(CheckFailed, match="ranges: a value of segments 4 to 5 is not finite; check the clips"):
        collect(random_encoder("quick"), x)
    endless = onnx.ModelProto()
    endless.CopyFrom(random_encoder("quick"))
    weight = next(t for t in endless.graph.initializer if t.name == "stages.0.0.conv1.weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((8, 8, 3, 3), 3e38, np.float32), weight.name))
    with pytest.raises(CheckFailed, match=r"ranges: stages\.0\.0\.conv1\.relu is not finite"):
        collect(endless, segments(1))
    with pytest.raises(InputError, match="range method kl: unknown; use one of minmax, entropy, percentile"):
        collected.ranges("kl")
    with pytest.raises(InputError, match="percentile 0"):
        collected.ranges("percentile", 0)
