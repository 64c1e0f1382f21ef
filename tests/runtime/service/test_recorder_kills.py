"""kill -9 at any instant, on a disk that refuses now and then: nothing is lost that was stored, no number twice."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.storage.database import quarantined_files

pytestmark = pytest.mark.core


@pytest.mark.timeout(280)
@pytest.mark.parametrize("kills", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_no_instant_of_death_loses_a_stored_event(tmp_path: Path, small_bundle: Path, kills: int) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    program = Path(__file__).with_name("recorder_forker.py")
    arguments = [str(tmp_path), str(small_bundle), str(kills), str(seed)]
    done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (seed, done.stderr)
    assert not quarantined_files(tmp_path / "events.db")
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with EventStore.open(tmp_path / "events.db", read_only=True) as store:
        stored = store.transitions("valve", "00", limit=10**9)
        snapshot, events = store.snapshot("valve", "00"), store.events(limit=10**9)
    assert len(stored) > kills, "the lives were too short to tell anything"
    check_stored(stored, snapshot, events)
    lines = (tmp_path / "received").read_text("utf-8").split("\n")[:-1]
    check_received([json.loads(line) for line in lines], stored)


def check_stored(stored: list[dict[str, Any]], snapshot: Any, events: list[dict[str, Any]]) -> None:
    numbers = [one["sequence"] for one in stored]
    assert numbers == sorted(set(numbers))
    assert snapshot["sequence"] == numbers[-1]
    for earlier, later in pairwise(stored):
        assert later["previous"] == earlier["state"]
    assert {one["event"] for one in events} == {one["event"] for one in stored} - {None}
    assert sum(one["cleared_at"] is None for one in events) == (1 if snapshot["event"] else 0)


def check_received(received: list[dict[str, Any]], stored: list[dict[str, Any]]) -> None:
    texts: dict[int, Any] = {}
    for one in received:
        assert texts.setdefault(one["seq"], one["message"]) == one["message"], "a number was given twice"
    assert list(texts) == sorted(texts), "a message overtook another"
    bodies = [message["body"] for message in texts.values() if message["kind"] == "event"]
    numbers = [body["sequence"] for body in bodies]
    assert len(set(numbers)) == len(numbers), "a transition has the number of another"
    by_number = dict(zip(numbers, bodies, strict=True))
    for body in stored:
        assert by_number.get(body["sequence"]) == body, "stored, and not received"
    in_store = {body["sequence"] for body in stored}
    for one in received:
        if one["stored"] and one["message"]["kind"] == "event":
            assert one["message"]["body"]["sequence"] in in_store, "received as stored, and not there"
