"""Forks recorders for test_evidence_keeping.py: for each line on standard input one, whose process ID it prints.

A recorder goes on where the database stands: it hears sound without pause, raises and clears events, stores
them, and keeps their evidence.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings
from edgeasd.runtime.evidence import ClipSettings, EvidenceRecorder, EvidenceWriter, KeepSettings
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.storage import EventStore

RATE, BLOCK = 16_000, 1600
CLIP = ClipSettings(pre_seconds=1.0, post_seconds=0.5, longest_seconds=4.0)


FACTOR = 20_077


def sound(seconds: int) -> np.ndarray:
    """Noise (n,) in which each 16-bit sample follows from the one before: FACTOR × it + 1, cut to 16 bits."""
    values, value = np.empty(seconds * RATE, np.int64), 0
    for n in range(values.size):
        values[n] = value = (FACTOR * value + 1) & 0xFFFF
    return (values.astype(np.int16) / 32768).astype(np.float32)


def record(data: Path, seed: int, heard: np.ndarray) -> None:
    chance = random.Random(seed)
    machine = AlarmMachine("valve", "00", AlarmSettings(), Threshold(clip=1.0, consecutive=1, found_by="test", clips=1))
    store = EventStore(data / "events.db")
    if (snapshot := store.snapshot("valve", "00")) is not None:
        machine.restore(snapshot)
    keep = KeepSettings(min_free_megabytes=0.1, max_megabytes=1.5, fewest=0)
    going_on = store.events(open_only=True)
    writer = EvidenceWriter(data, keep, open_events=[event["event"] for event in going_on], sweep_seconds=0.1)
    recorder = EvidenceRecorder(writer, "valve", "00", RATE, CLIP)
    # As a service does for the event that was open when it was killed.
    for event in going_on:
        recorder.open_event(event["event"], event["raised_at"], event["threshold"])
    block, loud = 0, False
    while True:
        # The noise repeats itself after 65,536 samples.
        start = BLOCK * block % 65_536
        recorder.sound(BLOCK * block, heard[start : start + BLOCK])
        block += 1
        loud = loud != (chance.random() < 0.1)
        score = 2.0 if loud else 0.0
        recorder.score(BLOCK * block, time.time(), score, score)
        said = machine.step(AlarmInput(time.monotonic(), time.time(), score))
        if said:
            store.append(said, machine.snapshot())
            recorder.transitions(said)
        time.sleep(0.001)


def main() -> None:
    heard = sound(5)
    for number, _ in enumerate(sys.stdin):
        child = os.fork()
        if not child:
            record(Path(sys.argv[1]), number, heard)
        print(f"writer {child}", flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
