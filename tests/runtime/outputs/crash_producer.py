"""A process with outputs that is killed again and again: python crash_producer.py TABLES FOLDER KILLS SEED

Each life appends events and scores, tells through a pipe which events are committed, and gets SIGKILL at a random
instant, the opening of the database included. The last life delivers the rest. Prints how many events were committed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import httpx  # noqa: F401  here and not in every life
import paho.mqtt.client  # noqa: F401
from made import Station, event, score

from edgeasd.runtime.outputs import encode


def live(tables: dict[str, dict[str, object]], folder: Path, committed: int) -> None:
    """Append events, counted in the same database, until killed."""
    station = Station(folder, tables)
    rows = station.database.read("SELECT value FROM meta WHERE name = 'test counter'")
    for number in range(int(rows[0][0]) + 1 if rows else 1, 1_000_000):
        station.put(score(number / 1000))
        with station.outbox.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('test counter', ?)", (number,))
            station.outbox.append("event", "valve", "00", encode(event(number)))
        os.write(committed, struct.pack("q", number))


def one_life(tables: dict[str, dict[str, object]], folder: Path, last: int, seconds: float) -> int:
    """The last event that a life of `seconds` has committed; `last` without one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            live(tables, folder, writer)
        finally:
            os._exit(1)
    os.close(writer)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"
    with open(reader, "rb") as pipe:
        data = pipe.read()
    return struct.unpack("q", data[-8:])[0] if data else last


def main() -> None:
    tables, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    draw = random.Random(int(sys.argv[4]))
    last = 0
    for _ in range(int(sys.argv[3])):
        last = one_life(tables, folder, last, draw.choice((0.03, 0.2, 0.8)) * draw.random())
    with Station(folder, tables) as station:  # this life is not killed
        end = time.monotonic() + 90
        while any(state.queued for state in station.manager.state()) and time.monotonic() < end:
            time.sleep(0.02)
        print(json.dumps({"committed": last, "left": [state.queued for state in station.manager.state()]}))


if __name__ == "__main__":
    main()
