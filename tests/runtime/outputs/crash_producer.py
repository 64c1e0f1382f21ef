"""A service that is killed again and again: python crash_producer.py TABLES FOLDER KILLS SEED

Each life is a process of its own that puts events and scores, tells through a pipe which events are on disk, and
gets SIGKILL at a random instant, its opening of the queues included. The last life delivers the rest. Prints how
many events were on disk.
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

import paho.mqtt.client  # noqa: F401  here and not in every life
from made import event, score

from edgeasd.runtime.outputs import Outputs, parse_outputs


def live(tables: dict[str, dict[str, object]], folder: Path, first: int, told: int) -> None:
    """Put events from number `first` until killed."""
    hub = Outputs(parse_outputs(tables, "outputs"), folder, site="plant", box="box")
    hub.last_event("valve", "00", first - 1)
    for number in range(first, 1_000_000):
        hub.put(score(number / 1000))
        if hub.put(event(number)).wait(10.0):
            os.write(told, struct.pack("q", number))


def one_life(tables: dict[str, dict[str, object]], folder: Path, first: int, seconds: float) -> int:
    """The last event that a life of `seconds` has told to be on disk."""
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        try:
            live(tables, folder, first, told)
        finally:
            os._exit(1)
    os.close(told)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"
    with open(heard, "rb") as pipe:
        data = pipe.read()
    return struct.unpack("q", data[-8:])[0] if data else first - 1


def main() -> None:
    tables, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    draw = random.Random(int(sys.argv[4]))
    last = 0
    for _ in range(int(sys.argv[3])):
        last = one_life(tables, folder, last + 1, draw.choice((0.02, 0.08, 0.3)) * draw.random())
    # The last word is with a life that nobody kills.
    with Outputs(parse_outputs(tables, "outputs"), folder, site="plant", box="box") as hub:
        end = time.monotonic() + 30
        while any(state.queued for state in hub.state()) and time.monotonic() < end:
            time.sleep(0.02)
        print(json.dumps({"committed": last, "left": [state.queued for state in hub.state()]}))


if __name__ == "__main__":
    main()
