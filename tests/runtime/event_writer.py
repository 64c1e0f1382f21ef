"""Forks writers for test_event_store.py: for each line on standard input one, whose process ID it prints.

A writer goes on where the database stands, and says each sequence number once it is committed. It forks
from a process that has imported everything, so that twenty of them take seconds.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings, Command
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.storage import EventStore

WALL = 1_800_000_000.0


def write(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    threshold = Threshold(clip=1.0, consecutive=1, found_by="test", clips=1)
    machine = AlarmMachine("valve", "00", AlarmSettings(), threshold)
    store = EventStore(path)
    if (snapshot := store.snapshot("valve", "00")) is not None:
        machine.restore(snapshot)
    second = len(store.history("valve", "00", "score"))
    while True:
        second += 1
        score = chance.choice([0.0, 2.0])
        store.add_scores("valve", "00", [(WALL + second, score)])
        said = machine.step(AlarmInput(time.monotonic(), WALL + second, score))
        if chance.random() < 0.3:
            said += machine.command(Command(command="acknowledge"), time.monotonic(), WALL + second)
        if said:
            store.append(said, machine.snapshot())
            os.write(1, f"committed {said[-1].sequence}\n".encode())


def main() -> None:
    for number, _ in enumerate(sys.stdin):
        child = os.fork()
        if not child:
            write(Path(sys.argv[1]), number)
        print(f"writer {child}", flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
