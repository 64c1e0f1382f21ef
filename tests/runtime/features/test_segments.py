"""Segments: which frames a clip and a stream are cut into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.segments import SegmentSettings, SlidingSegments, clip_starts, live_starts, tile

pytestmark = pytest.mark.core

DEFAULT = SegmentSettings()


def numbered(frames: int) -> np.ndarray:
    """Frame t holds (t, -t): a segment then says which frames it was cut from."""
    t = np.arange(frames, dtype=np.float32)
    return np.stack([t, -t], axis=1)


def push(ring: SlidingSegments, frames: np.ndarray, sizes: list[int]) -> list[tuple[int, np.ndarray]]:
    found, at = [], 0
    for size in [*sizes, len(frames)]:
        found += [(first, segment.copy()) for first, segment in ring.push(frames[at : at + size])]
        at += size
    return found


# The clip rule


def test_a_ten_second_clip_has_ten_sections_six_frames_apart() -> None:
    assert clip_starts(311, DEFAULT) == [0, 6, 12, 18, 24, 30, 36, 42, 48, 54]


@pytest.mark.parametrize("frames", range(256, 265))
def test_a_clip_of_256_to_264_frames_gives_distinct_starts(frames: int) -> None:
    assert clip_starts(frames, DEFAULT) == [0]


def test_from_265_frames_on_there_are_ten_starts() -> None:
    assert clip_starts(265, DEFAULT) == list(range(10))
    assert clip_starts(274, DEFAULT) == list(range(0, 20, 2))
    # 18 s, the longest clips there are
    assert clip_starts(561, DEFAULT) == list(range(0, 331, 33))[:10]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (256, [0]),
        (257, [0, 1]),
        (264, [0, 8]),
        (265, list(range(10))),
        (311, [0, 6, 12, 18, 24, 30, 36, 42, 48, 55]),
    ],
)
def test_anchored_sections_end_with_the_clip(frames: int, expected: list[int]) -> None:
    assert clip_starts(frames, DEFAULT, anchored=True) == expected


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 400), st.booleans())
def test_every_section_lies_within_the_clip(length: int, sections: int, spare: int, anchored: bool) -> None:
    layout = SegmentSettings(frames=length, sections=sections)
    starts = clip_starts(length + spare, layout, anchored=anchored)
    assert starts == sorted(set(starts))
    assert starts[0] >= 0
    assert starts[-1] <= spare
    assert len(starts) <= sections
    if sections > 1:
        # as many as there can be: fewer only where the step is 0
        assert len(starts) == (sections if spare >= sections - 1 else (2 if anchored and spare else 1))
        assert not anchored or starts[-1] == spare


@pytest.mark.parametrize("frames", [0, 1, 255])
def test_a_clip_below_one_segment_is_refused(frames: int) -> None:
    with pytest.raises(InputError, match=f"{frames} frames: shorter than one segment of 256; use"):
        clip_starts(frames, DEFAULT)


@given(st.integers(1, 40), st.integers(1, 100))
def test_tiling_repeats_the_frames_in_order(frames: int, length: int) -> None:
    tiled = tile(numbered(frames), length)
    assert tiled.shape == (length, 2)
    np.testing.assert_array_equal(tiled[:, 0], np.arange(length) % frames)


# The live rule


@given(st.integers(256, 1200))
def test_both_rules_agree_on_a_clip_of_the_nominal_length(frames: int) -> None:
    layout = SegmentSettings.for_clip_length(frames)
    starts = clip_starts(frames, layout)
    if frames >= 265:
        assert live_starts(frames, layout)[:10] == starts
    assert layout.hop >= 1


def test_the_live_hop_of_ten_second_clips_is_six() -> None:
    assert SegmentSettings.for_clip_length(311).hop == 6
    assert SegmentSettings.for_clip_length(256).hop == 1


@pytest.mark.parametrize(("frames", "expected"), [(0, []), (255, []), (256, [0]), (261, [0]), (262, [0, 6])])
def test_a_live_segment_is_complete_with_its_last_frame(frames: int, expected: list[int]) -> None:
    assert live_starts(frames, DEFAULT) == expected


@settings(max_examples=300)
@given(
    st.integers(1, 40),
    st.integers(1, 130),
    st.integers(0, 600),
    st.lists(st.integers(0, 150), max_size=30),
)
def test_the_ring_yields_the_live_segments_whatever_the_chunks(
    length: int, hop: int, frames: int, sizes: list[int]
) -> None:
    """Hops beyond the segment and beyond the buffer included: frames between segments are skipped."""
    layout = SegmentSettings(frames=length, hop=hop)
    sound = numbered(frames)
    found = push(SlidingSegments(layout, 2), sound, sizes)
    assert [first for first, _ in found] == live_starts(frames, layout)
    for first, segment in found:
        np.testing.assert_array_equal(segment, sound[first : first + length])


def test_a_segment_appears_with_its_last_frame() -> None:
    layout = SegmentSettings(frames=5, hop=3)
    ring, sound = SlidingSegments(layout, 2), numbered(30)
    for t in range(30):
        due = t + 1 >= 5 and (t + 1 - 5) % 3 == 0
        assert [first for first, _ in ring.push(sound[t : t + 1])] == ([t + 1 - 5] if due else [])


@pytest.mark.parametrize("hop", [1, 6, 256, 257, 700, 4096])
def test_the_ring_keeps_a_bounded_buffer(hop: int) -> None:
    ring = SlidingSegments(SegmentSettings(frames=256, hop=hop), 2)
    held = ring._buffer
    for _ in range(40):
        for _ in ring.push(numbered(997)):
            pass
        assert ring._buffer is held
        assert ring._end <= len(held) == 512


def test_after_a_reset_the_next_frame_starts_a_segment() -> None:
    ring = SlidingSegments(SegmentSettings(frames=4, hop=9), 2)
    push(ring, numbered(7), [3])
    ring.reset()
    found = push(ring, numbered(17), [2, 2])
    assert [first for first, _ in found] == [0, 9]
    np.testing.assert_array_equal(found[0][1], numbered(4))
