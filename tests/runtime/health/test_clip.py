"""What a usable clip is: the rule that scan, train, score, calibrate, record and import share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.health.clip import clip_states, is_usable

pytestmark = pytest.mark.core
RATE = 16_000


def sound(seconds: float = 10.0, level: float = 0.05) -> np.ndarray:
    return (level * np.random.default_rng(4).standard_normal(int(seconds * RATE))).astype(np.float32)


def dead_after(seconds: float, rest: float = 0.0) -> np.ndarray:
    samples = sound()
    samples[int(seconds * RATE) :] *= np.float32(rest)
    return samples


def with_holes() -> np.ndarray:
    samples = sound()
    for at in range(RATE, 9 * RATE, 2 * RATE):
        samples[at : at + 800] = 0
    return samples


@pytest.mark.parametrize(
    ("samples", "states", "usable"),
    [
        (sound(), (), True),
        (sound(0.5), (), True),
        (0 * sound(), ("digital_silence",), False),
        (dead_after(0.1), ("digital_silence",), False),
        (dead_after(8.5), ("digital_silence",), False),
        (dead_after(0.1, 1e-4), ("silence",), False),
        (sound(level=5e-5), ("silence",), False),
        (np.tile(sound(0.3), 30), ("stuck",), False),
        (np.clip(sound(level=0.5), -1, 1), ("clipping",), True),
        (sound() + np.float32(0.1), ("dc_offset",), True),
        (with_holes(), ("dropouts",), True),
        (np.concatenate([sound(5.0), sound(2.0, 1e-5), sound(3.0)]), (), True),
    ],
    ids=lambda value: "" if isinstance(value, np.ndarray) else str(value),
)
def test_states_of_a_clip(samples: np.ndarray, states: tuple[str, ...], usable: bool) -> None:
    found = clip_states(np.ascontiguousarray(samples, np.float32), RATE)
    assert found == states
    assert is_usable(found) is usable


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 0.15), st.integers(1, 60_000), st.sampled_from([8_000, 16_000, 44_100, 500]))
def test_noise_of_a_working_microphone_is_usable(level: float, length: int, rate: int) -> None:
    samples = np.random.default_rng(length).normal(0, level, length + 100).astype(np.float32)
    assert clip_states(samples, rate) == ()
