"""What was stored comes back by score, minute, hour and day, as rows, CSV and picture."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.storage import EventStore, StateSpan, StoredScore
from edgeasd.runtime.trend.history import History, csv_text, read_history
from edgeasd.runtime.trend.picture import draw_history

BEGIN = 1_800_000_000.0
"""On the hour."""


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    """Two hours: one of running at scores 1, 2, 3, …, one of off."""
    store = EventStore.open(tmp_path / "events.db")
    running = [StoredScore(BEGIN + 10 * i, float(i % 6), None, -30.0 - i % 6, "", 10.0) for i in range(360)]
    off = [StoredScore(BEGIN + 3600 + 10 * i, 9.0, "off", -60.0) for i in range(360)]
    store.add_scores("valve", "id_00", running + off)
    spans = [StateSpan(BEGIN + 10 * (i + 1), "running" if i < 360 else "off", 10.0) for i in range(719)]
    store.add_hours("valve", "id_00", spans)
    return store


def _history(store: EventStore, every: str | None = None) -> History:
    return read_history(store, "valve", "id_00", BEGIN, BEGIN + 7200, every)


def test_rows_hold_scores_levels_and_the_longest_state(store: EventStore) -> None:
    first, second = _history(store, "hour").rows
    assert (first.at, first.count, first.mean, first.low, first.high) == (BEGIN, 360, 2.5, 0.0, 5.0)
    assert first.level == pytest.approx(-32.5)
    assert first.state == "running"
    # Scores of a machine that is off are not its scores; its level is a level.
    assert second.count == 0
    assert math.isnan(second.mean)
    assert second.level == -60.0
    assert second.state == "off"


def test_width_fits_the_span_and_scores_are_all_there(store: EventStore) -> None:
    assert _history(store).every == "hour"
    assert read_history(store, "valve", "id_00", BEGIN, BEGIN + 600).every == "minute"
    assert read_history(store, "valve", "id_00", BEGIN, BEGIN + 90 * 86_400).every == "day"
    assert len(_history(store, "minute").rows) == 120
    scores = _history(store, "score").rows
    assert len(scores) == 720
    assert [row.state for row in scores[-2:]] == ["off", "off"]
    assert sum(row.count for row in _history(store, "day").rows) == 360


def test_state_seconds_are_those_stored(store: EventStore) -> None:
    assert _history(store).state_seconds == {"off": 3590.0, "running": 3600.0}


def test_csv_has_a_row_for_each_and_quotes_names(store: EventStore) -> None:
    store.add_hours("valve", "id_00", [StateSpan(BEGIN + 10, 'a "fast", mode', 9e4)])
    lines = csv_text(_history(store, "hour")).splitlines()
    assert lines[0].startswith("at,local,count")
    assert len(lines) == 3
    assert lines[1].endswith('"a ""fast"", mode"')
    assert ",2.5,0,5," in lines[1]
    assert lines[2].startswith(f"{BEGIN + 3600:.3f},")
    assert ",0,,,," in lines[2]


def test_svg_is_xml_and_hostile_names_are_text(store: EventStore) -> None:
    store.add_hours("valve", "id_00", [StateSpan(BEGIN + 10, "<script>\x1b", 9e4)])
    root = ET.fromstring(draw_history(_history(store, "minute"), "svg"))
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert "valve id_00" in texts
    assert "<script> " in texts
    assert not any(element.tag.endswith("script") for element in root.iter())


def test_png_is_a_picture_of_the_same_size(store: EventStore) -> None:
    image = pytest.importorskip("PIL.Image")
    opened = image.open(io.BytesIO(draw_history(_history(store, "minute"), "png")))
    opened.load()
    assert opened.size == (1200, 468)
    assert len(opened.getcolors(1 << 20)) > 5


def test_empty_span_draws_an_empty_picture(store: EventStore) -> None:
    empty = read_history(store, "valve", "id_00", BEGIN - 9e4, BEGIN - 8e4)
    assert empty.rows == []
    assert ET.fromstring(draw_history(empty, "svg")) is not None


def test_unknown_machine_width_and_kind_are_one_line(store: EventStore) -> None:
    with pytest.raises(InputError, match=r"^fan id_00: nothing is stored of it; stored are: valve id_00$"):
        read_history(store, "fan", "id_00", 0.0, 1.0)
    with pytest.raises(InputError, match="not a width"):
        _history(store, "week")
    with pytest.raises(InputError, match="the span is empty"):
        read_history(store, "valve", "id_00", 5.0, 5.0)
    with pytest.raises(InputError, match="not a kind of picture"):
        draw_history(_history(store), "jpg")
