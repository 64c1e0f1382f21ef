"""What a person sees of a site that is not well, in windows of several widths and in a log."""

from __future__ import annotations

import io
from typing import Any

import pytest

from edgeasd.runtime.outputs.state import OutputState
from edgeasd.runtime.service import SiteState, StreamState
from edgeasd.runtime.service.table import concerns
from edgeasd.runtime.service.view import SiteView

pytestmark = pytest.mark.core
EVENT = "01JZ0000000000000000000000"


def stream(name: str, **changes: Any) -> StreamState:
    base: dict[str, Any] = {
        **{"name": name, "machine": "valve", "id": "00", "state": "running", "reason": None, "source": "hw:1"},
        **{"engine": "e", "accelerator": "cpu", "precision": "fp32", "level_dbfs": -31.5, "clip_score": 0.1},
        **{"complete": True, "threshold": 0.2, "trace": [0.1] * 50, "sick": False, "health": (), "alarm": "normal"},
        **{"event": None, "maintenance": False, "snoozed": False, "segments": 5, "skipped_segments": 0},
        **{"keep_every": 1, "waiting_seconds": 0.0, "dropped_seconds": 0.0, "overruns": 0},
        **{"latency_seconds": {"p50": 0.04, "p95": 0.05, "p99": 0.06}},
    }
    return StreamState(**{**base, **changes})


def output(connected: bool | None, **changes: Any) -> OutputState:
    return OutputState(**{"name": "plc", "type": "mqtt", "connected": connected, **changes})


GONE = output(False, queued=3, last_error="broker:1883: Connection refused", last_error_at="2027-01-01T00:00:00.000Z")


def drawn(state: SiteState, columns: int, monkeypatch: pytest.MonkeyPatch, height: int = 40) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(height))
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    SiteView(out, live=True).draw(state, 1.0)
    text = out.getvalue()
    for taken in ("\x1b[K", "\x1b[J", "\r"):
        text = text.replace(taken, "")
    return text.splitlines()


@pytest.mark.parametrize(
    ("columns", "blocks", "bar"),
    [(80, 8, False), (99, 8, False), (100, 24, False), (119, 24, False), (120, 24, True), (160, 24, True)],
)
def test_a_row_of_a_healthy_stream_is_whole_in_any_usual_window(
    columns: int, blocks: int, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, header, row = drawn(SiteState("plant", 1.0, [stream("pump")]), columns, monkeypatch)
    assert row.endswith("none" if columns < 100 else "none lost")
    assert len(row) < columns
    assert header.index("health") < header.index("latest")
    trace = row[header.index("latest") : header.index("level")].strip()
    assert len(trace) == blocks
    assert ("█" in row[header.index("level") :]) is bar


def test_80_columns_show_trouble_outputs_that_are_gone_and_why_a_stream_is_sick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sick = stream("valve-north", sick=True, health=("silence",))
    alarm = stream("pump", alarm="alarm", event=EVENT)
    site = SiteState("a hall with a rather long name", 1e6, [sick, alarm], [output(True), GONE], trouble="disk is full")
    lines = drawn(site, 80, monkeypatch)
    assert lines[1] == "TROUBLE: disk is full"
    assert lines[2] == "output plc NOT connected, 3 wait: broker:1883: Connection refused"
    assert lines[3].startswith("stream")
    assert "  SICK  " in lines[4]
    assert all(line.endswith("none") and len(line) < 80 for line in (lines[4], lines[6]))
    assert lines[5] == "    sick: silence"
    assert lines[7] == f"    event {EVENT}"
    assert len(lines) == 8


def test_a_low_window_has_no_lines_below_the_rows_so_the_rows_name_what_is_sick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = [*(stream(f"s{number}") for number in range(9)), stream("fan", sick=True, health=("silence",))]
    lines = drawn(SiteState("plant", 1.0, streams, [GONE]), 80, monkeypatch, height=8)
    assert len(lines) == 7
    assert lines[1].startswith("output plc NOT connected")
    assert lines[3].startswith("fan")
    assert "SICK silence" in lines[3]
    assert lines[6] == "… and 7 more streams; make the window higher"


def test_plain_lines_say_trouble_and_a_change_of_an_output_once() -> None:
    out = io.StringIO()
    view = SiteView(out)

    def said(output: OutputState, trouble: str | None = None) -> list[str]:
        begin = len(out.getvalue())
        view.draw(SiteState("plant", 1.0, [], [output], trouble=trouble), 1.0)
        return out.getvalue()[begin:].splitlines()

    assert said(output(False)) == []
    assert said(output(None)) == []
    assert said(output(True)) == ["plant: output plc connected"]
    assert said(GONE, "disk\x1b is full") == [
        "plant: TROUBLE: disk  is full",
        "plant: output plc NOT connected: broker:1883: Connection refused",
    ]
    assert said(GONE, "disk\x1b is full") == []
    assert said(GONE.model_copy(update={"connected": True})) == [
        "plant: no trouble any more",
        "plant: output plc connected",
    ]


def test_the_plain_line_of_a_stream_in_alarm_says_its_event() -> None:
    out = io.StringIO()
    SiteView(out).draw(SiteState("plant", 1.0, [stream("pump", alarm="alarm", event=EVENT)]), 1.0)
    assert out.getvalue().endswith(f"[event {EVENT}]\n")


def test_a_page_of_metrics_has_no_queue_and_is_scraped_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"name": "page", "type": "prometheus"}
    outputs = [output(None), output(None, **page), output(None, **page, delivered=3)]
    first = drawn(SiteState("plant", 1.0, [stream("pump")], outputs=outputs), 200, monkeypatch)[0]
    assert first.endswith("plc not tried yet, 0 wait; page not scraped yet; page scraped")


def test_what_needs_somebody_is_told_from_what_has_passed() -> None:
    passed = output(True, queued=1, oldest_seconds=0.2, last_error="refused", last_error_at="2027-01-01T00:00:00.000Z")
    well = [stream("a"), stream("b", alarm="warning"), stream("c", state="stopped", reason="end of sound")]
    assert concerns(SiteState("plant", 1.0, well, [passed, output(None), output(True)])) == []
    ill = [
        stream("a", state="failed", reason="hw:7: not there"),
        stream("b", state="degraded"),
        stream("c", sick=True, health=("dc",)),
        stream("d", alarm="acknowledged", event=EVENT),
    ]
    old = passed.model_copy(update={"oldest_seconds": 61.0})
    standing = output(True, last_error="commands are not for this user")
    assert concerns(SiteState("plant", 1.0, ill, [GONE, old, standing], trouble="disk is full")) == [
        "TROUBLE: disk is full",
        "output plc NOT connected, 3 wait: broker:1883: Connection refused",
        "output plc, 1 wait: refused",
        "output plc, 0 wait: commands are not for this user",
        "a: failed: hw:7: not there",
        "b: degraded",
        "c: sick: dc",
        f"d: event {EVENT}",
    ]


def test_overruns_are_counted_and_shown_and_nothing_is_called_whole_beside_them() -> None:
    out = io.StringIO()
    SiteView(out).draw(SiteState("plant", 1.0, [stream("pump", overruns=37)]), 1.0)
    assert out.getvalue().rstrip().endswith("37 overruns")
    assert "none lost" not in out.getvalue()
