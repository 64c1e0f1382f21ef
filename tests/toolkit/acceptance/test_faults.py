"""Faults as they are mixed into normal recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.acceptance.faults import KINDS, demo_faults, given_faults, mix
from edgeasd.toolkit.demo.faults import rms

RATE = 16_000


def normal(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    return (0.05 * np.random.default_rng(0).standard_normal(int(seconds * rate))).astype(np.float32)


@pytest.mark.parametrize("rate", [16_000, 32_000])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_the_length_of_the_recording(name: str, rate: int) -> None:
    sound = normal(rate=rate)
    (kind,) = demo_faults([name], rate)
    made = kind.make(np.random.default_rng(1), sound)
    assert (made.dtype, made.shape) == (np.float32, sound.shape)
    assert rms(made[rate // 2 :]) > 0
    assert np.array_equal(made, kind.make(np.random.default_rng(1), sound))


@pytest.mark.parametrize("db", [0.0, -12.0])
def test_a_fault_joins_at_its_level_and_from_its_start(db: float) -> None:
    sound = normal(4.0)
    (kind,) = demo_faults(["leak"], RATE)
    mixed = mix(sound, kind.make(np.random.default_rng(1), sound), db, RATE, RATE)
    assert np.array_equal(mixed[:RATE], sound[:RATE])
    added = (mixed - sound)[2 * RATE :]
    assert 20 * np.log10(rms(added) / rms(sound)) == pytest.approx(db, abs=0.5)


def test_recorded_faults_are_kinds_by_folder(tmp_path: Path) -> None:
    for name in ("belt/a.wav", "belt/b.wav", "whistle.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, normal(0.5), RATE)
    kinds = given_faults(tmp_path, RATE, None)
    assert sorted(kind.name for kind in kinds) == sorted(["belt", tmp_path.name])
    assert kinds[0].make(np.random.default_rng(0), normal(3.0)).shape == (3 * RATE,)


def test_faults_that_cannot_be_mixed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sticking: changes the machine's own sound"):
        demo_faults(["sticking"], RATE)
    with pytest.raises(InputError, match="hum: unknown; use some of leak"):
        demo_faults(["hum"], RATE)
    with pytest.raises(InputError, match="0 WAV or FLAC files"):
        given_faults(tmp_path, RATE, None)
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    with pytest.raises(InputError, match=r"silence.wav: silence"):
        given_faults(tmp_path, RATE, None)
