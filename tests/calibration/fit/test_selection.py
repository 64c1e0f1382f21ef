"""Choosing calibration segments: the usual and the unusual, from bounded memory, the same every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.fit.clips import (
    DESCRIPTORS,
    SegmentChoice,
    SegmentView,
    choose_segments,
    describe,
    standardised,
)
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.segments import SegmentSettings, live_starts

pytestmark = pytest.mark.core

SMALL = SegmentSettings(frames=16, hop=4, sections=3)


def clips(count: int, frames: int = 40, seed: int = 0) -> list[np.ndarray]:
    """Noise of about the same level, 24 mels."""
    rng = np.random.default_rng(seed)
    return [rng.normal(-1.0, 0.3, (frames, 24)).astype(np.float32) for _ in range(count)]


class Opened:
    """Clips that are made when asked for, and how often and in which order that was."""

    def __init__(self, found: list[np.ndarray]) -> None:
        self.found, self.asked = found, []

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int, /) -> np.ndarray:
        self.asked.append(index)
        return self.found[index]


def loud(clip: np.ndarray) -> None:
    clip[20:26] += 3.0


def hiss(clip: np.ndarray) -> None:
    clip[8:24, 20:] += 2.0
    clip[8:24, :20] -= 0.4


def quiet(clip: np.ndarray) -> None:
    clip[8:24] -= 2.0


def flicker(clip: np.ndarray) -> None:
    clip[8:24:2] += 0.6
    clip[9:24:2] -= 0.6


@pytest.mark.parametrize("plant", [loud, hiss, quiet, flicker])
def test_a_rare_segment_is_chosen(plant: Callable[[np.ndarray], None]) -> None:
    """One of 200 clips differs; by chance 16 of 1,400 segments would meet it once in ten."""
    found = clips(200)
    plant(found[137])
    assert any(one.clip == 137 for one in choose_segments(found, 16, SMALL))


def test_the_usual_half_covers_clips_and_time() -> None:
    found = choose_segments(clips(40), 80, SMALL)
    assert len({one.clip for one in found}) >= 30
    starts = [one.start for one in found]
    assert {start: starts.count(start) > 3 for start in live_starts(40, SMALL)} == dict.fromkeys(range(0, 25, 4), True)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 3), st.lists(st.integers(16, 60), min_size=1, max_size=8))
def test_segments_are_distinct_ordered_and_reproducible(count: int, seed: int, lengths: list[int]) -> None:
    found = [clips(1, length, seed=index)[0] for index, length in enumerate(lengths)]
    chosen = choose_segments(found, count, SMALL, seed)
    possible = [SegmentChoice(i, start) for i, length in enumerate(lengths) for start in live_starts(length, SMALL)]
    assert len(chosen) == min(count, len(possible))
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(possible)
    assert chosen == choose_segments(found, count, SMALL, seed)


def test_constant_clips_give_distinct_segments_too() -> None:
    assert len(set(choose_segments([np.zeros((40, 24), np.float32)] * 3, 12, SMALL))) == 12


def test_another_seed_draws_others() -> None:
    assert choose_segments(clips(40), 20, SMALL, 0) != choose_segments(clips(40), 20, SMALL, 1)


def test_each_clip_is_opened_once_to_choose_and_once_to_read() -> None:
    opened = Opened(clips(10))
    told: list[tuple[int, int]] = []
    chosen = choose_segments(opened, 30, SMALL, report=lambda done, total: told.append((done, total)))
    assert opened.asked == list(range(10))
    assert told == [(i, 10) for i in range(1, 11)]
    view = SegmentView(opened, chosen, 16)
    opened.asked.clear()
    assert view[0:30].shape == (30, 16, 24)
    assert opened.asked == sorted({one.clip for one in chosen})
    expected = np.stack([opened.found[one.clip][one.start : one.start + 16] for one in chosen])
    np.testing.assert_array_equal(np.concatenate([view[i : i + 7] for i in range(0, len(view), 7)]), expected)
    np.testing.assert_array_equal(view[::10], expected[::10])


@pytest.mark.parametrize(
    ("found", "count", "message"),
    [
        (clips(2), 0, "0 calibration segments: choose 1 or more"),
        ([], 5, "0 clips give no calibration segments"),
        ([*clips(1), *clips(1, 15)], 5, "clip 1: 15 frames, a calibration segment takes 16"),
        ([np.full((40, 24), np.nan, np.float32)], 5, "clip 0: its log-mel has a value that is not finite"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(found: list[np.ndarray], count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_segments(found, count, SMALL)


def test_descriptors_are_those_of_each_segment_cut_out() -> None:
    (clip,) = clips(1)
    clip[30:] += 1.0
    starts = live_starts(40, SMALL)
    found = describe(clip, starts, 16)
    assert found.shape == (len(starts), len(DESCRIPTORS))
    for row, start in zip(found, starts):
        part = clip[start : start + 16].astype(np.float64)
        assert row[0] == pytest.approx(part.mean())
        assert row[1] == pytest.approx(part.mean(axis=1).max())
        assert row[2] == pytest.approx(part.mean(axis=1).min())
        assert row[3] == pytest.approx(np.abs(np.diff(part, axis=0)).mean())
        assert row[4:] == pytest.approx(part.reshape(16, 8, 3).mean(axis=(0, 2)) - part.mean())


def test_what_does_not_vary_counts_for_nothing() -> None:
    made = standardised(np.array([[1.0, 0.1], [3.0, 0.1 + 1e-15], [5.0, 0.1]]))
    assert made[:, 0] == pytest.approx([-1.224745, 0, 1.224745])
    assert (made[:, 1] == 0).all()
