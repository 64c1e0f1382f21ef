"""The screen of `run`: a table that fits its window, plain lines, and nothing that a terminal would obey."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from edgeasd.runtime.outputs import OutputState
from edgeasd.runtime.service.live_view import (
    LiveView,
    concerns,
    level_bar,
    plain_line,
    print_status,
    render,
    sparkline,
    summary,
)
from edgeasd.runtime.service.status import ServiceStatus, StreamStatus, parse_status

pytestmark = pytest.mark.core


def stream(name: str, **changes: Any) -> StreamStatus:
    base: dict[str, Any] = {
        "name": name,
        "machine": "valve",
        "id": "00",
        "state": "running",
        "reason": None,
        "source": "hw:1",
        "engine": "e",
        "accelerator": "cpu",
        "precision": "fp32",
        "level_dbfs": -30.0,
        "clip_score": 0.1,
        "complete": True,
        "threshold": 0.2,
        "score_history": [0.1, 0.2] * 20,
        "unhealthy": False,
        "health": (),
        "alarm": "normal",
        "event": None,
        "maintenance": False,
        "snoozed": False,
        "segments": 5,
        "skipped_segments": 0,
        "decimation": 1,
        "seconds": 12.5,
        "waiting_seconds": 0.0,
        "dropped_seconds": 0.0,
        "overruns": 0,
        "latency_seconds": {"p50": 0.04, "p95": 0.05, "p99": 0.06},
    }
    return StreamStatus(**{**base, **changes})


FAILED = stream("lost", state="failed", reason="hw:7: \x1b[31m not there", clip_score=None, score_history=[])
UNHEALTHY = stream("fan", unhealthy=True, health=("silence",), dropped_seconds=1.5, overruns=2, skipped_segments=7)
AWAY = OutputState(name="mqtt", type="mqtt", connected=False, queued=12, last_error="connection refused")


def drawn(status: ServiceStatus, width: int, height: int | None = 24) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False, color_system=None)
    console.print(render(status, width, height))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_window(width: int) -> None:
    status = ServiceStatus("plant", 1.0, [stream("a" * 32), FAILED, UNHEALTHY], [AWAY], problem="disk " * 30)
    lines = drawn(status, width)
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [80, 120])
def test_a_usual_window_shows_all_that_counts(width: int) -> None:
    lines = drawn(ServiceStatus("plant", 61.0, [stream("press"), UNHEALTHY, FAILED], [AWAY]), width)
    assert lines[0].startswith("plant, up 61 s; mqtt NOT connected, 12 wait")
    assert lines[1] == "output mqtt NOT connected, 12 wait: connection refused"
    assert lines[2].split() == [
        "stream",
        "alarm",
        "score",
        "/",
        "limit",
        "health",
        "latest",
        "level",
        "p50/p99",
        "sound",
    ]
    for part in ("press", "normal", "0.100 / 0.200", "healthy", "▄█▄█", "-30", "40/60 ms", "none"):
        assert part in lines[3]
    assert "UNHEALTHY" in lines[4]
    assert "no sound" in lines[5]
    assert lines[6].strip() == "fan: unhealthy: silence"
    assert lines[7].strip() == "lost: failed: hw:7: [31m not there"


def test_streams_that_need_attention_come_first_without_room() -> None:
    calm = [stream(f"s{number}") for number in range(9)]
    lines = drawn(ServiceStatus("plant", 1.0, [*calm, FAILED, stream("pump", alarm="alarm")]), 100, 6)
    assert len(lines) == 6
    assert [line.split()[0] for line in lines[2:4]] == ["pump", "lost"]
    assert "more streams; make the window higher" in lines[-1]


def test_the_table_goes_and_leaves_no_line_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    view = LiveView(out)
    for now in (1.0, 1.2, 1.7):
        view.update(ServiceStatus("plant", now, [stream("a")]), now)
    view.close()
    assert out.getvalue().count("plant, up") == 3, "drawn when due and at the end"
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")


def test_colour_is_left_out_if_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    view = LiveView(out)
    view.update(ServiceStatus("plant", 1.0, [stream("a", alarm="alarm"), FAILED], problem="full"), 1.0)
    view.close()
    assert not any(f"\x1b[{code}m" in out.getvalue() for code in ("31", "1;31", "33", "32"))


def test_plain_lines_show_changes_at_once_figures_rarely() -> None:
    out = io.StringIO()
    view = LiveView(out)
    calm = ServiceStatus("plant", 1.0, [stream("a"), stream("b")])
    for now in (100.0, 101.0, 102.0):
        view.update(calm, now)
    assert out.getvalue().count("\n") == 2
    changed = stream("b", alarm="alarm", unhealthy=True, health=("silence",), dropped_seconds=1.5, skipped_segments=7)
    view.update(ServiceStatus("plant", 1.0, [stream("a"), changed]), 103.0)
    last = out.getvalue().splitlines()[-1]
    assert out.getvalue().count("\n") == 3
    for part in ("b ", "ALARM", "UNHEALTHY silence", "1.5 s", "7 skipped", "40/60 ms", "0.100 / 0.200"):
        assert part in last
    view.update(calm, 111.0)
    assert out.getvalue().count("\n") == 5
    assert "\x1b" not in out.getvalue()


def test_plain_lines_say_problems_and_outputs_once() -> None:
    out = io.StringIO()
    view = LiveView(out)
    back = AWAY.model_copy(update={"connected": True, "queued": 0})
    for outputs, problem in (([AWAY], "disk is full"), ([AWAY], "disk is full"), ([back], None), ([back], None)):
        view.update(ServiceStatus("plant", 1.0, [], outputs, problem=problem), 1.0)
    assert out.getvalue().splitlines() == [
        "plant: PROBLEM: disk is full",
        "plant: output mqtt NOT connected: connection refused",
        "plant: no problem left",
        "plant: output mqtt connected",
    ]


def test_an_output_not_tried_yet_is_no_news() -> None:
    out = io.StringIO()
    untried = OutputState(name="mqtt", type="mqtt", connected=False)
    LiveView(out).update(ServiceStatus("plant", 1.0, [], [untried]), 1.0)
    assert out.getvalue() == ""


def test_concerns_are_what_needs_attention() -> None:
    assert concerns(ServiceStatus("plant", 1.0, [stream("a")])) == []
    passed = AWAY.model_copy(update={"connected": True, "last_error_at": "2026-01-01T00:00:00.000Z"})
    assert concerns(ServiceStatus("plant", 1.0, [stream("a")], [passed])) == [], "an error that is over"
    late = passed.model_copy(update={"oldest_seconds": 61.0})
    page = OutputState(name="page", type="prometheus", connected=None)
    status = ServiceStatus("plant", 1.0, [FAILED, stream("p", event="E1", alarm="alarm")], [late, page], problem="full")
    assert concerns(status) == [
        "PROBLEM: full",
        "output mqtt, 12 wait: connection refused",
        "lost: failed: hw:7: [31m not there",
        "p: event E1",
    ]


def test_status_without_a_terminal_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = stream("x" * 32, reason="r" * 200, state="degraded")
    print_status(ServiceStatus("plant", 1.0, [long]))
    assert "r" * 200 in capsys.readouterr().out


def test_status_comes_back_as_it_was_written() -> None:
    status = ServiceStatus("plant", 1.0, [stream("a"), UNHEALTHY], [AWAY], problem="full")
    assert parse_status(status.to_json()) == status


def test_the_summary_says_what_was_heard_and_lost() -> None:
    text = summary(stream("a", segments=114, seconds=30.0, events=2, overruns=3, highest=(0.31, 21.04)))
    assert text == (
        "valve 00: 114 segments scored in 30.0 s of sound, highest clip score 0.310 at 21.0 s, last clip score 0.100; "
        "threshold 0.200, 2 alarms; 3 overruns"
    )
    assert "highest" not in summary(stream("a", segments=1))


def test_a_stream_without_threshold_or_score_has_a_line() -> None:
    assert "- / none" in plain_line(stream("a", clip_score=None, threshold=None, score_history=[]))


def test_a_sparkline_bears_any_number() -> None:
    assert sparkline([0.0, 0.5, 1.0], 1.0) == " ▄█"
    assert sparkline([-1.0, math.inf, math.nan, 2.0], None) == " ??█"
    assert sparkline([], 1.0) == ""


@pytest.mark.parametrize(("level", "filled"), [(-120.0, 0), (-60.0, 0), (-30.0, 5), (0.0, 10), (6.0, 10)])
def test_the_level_bar_goes_from_minus_60_to_full_scale(level: float, filled: int) -> None:
    assert level_bar(level) == "█" * filled + "·" * (10 - filled)
