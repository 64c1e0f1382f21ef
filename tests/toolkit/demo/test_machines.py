"""The demo's synthetic machines: repeatable, at the stated levels, different from one another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.demo import dataset, faults
from edgeasd.toolkit.demo.machines import (
    CLIP_GAIN_DB,
    FAULTS,
    IDS,
    KINDS,
    MACHINE_TO_BACKGROUND_DB,
    SAMPLE_RATE,
    Fault,
    compose,
    render,
)

pytestmark = pytest.mark.core

EVERY_FAULT = [(kind, fault) for kind in KINDS for fault in FAULTS[kind]]
ADDITIVE = [(kind, fault) for kind, fault in EVERY_FAULT if fault not in faults.NOT_ADDITIVE]


def level_db(signal: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(signal, dtype=np.float64))))


def band_spectrum(signal: np.ndarray) -> np.ndarray:
    """Log power in third-octave-like bands, loudness removed."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, 2048)[::1024] * np.hanning(2048)
    power = np.mean(np.abs(np.fft.rfft(frames)) ** 2, axis=0)
    edges = np.unique(np.geomspace(3, 1024, 48).astype(int))
    bands = np.log10(np.add.reduceat(power, edges[:-1]))
    return bands - bands.mean()


def area_under_curve(normal: list[float], anomalous: list[float]) -> float:
    difference = np.subtract.outer(anomalous, normal)
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    machine_id=st.sampled_from(IDS),
    seconds=st.floats(2, 6),
    seed=st.integers(0, 2**40),
    which=st.sampled_from([None, 0, 1]),
    snr_db=st.floats(-40, 0),
    start=st.none() | st.floats(0, 1.99),
)
def test_any_clip_is_finite_mono_float32_below_the_ceiling(
    kind: str,
    machine_id: str,
    seconds: float,
    seed: int,
    which: int | None,
    snr_db: float,
    start: float | None,
) -> None:
    fault = None if which is None else FAULTS[kind][which]
    clip = render(
        kind,
        machine_id,
        seconds=seconds,
        seed=seed,
        fault=fault,
        fault_snr_db=snr_db,
        fault_start=start if fault else None,
    )
    assert clip.shape == (round(seconds * SAMPLE_RATE),)
    assert clip.dtype == np.float32
    assert np.isfinite(clip).all()
    assert np.abs(clip).max() < 0.95
    assert -60 < level_db(clip) < -10


def test_the_shoulder_bends_only_what_is_loud() -> None:
    loud = np.linspace(-30, 30, 6001, dtype=np.float32)
    bent = faults.shoulder(loud)
    assert bent.dtype == np.float32
    assert np.abs(bent).max() < 0.95
    assert (np.diff(bent) >= 0).all()
    quiet = np.abs(loud) <= 0.8
    np.testing.assert_array_equal(bent[quiet], loud[quiet])


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_samples_in_another_process(kind: str) -> None:
    here = hashlib.sha256(
        render(kind, "02", seconds=3, seed=5, fault=FAULTS[kind][0], fault_start=1.0).tobytes()
    ).hexdigest()
    code = (
        "import hashlib; from edgeasd.toolkit.demo.machines import FAULTS, render; "
        f"clip = render({kind!r}, '02', seconds=3, seed=5, fault=FAULTS[{kind!r}][0], fault_start=1.0); "
        "print(hashlib.sha256(clip.tobytes()).hexdigest())"
    )
    # Another hash seed: nothing may depend on Python's salted str hashes.
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert other.stdout.strip() == here


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_ids_do_not_share_their_noise(kind: str) -> None:
    clips = [render(kind, machine_id, seconds=4, seed=seed) for machine_id in IDS for seed in (0, 1)]
    similarity = np.abs(np.corrcoef(clips)) - np.eye(len(clips))
    assert similarity.max() < 0.9


@pytest.mark.parametrize(("kind", "fault"), EVERY_FAULT)
def test_a_fault_leaves_the_sound_before_it_untouched(kind: str, fault: str) -> None:
    healthy = render(kind, "04", seconds=6, seed=11)
    broken = render(kind, "04", seconds=6, seed=11, fault=fault, fault_start=2.5)
    always = render(kind, "04", seconds=6, seed=11, fault=fault)
    start = int(2.5 * SAMPLE_RATE)
    np.testing.assert_array_equal(broken[: start + 1], healthy[: start + 1])
    settled = start + SAMPLE_RATE // 4 + 1
    np.testing.assert_array_equal(broken[settled:], always[settled:])
    assert level_db(broken[settled:] - healthy[settled:]) > level_db(healthy) - 12


@pytest.mark.parametrize("machine_id", ["00", "06"])
@pytest.mark.parametrize("snr_db", [-20.0, -6.0, 0.0])
@pytest.mark.parametrize(("kind", "fault"), ADDITIVE)
def test_an_additive_fault_is_at_the_stated_level(kind: str, fault: str, snr_db: float, machine_id: str) -> None:
    healthy = render(kind, machine_id, seconds=4, seed=3)
    broken = render(kind, machine_id, seconds=4, seed=3, fault=fault, fault_snr_db=snr_db)
    assert level_db(broken - healthy) - level_db(healthy) == pytest.approx(snr_db, abs=0.02)


@pytest.mark.parametrize(("kind", "fault"), EVERY_FAULT)
def test_the_fault_level_is_that_of_the_rendered_difference(kind: str, fault: str) -> None:
    healthy = render(kind, "00", seconds=4, seed=8)
    broken = render(kind, "00", seconds=4, seed=8, fault=fault)
    measured = compose(kind, "00", seconds=4, seed=8, fault=Fault(fault, -6.0)).fault_db
    assert level_db(broken - healthy) - level_db(healthy) == pytest.approx(measured, abs=0.02)


@pytest.mark.parametrize(("kind", "fault"), [("valve", "sticking"), ("fan", "blockage")])
def test_a_fault_that_is_not_additive_grows_with_its_severity(kind: str, fault: str) -> None:
    healthy = band_spectrum(render(kind, "02", seconds=8, seed=2))
    changes = [
        np.abs(band_spectrum(render(kind, "02", seconds=8, seed=2, fault=fault, fault_snr_db=snr)) - healthy).mean()
        for snr in (-30.0, -12.0, 0.0)
    ]
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("machine_id", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_background_is_the_stated_level_below_the_machine(kind: str, machine_id: str) -> None:
    clip = compose(kind, machine_id, seconds=4, seed=1)
    ratio_db = level_db(clip.machine) - level_db(clip.background)
    assert ratio_db == pytest.approx(MACHINE_TO_BACKGROUND_DB, abs=0.02)
    assert not clip.fault.any()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_a_kind_differ_more_than_clips_of_one_id(kind: str) -> None:
    spectra = np.array(
        [[band_spectrum(render(kind, machine_id, seconds=5, seed=s)) for s in range(5)] for machine_id in IDS]
    )
    centres = spectra.mean(axis=1)
    within = np.linalg.norm(spectra - centres[:, None], axis=-1)
    between = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    between = between[~np.eye(len(IDS), dtype=bool)].reshape(len(IDS), -1)
    # Every ID: even its nearest neighbour lies beyond the average spread of its own clips.
    assert (within.mean(axis=1) < between.min(axis=1)).all()


@pytest.mark.parametrize(("kind", "fault"), EVERY_FAULT)
def test_loudness_alone_does_not_tell_a_fault(kind: str, fault: str) -> None:
    normal = [level_db(render(kind, "00", seconds=2, seed=seed)) for seed in range(60)]
    broken = [level_db(render(kind, "00", seconds=2, seed=1000 + seed, fault=fault)) for seed in range(60)]
    assert 0.25 < area_under_curve(normal, broken) < 0.75
    assert max(normal) - min(normal) > CLIP_GAIN_DB


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "slider"}, "slider"),
        ({"machine_id": "01"}, "01"),
        ({"fault": "bearing"}, "leak and sticking"),
        ({"seconds": 1.0}, "2 to 600"),
        ({"seconds": float("nan")}, "2 to 600"),
        ({"seed": -1}, "-1"),
        ({"fault": "leak", "fault_snr_db": 3.0}, "-40 to 0"),
        ({"fault": "leak", "fault_start": 4.0}, "start within"),
        ({"fault_start": 1.0}, "no fault is named"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(changes: dict[str, object], words: str) -> None:
    arguments: dict[str, object] = {"kind": "valve", "machine_id": "00", "seconds": 4.0, "seed": 0, **changes}
    with pytest.raises(InputError, match=words) as caught:
        render(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


PLAN = dataset.DatasetPlan(
    kinds=("valve", "fan"), ids=("00", "04"), normals=3, anomalies=3, seconds=2, anomaly_ids={"valve": ("04",)}
)


def test_a_dataset_has_the_planned_files_and_nothing_else(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    dataset.write_dataset(tmp_path / "new" / "data", PLAN, lambda done, total: calls.append((done, total)))
    found = sorted(
        str(path.relative_to(tmp_path / "new" / "data"))
        for path in (tmp_path / "new" / "data").rglob("*")
        if path.is_file()
    )
    normals = [f"{kind}/{i}/normal/{n:04d}.flac" for kind in ("fan", "valve") for i in ("00", "04") for n in range(3)]
    anomalies = [f"valve/04/anomaly/{name}.flac" for name in ("0000_leak", "0001_sticking", "0002_leak")]
    assert found == sorted(normals + anomalies)
    assert calls == [(done, 15) for done in range(1, 16)]


def test_dataset_files_are_16_bit_flac_marked_as_synthetic(
    tmp_path: Path,
) -> None:
    dataset.write_dataset(tmp_path, PLAN)
    path = tmp_path / "valve" / "04" / "anomaly" / "0001_sticking.flac"
    with soundfile.SoundFile(path) as sound:
        assert (sound.format, sound.subtype, sound.samplerate, sound.channels) == ("FLAC", "PCM_16", 16000, 1)
        assert "synthetic" in sound.comment
        samples = sound.read(dtype="float32")
    expected = render("valve", "04", seconds=2, seed=3, fault="sticking")
    np.testing.assert_allclose(samples, expected, atol=1.01 / 32768)


def test_no_two_files_of_a_dataset_hold_the_same_healthy_sound(tmp_path: Path) -> None:
    plan = dataset.DatasetPlan(kinds=("fan",), ids=("00",), normals=6, anomalies=6, seconds=2, fault_snr_db=-40)
    dataset.write_dataset(tmp_path, plan)
    clips = [soundfile.read(path)[0] for path in sorted(tmp_path.rglob("*.flac"))]
    similarity = np.abs(np.corrcoef(clips)) - np.eye(len(clips))
    assert similarity.max() < 0.9


def test_datasets_of_two_seeds_differ_and_of_one_seed_agree(tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        plan = dataset.DatasetPlan(kinds=("pump",), ids=("02",), normals=1, anomalies=1, seconds=2, seed=seed)
        dataset.write_dataset(tmp_path / name, plan)
        contents.append([soundfile.read(path)[0] for path in sorted((tmp_path / name).rglob("*.flac"))])
    np.testing.assert_array_equal(contents[0], contents[1])
    assert not np.array_equal(contents[0], contents[2])


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        dataset.write_dataset(tmp_path, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        dataset.write_dataset(tmp_path / "data", PLAN)
    with pytest.raises(InputError, match="cannot be written"):
        dataset.write_dataset(tmp_path / "data" / "below", PLAN)


@pytest.mark.parametrize(
    "plan",
    [
        dataset.DatasetPlan(kinds=("slider",)),
        dataset.DatasetPlan(kinds=("valve",), anomaly_ids={"fan": ("00",)}),
        dataset.DatasetPlan(ids=("00",), anomaly_ids={"fan": ("02",)}),
        dataset.DatasetPlan(ids=("99",)),
        dataset.DatasetPlan(normals=-1),
        dataset.DatasetPlan(seed=-1),
        dataset.DatasetPlan(fault_snr_db=6.0),
        dataset.DatasetPlan(seconds=0.5),
    ],
)
def test_a_plan_that_cannot_be_rendered_leaves_no_file(tmp_path: Path, plan: dataset.DatasetPlan) -> None:
    with pytest.raises(InputError):
        dataset.write_dataset(tmp_path / "data", plan)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_an_interrupt_leaves_only_whole_files(tmp_path: Path) -> None:
    def stop_at_second(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.write_dataset(tmp_path, PLAN, stop_at_second)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0000.flac", "0001.flac"]
