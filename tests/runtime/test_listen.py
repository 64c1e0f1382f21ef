"""Listening: blocks in, records out; a gap starts everything afresh and an alarm takes a row of scores."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream
from edgeasd.runtime.scoring.threshold import AlarmRule, Threshold
from edgeasd.runtime.service.listen import Listener, Session, level_dbfs
from edgeasd.runtime.sources.capture import Block

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

FIRST = 131_584
"""Samples of the first segment; one more for each 3072."""


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return (0.02 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def threshold(clip: float, consecutive: int = 3) -> Threshold:
    return Threshold(clip=clip, consecutive=consecutive, found_by="here", clips=1)


@pytest.fixture(scope="module")
def opened(small_bundle: Path) -> Iterator[tuple[Scorer, Manifest]]:
    with Bundle(small_bundle) as bundle:
        yield bundle.open_scorer(threads=1)[0], bundle.manifest


def listener(opened: tuple[Scorer, Manifest], limit: Threshold | None) -> Listener:
    return Listener(opened[0], opened[1].model_copy(update={"threshold": limit}))


# Level


def test_level_is_rms_in_decibels_of_full_scale() -> None:
    assert level_dbfs(np.ones(100, np.float32)) == pytest.approx(0.0)
    assert level_dbfs(np.full(100, -0.1, np.float32)) == pytest.approx(-20.0, abs=1e-5)
    t = np.arange(16_000) / 16_000
    assert level_dbfs(np.sin(2 * np.pi * 100 * t).astype(np.float32)) == pytest.approx(-3.0103, abs=1e-3)


@pytest.mark.parametrize("quiet", [np.zeros(10, np.float32), np.zeros(0, np.float32), np.full(10, 1e-9, np.float32)])
def test_silence_is_120_decibels_down_and_not_infinite(quiet: np.ndarray) -> None:
    assert level_dbfs(quiet) == -120.0


def test_a_level_beyond_full_scale_does_not_overflow() -> None:
    assert level_dbfs(np.full(10, 1e19, np.float32)) == pytest.approx(380.0, abs=1e-3)


# The alarm rule


@given(st.lists(st.tuples(st.floats(-2, 2), st.booleans()), max_size=80), st.floats(-1, 1), st.integers(1, 6))
def test_an_alarm_is_a_row_of_complete_scores_above_the_threshold(
    scores: list[tuple[float, bool]], clip: float, consecutive: int
) -> None:
    rule = AlarmRule(threshold(clip, consecutive))
    active, changes, complete = [], [], []
    for score, whole in scores:
        change = rule.update(score, whole)
        if whole:
            complete.append(score > clip)
            active.append(rule.active)
            changes.append(change)
        else:
            assert change is None
    # the definition, told from the other end: within each row above, from its n-th score on
    expected: list[bool] = []
    for above, row in groupby(complete):
        expected += [above and i >= consecutive for i, _ in enumerate(row, start=1)]
    assert active == expected
    before = False
    for now, change in zip(active, changes, strict=True):
        assert change == (None if now == before else now)
        before = now


def test_a_score_on_the_threshold_is_not_above_it() -> None:
    rule = AlarmRule(threshold(0.5, 1))
    assert rule.update(0.5, True) is None
    assert rule.update(math.nextafter(0.5, 1), True) is True
    assert rule.update(0.5, True) is False


def test_without_a_threshold_there_is_no_alarm() -> None:
    rule = AlarmRule(None)
    assert [rule.update(1e9, True) for _ in range(10)] == [None] * 10
    assert not rule.active


def test_a_reset_forgets_the_row_and_the_alarm() -> None:
    rule = AlarmRule(threshold(0.0, 3))
    for _ in range(3):
        rule.update(1.0, True)
    assert rule.active
    rule.reset()
    assert not rule.active
    assert [rule.update(1.0, True) for _ in range(3)] == [None, None, True]


# The listener


def test_records_carry_the_scores_of_the_stream(opened: tuple[Scorer, Manifest]) -> None:
    samples = sound(FIRST + 12 * 3072)
    records = list(listener(opened, None).accept(Block(0, samples)))
    scores = Stream(opened[0]).push(samples)
    assert [record["type"] for record in records] == ["score"] * 13
    for record, score in zip(records, scores, strict=True):
        for name in ("index", "start_sample", "end_sample", "score", "clip_score", "averaged", "complete", "q", "d"):
            assert record[name] == getattr(score, name)
        assert record["end_seconds"] == round(score.end_sample / 16_000, 6)
        assert (record["machine"], record["id"], record["threshold"], record["alarm"]) == ("valve", "00", None, False)
        assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_level_is_that_of_the_last_block(opened: tuple[Scorer, Manifest]) -> None:
    listening = listener(opened, None)
    assert listening.level == -120.0
    list(listening.accept(Block(0, np.full(100, 0.1, np.float32))))
    assert listening.level == pytest.approx(-20.0, abs=1e-5)


def test_an_alarm_begins_with_the_third_complete_score_above(opened: tuple[Scorer, Manifest]) -> None:
    records = list(listener(opened, threshold(-1e9)).accept(Block(0, sound(FIRST + 14 * 3072))))
    kinds = [record["type"] for record in records]
    # scores 1 to 9 are not complete; 10, 11 and 12 are the row
    assert kinds == ["score"] * 12 + ["alarm"] + ["score"] * 3
    assert [record["alarm"] for record in records if record["type"] == "score"] == [False] * 11 + [True] * 4
    alarm = records[12]
    assert alarm["state"] == "raised"
    assert alarm["end_sample"] == FIRST + 11 * 3072
    assert (alarm["threshold"], alarm["consecutive"]) == (-1e9, 3)
    assert alarm["clip_score"] == records[11]["clip_score"]


def test_an_alarm_ends_with_the_first_score_below(opened: tuple[Scorer, Manifest]) -> None:
    quiet, loud = sound(FIRST + 20 * 3072), 20 * sound(40 * 3072, 1)
    samples = np.concatenate([quiet, loud, quiet])
    values = [r["clip_score"] for r in listener(opened, None).accept(Block(0, samples)) if r["complete"]]
    middle = (min(values) + max(values)) / 2
    records = list(listener(opened, threshold(middle)).accept(Block(0, samples)))
    changes = [(record["state"], record["clip_score"] > middle) for record in records if record["type"] == "alarm"]
    assert len(changes) >= 2, "the sound should cross the threshold both ways"
    for at, change in enumerate(changes):
        assert change == (("raised", True) if at % 2 == 0 else ("cleared", False))


def test_a_gap_resets_the_stream_and_clears_the_alarm(opened: tuple[Scorer, Manifest]) -> None:
    listening = listener(opened, threshold(-1e9))
    length, lost = FIRST + 14 * 3072 + 100, 12_345
    before = list(listening.accept(Block(0, sound(length))))
    assert before[-1]["alarm"] is True
    after = list(listening.accept(Block(length + lost, sound(length, 1))))
    assert after[0] == {
        "type": "gap",
        "version": 1,
        "machine": "valve",
        "id": "00",
        "at_sample": length,
        "lost_samples": lost,
        "driver_overrun": False,
        "alarm_cleared": True,
    }
    fresh = list(listener(opened, threshold(-1e9)).accept(Block(0, sound(length, 1))))
    assert [r["type"] for r in after[1:]] == [r["type"] for r in fresh], "the row of the alarm starts afresh too"
    for found, expected in zip(after[1:], fresh, strict=True):
        assert found["clip_score"] == expected["clip_score"]
        assert found["end_sample"] == expected["end_sample"] + length + lost
    assert listening.samples_seen == 2 * length + lost


def test_no_segment_spans_a_gap(opened: tuple[Scorer, Manifest]) -> None:
    listening = listener(opened, None)
    assert list(listening.accept(Block(0, sound(FIRST - 1)))) == []
    records = list(listening.accept(Block(FIRST, sound(FIRST - 1))))
    assert [record["type"] for record in records] == ["gap"]
    assert records[0]["alarm_cleared"] is False


def test_a_late_beginning_is_a_gap_too(opened: tuple[Scorer, Manifest]) -> None:
    (record,) = listener(opened, None).accept(Block(500, sound(10)))
    assert (record["type"], record["at_sample"], record["lost_samples"]) == ("gap", 0, 500)


# A session


class Chunks:
    """A source of one sound in odd chunks."""

    name, sample_rate, live = "chunks of noise", 16_000, False

    def __init__(self, samples: np.ndarray, error: Exception | None = None) -> None:
        self._samples, self._at, self._error = samples, 0, error
        self.closed = False

    def read(self) -> np.ndarray | None:
        block = self._samples[self._at : self._at + 777]
        self._at += 777
        if block.size:
            return block
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        self.closed = True


def run(bundle: Bundle, source: Chunks, limit: int | None = None) -> list[dict[str, Any]]:
    session, records = Session(bundle, source, limit=limit), []
    session.start()
    try:
        records.append(session.load(threads=1))
        session.listen(records.append)
    finally:
        records.append(session.stop("end of sound"))
    return records


def test_a_session_scores_the_whole_source(small_bundle: Path, opened: tuple[Scorer, Manifest]) -> None:
    samples = sound(FIRST + 12 * 3072 + 55)
    source = Chunks(samples)
    with Bundle(small_bundle) as bundle:
        start, *scores, end = run(bundle, source)
    assert (start["type"], start["source"], start["precision"], start["status"]) == (
        "start",
        "chunks of noise",
        "fp32",
        "calibrated",
    )
    assert "onnxruntime" in start["engine"]
    expected = Stream(opened[0]).push(samples)
    found = [record for record in scores if record["type"] == "score"]
    assert [record["end_sample"] for record in found] == [score.end_sample for score in expected]
    assert [record["clip_score"] for record in found] == pytest.approx([s.clip_score for s in expected], rel=1e-6)
    assert (end["type"], end["reason"], end["samples"], end["dropped_samples"]) == (
        "end",
        "end of sound",
        len(samples),
        0,
    )
    assert source.closed


def test_a_session_with_a_limit_ends_there(small_bundle: Path) -> None:
    with Bundle(small_bundle) as bundle:
        records = run(bundle, Chunks(sound(200_000)), limit=FIRST)
    assert [record["type"] for record in records] == ["start", "score", "end"]
    assert records[-1]["samples"] == FIRST


def test_the_error_of_the_source_comes_after_its_scores(small_bundle: Path) -> None:
    session_records: list[dict[str, Any]] = []
    with Bundle(small_bundle) as bundle:
        session = Session(bundle, Chunks(sound(FIRST), InputError("x.wav: cut off; copy it again")))
        session.start()
        session.load(threads=1)
        with pytest.raises(InputError, match=r"x\.wav: cut off"):
            session.listen(session_records.append)
        session.stop("error")
    assert [record["type"] for record in session_records] == ["score"]


def test_bad_samples_stop_the_session_with_their_position(small_bundle: Path) -> None:
    samples = sound(50_000)
    samples[43_210] = np.nan
    with Bundle(small_bundle) as bundle, pytest.raises(InputError, match=r"sample 43210 \(2\.701 s\)"):
        run(bundle, Chunks(samples))


def test_a_loss_in_the_driver_is_a_gap_of_unknown_length(opened: tuple[Scorer, Manifest]) -> None:
    """After an overrun positions go on as if nothing was lost; a segment must not span it all the same."""
    listening = listener(opened, threshold(1e9))
    list(listening.accept(Block(0, sound(FIRST - 1))))
    after = list(listening.accept(Block(FIRST - 1, sound(FIRST, 1), after_loss=True)))
    assert (after[0]["type"], after[0]["lost_samples"], after[0]["driver_overrun"]) == ("gap", 0, True)
    assert [record["start_sample"] for record in after if record["type"] == "score"] == [FIRST - 1]


def test_scoring_that_falls_behind_a_live_sound_says_so(small_bundle: Path) -> None:
    """A source that delivers a minute at once: what waits is reported, and no longer once it is worked off."""

    class Flood:
        name, sample_rate, live = "flood", 16_000, True

        def __init__(self) -> None:
            self.left = 40

        def read(self) -> np.ndarray | None:
            self.left -= 1
            return sound(16_000) if self.left >= 0 else None

        def close(self) -> None:
            pass

    records: list[dict[str, object]] = []
    with Bundle(small_bundle) as bundle:
        session = Session(bundle, Flood(), pace="block")
        session.start()
        session.load(threads=1)
        time.sleep(0.2)
        session.listen(records.append)
        session.stop("end of sound")
    late = [record for record in records if record["type"] == "late"]
    assert late
    assert all(5.0 <= float(str(record["behind_seconds"])) <= 60.0 for record in late)
    assert len(late) < 12, "one record for every block would be noise"
