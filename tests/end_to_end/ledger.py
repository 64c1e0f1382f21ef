"""What is committed, what receivers got of it, and whether the two agree."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from made import firsts
from station import Life

Committed = dict[str, list[dict[str, Any]]]
"""Transitions by machine ID, in order."""


def committed(data: Path, before: Committed | None = None) -> Committed:
    """All transitions, each once and without a hole, those of `before` among them; the file sound, its parts agreed."""
    before = before or {}
    if not (data / "events.db").exists():
        return before
    store = sqlite3.connect(data / "events.db")
    try:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store.execute("BEGIN")  # all of one moment: the service writes meanwhile
        query = "SELECT id, sequence, message FROM transitions JOIN machines ON key = transitions.machine "
        rows = store.execute(query + "ORDER BY id, sequence").fetchall()
        states = dict(store.execute("SELECT id, snapshot FROM states JOIN machines ON key = states.machine").fetchall())
        query = "SELECT event, id, cleared_at, first_sequence, last_sequence, test FROM events "
        events = store.execute(query + "JOIN machines ON key = events.machine").fetchall()
    except sqlite3.OperationalError:
        assert not before, "the tables are gone"
        return before  # killed before they were made
    finally:
        store.close()
    found: Committed = defaultdict(list)
    for id, sequence, message in rows:
        found[id].append(json.loads(message))
        assert sequence == len(found[id]) == found[id][-1]["sequence"], "a hole, or one twice"
    for id, transitions in found.items():
        assert json.loads(states[id])["sequence"] == len(transitions), "the machine stands elsewhere"
        assert transitions[: len(before.get(id, []))] == before.get(id, []), "what was committed has changed"
        assert one_open_at_most(transitions) == {event for event, of, end, *_ in events if of == id and end is None}
    told = {one["event"] for transitions in found.values() for one in transitions if one["event"]}
    assert len(events) == len(told)
    assert {event for event, *_ in events} == told, "each event once"
    return dict(found)


def one_open_at_most(transitions: Iterable[dict[str, Any]]) -> set[str]:
    """Walk through the transitions of one machine; the event that is open at the end, or none."""
    opened: set[str] = set()
    over: set[str] = set()
    for one in transitions:
        event = one["event"]
        if event is None:
            continue
        assert event not in over, "an event was closed and goes on"
        if one["state"] in ("alarm", "acknowledged"):
            if not one["test"]:
                opened.add(event)
        else:
            opened.discard(event)
            over.add(event)
        assert len(opened) <= 1, "two events are open"
    return opened


def total(transitions: Committed) -> int:
    """Of all machines."""
    return sum(map(len, transitions.values()))


def has_all(received: Sequence[str], wanted: Committed) -> bool:
    """Whether everything has arrived, in whatever order."""
    there = {(one["id"], one["body"]["sequence"]) for one in map(json.loads, received) if one["kind"] == "event"}
    return all((id, one["sequence"]) in there for id, transitions in wanted.items() for one in transitions)


def check_received(received: Sequence[str], wanted: Committed) -> int:
    """Hold what a receiver got against what was committed; how many messages were resends.

    At least once, in order per machine once resends are dropped, resends equal byte for byte, and nothing that was
    not committed.
    """
    messages = [json.loads(text) for text in received]
    texts: dict[tuple[str, int], str] = {}
    for text, one in zip(received, messages, strict=True):
        key = (one["store"], one["seq"])
        assert texts.setdefault(key, text) == text, "a resend says something else"
    kept = firsts(messages)
    assert len(kept) == len(texts), "a number came for the first time behind a higher one"
    for id, transitions in wanted.items():
        bodies = [one["body"] for one in kept if one["kind"] == "event" and one["id"] == id]
        assert bodies == transitions, f"{id}: not each transition, in order"
        assert all(one["event"] == one["body"]["event"] for one in kept if one["kind"] == "event")
    assert {one["id"] for one in kept if one["kind"] == "event"} <= set(wanted)
    return len(received) - len(kept)


def check_numbers(received: Sequence[str]) -> Counter[str]:
    """How many messages of each kind, resends dropped. For an output that gets all kinds, no number is left out but
    those that a kill has left reserved."""
    kept = firsts([json.loads(text) for text in received])
    counts = Counter(one["kind"] for one in kept)
    if set(counts) != {"event"}:
        seqs = [one["seq"] for one in kept]
        left_out = [(one, next) for one, next in pairwise(seqs) if 1 < next - one < 1_000_000]
        assert not left_out, left_out
    return counts


def alarms(transitions: Iterable[dict[str, Any]], since: float, until: float) -> int:
    """Alarms raised in a span of Unix time, tests left out: what the counter of alarms counts."""
    times = [unix(one["at"]) for one in transitions if raised(one)]
    return sum(since <= at <= until for at in times)


def raised(one: dict[str, Any]) -> bool:
    """Whether a transition raises an alarm that is no test."""
    return bool(one["state"] == "alarm" != one["previous"] and not one["test"])


def unix(text: str) -> float:
    """Unix time of a time-stamp."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def check_counter(
    samples: Sequence[tuple[float, float]], transitions: Sequence[dict[str, Any]], lives: Sequence[Life]
) -> int:
    """Hold each scraped value of a counter of alarms against the store; how many were held.

    A value counts what was raised in its life up to the scrape. The commit of a transition takes a moment, so one of
    the last five seconds may be counted or not.
    """
    held = 0
    for at, value in samples:
        life = next((one for one in lives if one.began <= at <= one.ended + 0.3), None)
        assert life is not None, "a scrape of a service that did not run"
        least, most = alarms(transitions, life.began, at - 5.0), alarms(transitions, life.began, at + 0.3)
        assert least <= value <= most, f"scraped {value} at {at}, the store says {least} to {most}"
        held += 1
    return held


def increase(samples: Sequence[tuple[float, float]]) -> float:
    """How much a counter grew, resets handled: from 0 again wherever it fell."""
    grown, last = 0.0, 0.0
    for _, value in samples:
        grown += value - last if value >= last else value
        last = value
    return grown
