"""Log-mel by frontend.onnx before the encoder: the scores of the CPU features, or an error that says why not."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")

import onnx
from onnx import numpy_helper

from edgeasd.export.front_end import FRONT_END, build_front_end, measure_front_end
from edgeasd.export.parity import LOAD_LIMITS
from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.bundle.front_end_check import self_test_sound
from edgeasd.runtime.engines import Engine, EngineWithFrontEnd
from edgeasd.runtime.errors import BundleError, CheckFailed, EdgeasdError, InputError
from edgeasd.runtime.features.framing import frame_samples
from edgeasd.runtime.features.logmel import FeatureSettings, logmel
from edgeasd.runtime.scoring.clip import score_sound
from edgeasd.runtime.scoring.scorer import GraphFrontEndScorer, Scorer
from edgeasd.runtime.scoring.stream import Stream

NOMINAL = 160_000


@pytest.fixture(scope="module")
def pair(front_end_bundle: Path) -> Iterator[tuple[Scorer, GraphFrontEndScorer]]:
    """Scorers with log-mel on the CPU and by the graph."""
    with Bundle(front_end_bundle) as bundle:
        cpu, _ = bundle.open_scorer(threads=1)
        graph, _ = bundle.open_scorer(threads=1, front_end="graph")
        assert isinstance(graph, GraphFrontEndScorer)
        yield cpu, graph
        cpu.close()
        graph.close()


@pytest.fixture
def damaged(front_end_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(front_end_bundle, tmp_path / "valve-id_00"))


def replace(bundle: Path, model: onnx.ModelProto) -> None:
    """Another front end in a bundle, listed as it is."""
    (bundle / FRONT_END).write_bytes(model.SerializeToString())
    manifest = json.loads((bundle / "manifest.json").read_text())
    size = (bundle / FRONT_END).stat().st_size
    manifest["files"][FRONT_END] = {"sha256": hash_file(bundle / FRONT_END), "size": size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def refusal(bundle: Path, kind: type[EdgeasdError]) -> str:
    with Bundle(bundle) as opened, pytest.raises(kind) as error:
        opened.open_scorer(threads=1, front_end="graph")
    assert "\n" not in str(error.value)
    return str(error.value)


def noise(samples: int, seed: int, level: float = 0.05) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


# Scores


def test_measured_clips_deviate_as_stated_live_and_offline(
    pair: tuple[Scorer, GraphFrontEndScorer], front_end_bundle: Path
) -> None:
    with Bundle(front_end_bundle) as bundle:
        stated = bundle.manifest.front_end
    assert stated is not None
    sound = noise(NOMINAL, 4)
    cpu, graph = (Stream(scorer).push(sound) for scorer in pair)
    moved = max(abs(a.score - b.score) for a, b in zip(cpu, graph, strict=True))
    assert len(cpu) == 10
    assert 0 < moved <= 1.01 * stated.score
    clips = [score_sound(scorer, sound) for scorer in pair]
    assert clips[0].starts == clips[1].starts
    np.testing.assert_allclose(clips[1].segments.score, clips[0].segments.score, rtol=0, atol=1.01 * stated.score)
    assert graph[-1].clip_score == pytest.approx(clips[1].score, abs=1e-9), "live and offline are the same"


@settings(deadline=None, max_examples=6)
@given(
    st.integers(0, 1000),
    st.floats(1e-3, 0.5),
    st.floats(60.0, 7000.0),
    st.floats(0.0, 0.3),
    st.lists(st.sampled_from([1, 511, 3072, 40_000, 131_584]), max_size=6),
)
def test_any_sound_over_noise_is_scored_alike_however_it_is_cut(
    pair: tuple[Scorer, GraphFrontEndScorer], seed: int, level: float, hertz: float, tone: float, sizes: list[int]
) -> None:
    time = np.arange(131_584 + 2 * 3072) / 16_000
    sound = noise(time.size, seed, level) + (tone * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
    expected, stream, at = Stream(pair[0]).push(sound), Stream(pair[1]), 0
    found = []
    for size in [*sizes, sound.size]:
        found += stream.push(sound[at : at + size])
        at += size
    assert len(found) == len(expected) == 3
    for a, b in zip(found, expected):
        assert (a.index, a.start_sample, a.end_sample, a.averaged) == (
            b.index,
            b.start_sample,
            b.end_sample,
            b.averaged,
        )
        assert a.logit == pytest.approx(b.logit, abs=LOAD_LIMITS.logit * (1 + abs(b.logit)))
        assert a.q == pytest.approx(b.q, abs=LOAD_LIMITS.score)
        assert a.d == pytest.approx(b.d, rel=1e-3)


@pytest.mark.shared_data
def test_real_clips_are_scored_within_what_is_stated_for_them(
    pair: tuple[Scorer, GraphFrontEndScorer], front_end_bundle: Path, shared_data: Path
) -> None:
    folder = shared_data / "dcase2023_toycar"
    clips = sorted(folder.rglob("*.wav")) or sorted(folder.rglob("*.flac"))
    sounds = [read_audio(clip, sample_rate=16_000, channel=0) for clip in clips[:: max(1, len(clips) // 4)][:4]]
    with Bundle(front_end_bundle) as bundle:
        stated = measure_front_end(bundle, sounds)
    for sound in sounds:
        cpu, graph = (score_sound(scorer, sound) for scorer in pair)
        assert np.max(np.abs(cpu.segments.score - graph.segments.score)) <= 1.01 * stated.score
        live = [Stream(scorer).push(sound) for scorer in pair]
        assert len(live[0]) == len(live[1]) > 0
        for a, b in zip(*live):
            # Live segments of a clip of another length than the nominal are not those it was measured on.
            assert abs(a.score - b.score) <= 10 * stated.score
    assert stated.logmel < 1e-4


def test_a_batch_is_its_segments_one_by_one(pair: tuple[Scorer, GraphFrontEndScorer]) -> None:
    """Twelve of them, more than a batch takes: frames that wait are views, and none reads another's."""
    graph = pair[1]
    sounds = [noise(131_584, seed) for seed in range(12)]
    together = graph.score_waiting(sounds)
    for row, sound in enumerate(sounds):
        assert together.score[row] == graph.score_waiting([sound]).score[0]


def test_after_a_reset_the_sound_begins_anew(pair: tuple[Scorer, GraphFrontEndScorer]) -> None:
    """No segment of samples spans lost sound."""
    stream, sound = Stream(pair[1]), noise(135_000, 3)
    before = stream.push(sound)
    stream.reset()
    after = stream.push(sound)
    assert len(before) == 2
    assert [(score.score, score.start_sample) for score in after] == [
        (score.score, score.start_sample) for score in before
    ]


def test_what_is_in_use_is_in_the_name(pair: tuple[Scorer, GraphFrontEndScorer]) -> None:
    cpu, graph = pair
    assert graph.engine.name == f"{cpu.engine.name}, log-mel by frontend.onnx on CPUExecutionProvider"
    assert isinstance(graph.engine, Engine)
    engine: EngineWithFrontEnd = graph.engine
    assert (engine.accelerator, engine.precision, engine.max_batch) == ("cpu", "fp32", 10)
    assert type(cpu) is Scorer
    assert 0 < graph.front_end_deviation.logmel < 1e-5
    assert graph.front_end_deviation.z is not None
    assert graph.front_end_deviation.z < 1e-5


def test_a_zip_has_its_front_end_too(front_end_bundle: Path, tmp_path: Path) -> None:
    packed = tmp_path / "valve.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in front_end_bundle.iterdir():
            archive.write(path, path.name)
    with Bundle(packed) as bundle:
        scorer, _ = bundle.open_scorer(threads=1, front_end="graph")
        assert len(Stream(scorer).push(noise(131_584, 1))) == 1
        scorer.close()


# Refusals


def test_a_bundle_without_a_front_end_says_how_to_get_one(small_bundle: Path) -> None:
    assert refusal(small_bundle, InputError) == (
        "--front-end graph: valve-id_00 has no front end; export it with `edgeasd export --front-end FOLDER`, "
        "or use --front-end cpu"
    )


def test_an_unknown_place_is_named(front_end_bundle: Path) -> None:
    with Bundle(front_end_bundle) as bundle, pytest.raises(InputError, match="--front-end gpu: unknown; use cpu or gr"):
        bundle.open_scorer(front_end="gpu")


def test_a_changed_front_end_is_refused_only_where_used(damaged: Path) -> None:
    data = bytearray((damaged / FRONT_END).read_bytes())
    data[-100] ^= 1
    (damaged / FRONT_END).write_bytes(data)
    assert "frontend.onnx: sha256 " in refusal(damaged, BundleError)
    with Bundle(damaged) as bundle:
        bundle.open_scorer(threads=1)[0].close()


def test_a_front_end_of_other_bands_does_not_get_past_the_noise(damaged: Path) -> None:
    replace(damaged, build_front_end(FeatureSettings(f_min=300.0), 256))
    text = refusal(damaged, CheckFailed)
    assert "valve-id_00: the front end of onnxruntime " in text
    assert "is not that of the runtime: log-mel deviates by " in text
    assert text.endswith("; use --front-end cpu, or export the bundle on this version")


def test_a_front_end_in_ten_bits_does_not_either(damaged: Path) -> None:
    """What TF32 would do to the products: the matrices lose the mantissa that it cuts off."""
    model = onnx.load(damaged / FRONT_END)
    for tensor in model.graph.initializer:
        if tensor.name in ("cosines", "sines"):
            bits = numpy_helper.to_array(tensor).copy().view(np.uint32) & np.uint32(0xFFFFE000)
            tensor.CopyFrom(numpy_helper.from_array(bits.view(np.float32), tensor.name))
    replace(damaged, model)
    assert "log-mel deviates by " in refusal(damaged, CheckFailed)


def test_a_front_end_of_another_shape_is_refused(damaged: Path) -> None:
    replace(damaged, build_front_end(FeatureSettings(), 100))
    assert "its front end does not fit its manifest (" in refusal(damaged, BundleError)
    replace(damaged, build_front_end(FeatureSettings(n_mels=64), 256))
    assert "its front end gives log-mel of shape (1, 1, 256, 64), its encoder takes (1, 1, 256, 128)" in refusal(
        damaged, BundleError
    )


def test_the_noise_of_the_proof_fills_every_band(front_end_bundle: Path) -> None:
    with Bundle(front_end_bundle) as bundle:
        features, amplitude = bundle.manifest.features, bundle.manifest.amplitude
    sound = self_test_sound(features, amplitude, 256)
    made = logmel(sound, features, amplitude)
    assert made.shape == (256, 128)
    assert made.min() > made.max() - 3.0
    assert np.abs(frame_samples(sound, features, amplitude)).max() < 10.0
    np.testing.assert_array_equal(sound, self_test_sound(features, amplitude, 256))
