"""What a person sees: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.service.standing import Standing
from edgeasd.runtime.service.terminal import TerminalView

pytestmark = pytest.mark.core


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def score(**changes: Any) -> dict[str, Any]:
    record = {
        "type": "score",
        "machine": "valve",
        "id": "00",
        "end_seconds": 12.5,
        "clip_score": 0.123,
        "complete": True,
        "threshold": 0.5,
        "alarm": False,
    }
    return record | changes


def alarm(state: str) -> dict[str, Any]:
    return {
        "type": "alarm",
        "state": state,
        "machine": "valve",
        "id": "00",
        "end_seconds": 31.25,
        "clip_score": 0.75,
        "threshold": 0.5,
        "consecutive": 3,
    }


GAP = {"type": "gap", "machine": "valve", "id": "00", "lost_samples": 8000, "at_sample": 0, "alarm_cleared": False}
GAP["driver_overrun"] = False


def plain(*records: dict[str, Any], level: float = -30.0) -> list[str]:
    out = io.StringIO()
    view = TerminalView(out, 16_000)
    for record in records:
        view.update(record, level)
    view.close()
    assert "\r" not in out.getvalue()
    assert "\x1b" not in out.getvalue()
    return out.getvalue().splitlines()


def screen(text: str) -> list[str]:
    """What stands on a terminal after `text`: \\r\\x1b[K empties the line."""
    return [line.split("\r\x1b[K")[-1] for line in text.split("\n")]


# Plain


def test_a_plain_line_says_machine_time_level_score_threshold_and_status() -> None:
    (line,) = plain(score())
    for part in ("valve 00", "12.50 s", "level  -30.0 dBFS", "score  0.123 / threshold 0.500", "normal"):
        assert part in line


def test_plain_lines_come_every_five_seconds_of_sound() -> None:
    lines = plain(*(score(end_seconds=8.0 + 0.192 * i) for i in range(100)))
    times = [float(re.search(r"([\d.]+) s  level", line)[1]) for line in lines]  # type: ignore[index]
    assert len(times) == 4
    assert all(5.0 <= later - earlier < 5.2 for earlier, later in pairwise(times))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "normal"),
        ({"clip_score": 0.5}, "normal"),
        ({"clip_score": 0.6}, "above"),
        ({"clip_score": 0.6, "alarm": True}, "ALARM"),
        ({"clip_score": 0.6, "complete": False}, "listening in"),
        ({"threshold": None}, "uncalibrated"),
        ({"threshold": None, "complete": False}, "uncalibrated"),
    ],
)
def test_status(changes: dict[str, Any], status: str) -> None:
    (line,) = plain(score(**changes))
    found = {word for word in ("normal", "above", "ALARM", "listening in", "uncalibrated") if word in line}
    assert found == {status}


def test_without_a_threshold_the_line_says_so() -> None:
    assert "no threshold" in plain(score(threshold=None))[0]


def test_alarms_and_gaps_are_lines_of_their_own_at_once() -> None:
    lines = plain(score(), alarm("raised"), score(end_seconds=12.7), alarm("cleared"), GAP)
    assert len(lines) == 4
    assert lines[1] == "ALARM   valve 00 at 31.25 s: clip score 0.750, threshold 0.500, 3 in a row"
    assert lines[2].startswith("cleared valve 00 at 31.25 s")
    assert lines[3] == "LOST    valve 00: 0.50 s of sound; scoring starts afresh"


def test_records_it_does_not_know_are_not_shown() -> None:
    assert plain({"type": "of_tomorrow"}) == []


# Live


@pytest.mark.usefixtures("wide")
def test_a_terminal_is_redrawn_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("edgeasd.runtime.service.terminal.time.monotonic", lambda: now[0])
    out = Tty()
    view = TerminalView(out, 16_000)
    for i in range(30):
        now[0] += 0.0625
        view.update(score(end_seconds=10.0 + i), -20.0)
    assert "\n" not in out.getvalue()
    drawn = out.getvalue().count("\r\x1b[K")
    assert drawn == 15, "ten times a second at most"
    assert "39.00 s" in screen(out.getvalue())[-1] or "38.00 s" in screen(out.getvalue())[-1]
    view.close()
    view.close()
    assert out.getvalue().count("\n") == 1, "the prompt comes on a line of its own"


@pytest.mark.usefixtures("wide")
def test_an_alarm_takes_the_place_of_the_live_line_and_stays() -> None:
    out = Tty()
    view = TerminalView(out, 16_000)
    view.update(score(), -20.0)
    view.update(alarm("raised"), -20.0)
    shown = screen(out.getvalue())
    assert shown == ["ALARM   valve 00 at 31.25 s: clip score 0.750, threshold 0.500, 3 in a row", ""]
    view.close()
    assert screen(out.getvalue()) == shown


@pytest.mark.parametrize("columns", [20, 40, 80, 300])
def test_the_live_line_never_wraps(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Tty()
    TerminalView(out, 16_000).update(score(), -20.0)
    assert 0 < len(screen(out.getvalue())[0]) < columns


def test_the_choice_overrides_what_the_output_is() -> None:
    terminal, file = Tty(), io.StringIO()
    TerminalView(terminal, 16_000, live=False).update(score(), -20.0)
    TerminalView(file, 16_000, live=True).update(score(), -20.0)
    assert "\x1b" not in terminal.getvalue()
    assert "\x1b" in file.getvalue()


# Any figures


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=30),
    st.floats(-120, 400),
    st.none() | st.floats(-1e6, 1e6),
)
def test_no_figure_stops_the_view(values: list[float], level: float, limit: float | None) -> None:
    out = io.StringIO()
    view = TerminalView(out, 16_000)
    for i, value in enumerate(values):
        view.update(score(clip_score=value, threshold=limit, end_seconds=6.0 * i), level)
    assert len(out.getvalue().splitlines()) == len(values)


def test_the_trace_grows_with_the_score_and_stays_short() -> None:
    lines = plain(*(score(clip_score=i / 40, end_seconds=6.0 * i) for i in range(40)))
    trace = re.findall(r"[▁▂▃▄▅▆▇█ ]+$", lines[-1])[0].strip()
    assert len(trace) <= 24
    assert list(trace) == sorted(trace)
    assert trace[-1] == "█"


@pytest.mark.parametrize(("level", "filled"), [(-120.0, 0), (-60.0, 0), (-30.0, 5), (0.0, 10), (20.0, 10)])
def test_the_level_bar(level: float, filled: int) -> None:
    (line,) = plain(score(), level=level)
    assert f"dBFS {'█' * filled}{'·' * (10 - filled)}  score" in line


def test_what_happens_to_the_source_is_a_line_that_says_how_long_it_was_away() -> None:
    record = {"type": "source", "machine": "valve", "id": "00", "lost_seconds": 0.0, "detail": "hw:1: unplugged"}
    back = {**record, "state": "reopened", "detail": "hw:1", "lost_seconds": 3.25}
    assert plain({**record, "state": "lost"}, back) == [
        "LOST     valve 00: hw:1: unplugged",
        "REOPENED valve 00: hw:1; 3.25 s of sound lost",
    ]


# How the sound is doing


def test_health_and_its_end_are_lines_of_their_own() -> None:
    quiet = {"active": True, "since_seconds": 30.0, "value": -91.25, "unit": "dBFS"}
    stuck = {"active": False, "since_seconds": None, "value": None, "unit": "samples"}
    sick = {"type": "health", "machine": "valve", "id": "00", "at_seconds": 40.2, "sick": True}
    sick["states"] = {"silence": quiet, "stuck": stuck}
    well = {**sick, "at_seconds": 61.0, "sick": False, "states": {"stuck": stuck}}
    assert plain(sick, well) == [
        "SICK    valve 00 at 40.20 s: silence (-91.2 dBFS); raises no alarm",
        "HEALTH  valve 00 at 61.00 s: healthy",
    ]


def test_what_is_left_out_is_a_line() -> None:
    record = {"type": "overload", "machine": "valve", "id": "00", "keep_every": 2, "behind_seconds": 1.25}
    assert plain(record, {**record, "keep_every": 1, "behind_seconds": 0.0}) == [
        "SCORES  valve 00: one of 2 segments from here on; 1.2 s of sound wait",
        "SCORES  valve 00: every segment from here on; 0.0 s of sound wait",
    ]


@pytest.mark.parametrize(
    ("standing", "texts"),
    [
        (Standing(), ["healthy", "none lost"]),
        (Standing(settled=False), ["settling", "none lost"]),
        (Standing(health=("silence",), sick=True, settled=False), ["SICK silence", "none lost"]),
        (Standing(health=("clipping",)), ["clipping", "none lost"]),
        (
            Standing(latency={"p50": 0.0124, "p95": 0.015, "p99": 0.0191}, lost_seconds=2.5, overruns=3, skipped=7),
            ["healthy", "12/19 ms", "2.5 s lost, 3 overruns, 7 skipped"],
        ),
    ],
)
def test_standing_in_words(standing: Standing, texts: list[str]) -> None:
    assert standing.texts() == texts
    out = io.StringIO()
    TerminalView(out, 16_000, standing=lambda: standing).update(score(), -30.0)
    for text in texts:
        assert f"  {text}  " in out.getvalue()


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_usual_line_fits_and_keeps_what_counts(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    standing = Standing(latency={"p50": 0.012, "p95": 0.015, "p99": 0.019})
    out = Tty()
    view = TerminalView(out, 16_000, standing=lambda: standing)
    view.update(score(clip_score=0.5), -33.5)
    monkeypatch.setattr("edgeasd.runtime.service.terminal._REFRESH_SECONDS", 0.0)
    for _ in range(30):
        view.update(score(clip_score=0.25), -33.5)
    shown = screen(out.getvalue())[-1]
    assert len(shown) < columns
    for part in ("valve 00", "-33.5 dBFS", "0.250", "0.500", "normal", "healthy", "12/19 ms", "none lost"):
        assert part in shown
    assert re.search(r"▄{6,24}$", shown), "at least six scores of the trace"
    assert ("12.50 s" in shown) == (columns > 80)
    assert ("····" in shown) == (columns == 200)
