"""A stream: sound in, updates and records out, however the sound is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alarm_rule import AlarmRule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeasd.runtime.alarms import SERVICE, AlarmSettings
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.config import StreamSettings
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream, score_streams
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.service.monitored import MonitoredMachine, clip_seconds
from edgeasd.runtime.service.stream import StreamWorker, level_dbfs, live_records
from edgeasd.runtime.service.updates import StreamUpdate
from edgeasd.runtime.sources import AudioChunk, SourceEvent, SourceEventKind, SourceState, SourceStatus
from edgeasd.toolkit.demo.machines import render

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

RATE, HOP = 16_000, 3072
FIRST = 131_584
"""Samples of the first segment; one more for each HOP."""
CLIP = FIRST + 9 * HOP
"""Samples of a complete clip score."""
Opened = tuple[Scorer, Manifest]


@pytest.fixture(scope="module")
def opened(small_bundle: Path) -> Iterator[Opened]:
    with Bundle(small_bundle) as bundle:
        scorer, _ = bundle.open_scorer(threads=1)
        yield scorer, bundle.manifest
        scorer.close()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.02 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def with_threshold(manifest: Manifest, clip: float, consecutive: int = 3) -> Manifest:
    threshold = Threshold(clip=clip, consecutive=consecutive, found_by="here", clips=1)
    return manifest.model_copy(update={"threshold": threshold})


def records(opened: Opened, sound: np.ndarray, clip: float = -1e9) -> list[dict[str, Any]]:
    return list(live_records(opened[0], with_threshold(opened[1], clip), sound))


def bodies(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one["body"] for one in found if one["kind"] == kind]


class FakeSource:
    """A source that gives what a test puts into it."""

    name, sample_rate = "fake", RATE

    def __init__(self, *chunks: AudioChunk | Exception, live: bool = False) -> None:
        self.chunks, self.live = list(chunks), live
        self.status = SourceStatus(SourceState.OPEN)
        self.events: list[SourceEvent] = []

    def read(self) -> AudioChunk | None:
        given = self.chunks.pop(0) if self.chunks else None
        if isinstance(given, Exception):
            raise given
        return given

    def take_events(self) -> list[SourceEvent]:
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        self.chunks.clear()


def make_worker(opened: Opened, source: FakeSource, alarm: AlarmSettings | None = None, **how: Any) -> StreamWorker:
    what = {"device": "hw:1"} if source.live else {"input": "-"}
    chosen = StreamSettings(bundle="-", alarm=alarm or AlarmSettings(), **what)
    worker = StreamWorker("a", chosen, opened[1], source, **how)
    worker.replace_bundle(chosen, opened[1], opened[0])
    worker.take_updates()
    return worker


def feed(worker: StreamWorker, *chunks: AudioChunk) -> list[StreamUpdate]:
    """What the worker reports of these chunks."""
    assert worker.stream is not None
    for chunk in chunks:
        worker.accept(chunk)
        worker.finish(score_streams([worker.stream])[0])
    return worker.take_updates()


# Level


def test_level_is_rms_in_decibels_of_full_scale() -> None:
    assert level_dbfs(np.ones(100, np.float32)) == pytest.approx(0.0)
    assert level_dbfs(np.full(100, -0.1, np.float32)) == pytest.approx(-20.0, abs=1e-5)
    for quiet in (np.zeros(10, np.float32), np.zeros(0, np.float32), np.full(10, 1e-9, np.float32)):
        assert level_dbfs(quiet) == -120.0
    assert level_dbfs(np.full(10, 1e19, np.float32)) == pytest.approx(380.0, abs=1e-3)


# Scores and alarms


def test_records_carry_the_scores_of_the_stream(opened: Opened) -> None:
    samples = noise(FIRST + 12 * HOP)
    found = records(opened, samples)
    scores = Stream(opened[0]).push(samples)
    segments = [one for one in found if one["kind"] == "segment"]
    for record, score in zip(segments, scores, strict=True):
        body = record["body"]
        for name in ("index", "start_sample", "end_sample", "score", "clip_score", "averaged", "complete", "q", "d"):
            assert body[name] == getattr(score, name)
        assert body["end_seconds"] == round(score.end_sample / RATE, 6)
        assert (record["schema"], record["machine"], record["id"], record["at"]) == (2, "valve", "00", None)


def test_alarms_are_those_of_the_rule_of_the_manifest(opened: Opened) -> None:
    quiet, loud = noise(FIRST + 20 * HOP), 4 * noise(40 * HOP, 1)
    samples = np.concatenate([quiet, loud, quiet])
    values = [body["clip_score"] for body in bodies(records(opened, samples), "segment") if body["complete"]]
    middle = (min(values) + max(values)) / 2
    rule, expected, found = AlarmRule(with_threshold(opened[1], middle).threshold), [], []
    for record in records(opened, samples, middle):
        if record["kind"] == "segment":
            last = record["body"]
            change = rule.update(last["clip_score"], last["complete"])
            expected += [] if change is None else [(last["end_sample"], "alarm" if change else "cleared")]
        elif record["kind"] == "event" and record["body"]["state"] in ("alarm", "cleared"):
            found.append((last["end_sample"], record["body"]["state"]))
    assert found == expected
    assert [state for _, state in found[:2]] == ["alarm", "cleared"]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 14 * RATE), max_size=12, unique=True))
def test_updates_do_not_depend_on_how_sound_is_cut(opened: Opened, cuts: list[int]) -> None:
    sound = np.concatenate([noise(RATE), np.zeros(2 * RATE, np.float32), noise(CLIP + 3 * HOP, 1)])
    shown = []
    for places in ([], sorted(cut for cut in cuts if cut < sound.size)):
        worker = make_worker(opened, FakeSource(), clock=lambda: 100.0)
        parts = zip([0, *places], [*places, sound.size], strict=True)
        updates = feed(worker, *(AudioChunk(sound[start:end], start) for start, end in parts))
        shown.append([replace(one, wall=0.0) for one in updates])
    assert shown[0] == shown[1]
    assert sum(one.health is not None for one in shown[0]) == 2


# Gaps


@pytest.mark.parametrize(("lost", "is_overrun"), [(12_345, False), (0, True)], ids=["known", "unknown"])
def test_a_gap_resets_the_stream_and_clears_the_alarm(opened: Opened, lost: int, is_overrun: bool) -> None:
    manifest = with_threshold(opened[1], -1e9)
    length = FIRST + 14 * HOP + 100
    worker, machine = make_worker((opened[0], manifest), FakeSource()), MonitoredMachine("a", manifest, AlarmSettings())
    for update in feed(worker, AudioChunk(noise(length), 0)):
        machine.update(update)
    assert machine.machine.state == "alarm"
    gap, *after = feed(worker, AudioChunk(noise(length, 1), length + lost, discontinuity=True))
    body = {"at_sample": length, "lost_samples": lost, "driver_overrun": is_overrun}
    assert (gap.has_gap, gap.record) == (True, ("gap", body))
    assert [one.state for one in machine.update(gap)] == ["cleared", "normal"]
    fresh = feed(make_worker((opened[0], manifest), FakeSource()), AudioChunk(noise(length, 1), 0))
    assert [one.clip_score for one in after] == [one.clip_score for one in fresh]
    assert [one.position for one in after] == [one.position + length + lost for one in fresh]
    assert worker.seconds == (2 * length + lost) / RATE


def test_no_segment_spans_a_gap(opened: Opened) -> None:
    worker = make_worker(opened, FakeSource())
    assert feed(worker, AudioChunk(noise(FIRST - 1), 0)) == []
    assert [one.has_gap for one in feed(worker, AudioChunk(noise(FIRST - 1), FIRST))] == [True]


def test_segments_before_a_gap_are_scored_before_it(opened: Opened) -> None:
    source = FakeSource(AudioChunk(noise(FIRST), 0), AudioChunk(noise(FIRST, 1), FIRST + 800, discontinuity=True))
    worker = make_worker(opened, source)
    worker.start()
    found: list[StreamUpdate] = []
    assert worker.stream is not None
    while not worker.has_ended:
        worker.take_in(10)
        worker.finish(score_streams([worker.stream])[0])
        found += worker.take_updates()
    assert [(one.has_gap, one.position) for one in found] == [(False, FIRST), (True, None), (False, 2 * FIRST + 800)]


# Ends


def test_a_sound_too_short_for_a_score_is_an_error(opened: Opened) -> None:
    worker = make_worker(opened, FakeSource(AudioChunk(noise(1000), 0)))
    feed(worker, AudioChunk(noise(1000), 0))
    worker.end()
    assert "ended after 1000 samples; the first score takes 131584, 130584 (8.16 s) more" in str(worker.error)


def test_a_limit_ends_the_sound_at_that_sample(opened: Opened) -> None:
    source = FakeSource(AudioChunk(noise(FIRST), 0), AudioChunk(noise(FIRST), FIRST))
    worker = make_worker(opened, source, limit=FIRST + 500)
    worker.start()
    assert worker.stream is not None
    while not worker.has_ended:
        worker.take_in(10)
        worker.finish(score_streams([worker.stream])[0])
    worker.end()
    kind, body = worker.take_updates()[-1].record or ("", {})
    assert (kind, body["reason"], body["samples"], body["segments"]) == ("stop", "end of sound", FIRST + 500, 1)


def test_the_error_of_the_source_is_that_of_the_stream(opened: Opened) -> None:
    worker = make_worker(opened, FakeSource(InputError("x.wav: cut off; copy it again")))
    worker.start()
    while not worker.has_ended:
        pass
    worker.end()
    assert str(worker.error) == "x.wav: cut off; copy it again"


def test_bad_samples_end_a_file_and_are_left_out_of_live_sound(opened: Opened) -> None:
    bad = noise(50_000)
    bad[43_210] = np.nan
    with pytest.raises(InputError, match=r"sample 43210 \(2\.701 s\)"):
        feed(make_worker(opened, FakeSource()), AudioChunk(bad, 0))
    worker = make_worker(opened, FakeSource(live=True))
    assert feed(worker, AudioChunk(bad, 0)) == []
    assert worker.bad_chunks == 1
    assert [one.has_gap for one in feed(worker, AudioChunk(noise(100), 50_000))] == [True]


def test_events_of_the_source_are_records(opened: Opened) -> None:
    source = FakeSource(live=True)
    worker = make_worker(opened, source)
    source.events = [SourceEvent(SourceEventKind.LOST, "hw:1: unplugged", at=5.0)]
    source.status = SourceStatus(SourceState.REOPENING, "hw:1: unplugged")
    worker.take_source_events()
    (update,) = worker.take_updates()
    assert update.is_unhealthy
    body = {"state": "lost", "detail": "hw:1: unplugged", "at_sample": None, "lost_seconds": 0.0}
    assert update.record == ("source", body)


# Replacing the bundle


def test_replacing_the_bundle_loses_no_sound(opened: Opened) -> None:
    worker = make_worker(opened, FakeSource())
    sound = noise(FIRST + 30 * HOP)
    before = feed(worker, AudioChunk(sound[: FIRST + 10 * HOP], 0))
    worker.replace_bundle(worker.settings, with_threshold(opened[1], 0.5), opened[0])
    start, *after = [*worker.take_updates(), *feed(worker, AudioChunk(sound[FIRST + 10 * HOP :], FIRST + 10 * HOP))]
    assert (start.record or ("", {}))[1]["threshold"] == 0.5
    assert [one.position for one in [*before, *after]] == [FIRST + n * HOP for n in range(31)]
    assert [one.is_complete for one in after].index(True) == 9, "the clip mean begins afresh"


# Unhealthy input


def live_updates(opened: Opened, sound: np.ndarray, decimation: int = 1) -> list[StreamUpdate]:
    """What a stream of the service reports of `sound`, as it would come live; times begin at 1000."""
    clock = [1000.0]
    worker = make_worker(opened, FakeSource(live=True), SERVICE, clock=lambda: clock[0])
    assert worker.stream is not None
    worker.stream.decimation = decimation
    found: list[StreamUpdate] = []
    for at in range(0, len(sound), 512):
        clock[0] = 1000.0 + (at + 512) / RATE
        found += feed(worker, AudioChunk(sound[at : at + 512], at, captured_at=1000.0 + at / RATE))
    return found


def raised(manifest: Manifest, updates: list[StreamUpdate], policy: AlarmSettings) -> list[float]:
    """Seconds of sound after which alarms were raised."""
    machine, times = MonitoredMachine("a", manifest, policy), []
    for update in updates:
        changes = machine.update(update)
        times += [update.time - 1000.0 for one in changes if one.state == "alarm" != one.previous]
    return times


def sixteen_bits(sound: np.ndarray) -> np.ndarray:
    return (np.clip(np.round(sound * 32768), -32768, 32767) / 32768).astype(np.float32)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sound: 10 ** (-85 / 20) * np.random.default_rng(5).standard_normal(len(sound)),
        lambda sound: 10 ** (-30 / 20) * sound,
    ],
    ids=["converter noise", "gain turned down"],
)
def test_no_alarm_comes_from_sound_before_it_is_known_unhealthy(
    opened: Opened, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    healthy, cut = render("valve", "00", seconds=45.0, seed=3), 20 * RATE
    found = live_updates(opened, sixteen_bits(np.concatenate([healthy[:cut], spoil(healthy[cut:])])))
    known = min(one.time - 1000.0 for one in found if one.is_unhealthy)
    assert known > 25
    assert not any(one.is_suspect for one in found if one.time - 1000.0 < 20.0)
    believing = raised(opened[1], [replace(one, is_suspect=False) for one in found], SERVICE)
    assert believing, "this sound raises no alarm anyway"
    assert 20.0 < believing[0] < known
    assert raised(opened[1], found, SERVICE) == []


@pytest.mark.parametrize("decimation", [1, 8])
def test_no_score_is_used_that_holds_unhealthy_sound(opened: Opened, decimation: int) -> None:
    """Zeros from 20 to 25 s. A policy without a time to recover, and on which every score is an alarm."""
    sound = sixteen_bits(render("valve", "00", seconds=60.0, seed=3))
    sound[20 * RATE : 25 * RATE] = 0.0
    found = live_updates(opened, sound, decimation)
    windows = {round(one.window_seconds, 6) for one in found if one.is_complete and one.window_seconds is not None}
    assert windows == {round(clip_seconds(opened[1]) + 9 * HOP / RATE * (decimation - 1), 6)}
    policy = AlarmSettings(on=-1e6, k=1, recovery_seconds=0.0)
    late = found[next(number for number, one in enumerate(found) if one.is_unhealthy) :]
    (first,) = raised(opened[1], late, policy)
    assert first - max(windows) >= 25.0 - 0.3


def test_a_dead_microphone_is_reported_and_raises_no_alarm(opened: Opened) -> None:
    found = records(opened, np.concatenate([noise(2 * RATE), np.zeros(CLIP + 10 * HOP, np.float32)]))
    (health,) = bodies(found, "health")
    assert health["unhealthy"] is True
    assert health["states"]["digital_silence"]["active"] is True
    assert health["states"]["digital_silence"]["since_seconds"] == pytest.approx(2.0, abs=0.2)
    assert sum(body["complete"] for body in bodies(found, "segment")) >= 3, "there were scores for an alarm"
    assert [body["state"] for body in bodies(found, "event")] == ["normal"]


def test_unhealthy_input_ends_no_alarm(opened: Opened) -> None:
    loud, quiet = 4.0 * noise(CLIP + 10 * HOP), noise(CLIP + 10 * HOP, 1)
    for hole in range(3):
        quiet[500 + 4000 * hole :][:160] = 0.0
    sound = np.concatenate([loud, quiet])
    values = [body["clip_score"] for body in bodies(records(opened, sound), "segment") if body["complete"]]
    clip = (values[0] + values[-1]) / 2
    assert values[-1] < clip < min(values[:10]), "the loud sound should score above the quiet one"
    found = records(opened, sound, clip)
    assert bodies(found, "health")[-1]["states"]["dropouts"]["active"] is True
    states = [(body["state"], body["reason"]) for body in bodies(found, "event")]
    assert states == [("alarm", "score"), ("alarm", "input_unhealthy")]


def test_three_losses_in_a_minute_make_the_input_unhealthy(opened: Opened) -> None:
    worker, position, found = make_worker(opened, FakeSource()), 0, list[StreamUpdate]()
    for number in range(4):
        found += feed(worker, AudioChunk(noise(2 * RATE, number), position))
        position += 2 * RATE + 800
    assert [one.has_gap for one in found] == [True, True, True, False]
    assert found[-1].health is not None
    assert found[-1].health.active == ("dropouts",)
