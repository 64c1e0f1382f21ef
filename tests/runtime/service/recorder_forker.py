"""Forks recorders that are killed: python recorder_forker.py FOLDER BUNDLE KILLS SEED

Each life is a process of its own with a machine, a disk that refuses now and then, and an output that appends what it
reads from the outbox to `received`. It gets SIGKILL at a random instant, its opening included. The last life is not
killed: it delivers the rest.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from edgeasd.runtime.alarms import AlarmSettings, Command
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.service.recorder import EventRecorder
from edgeasd.runtime.service.updates import StreamUpdate
from edgeasd.runtime.storage import Database, Outbox

ALARM = AlarmSettings(on=1.0, k=1, n=1, recovery_seconds=0.0)


def deliver(outbox: Outbox, received: int, batch: int) -> bool:
    """Append a batch to the file; False if nothing waits."""
    messages = outbox.read("file", batch)
    for message in messages:
        line = json.dumps({"seq": message.seq, "stored": message.stored, "message": json.loads(message.payload)})
        os.write(received, f"{line}\n".encode())
        outbox.advance("file", message.seq)
    return bool(messages)


def live(folder: Path, manifest: Manifest, draw: random.Random, seconds: float | None) -> None:
    """One life; without `seconds` it delivers what is left and ends."""
    received = os.open(folder / "received", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    database = Database(folder / "events.db")
    outbox = Outbox(database)
    outbox.register({"file": ("event", "score")})
    recorder = EventRecorder(database, outbox)
    recorder.start()
    recorder.configure(score_seconds=1.0)
    recorder.add_machine("a", manifest, ALARM)
    if seconds is None:
        while deliver(outbox, received, 100):
            pass
        assert recorder.close(10.0)
        assert recorder.defect is None
        database.close()
        return

    def output() -> None:
        while True:
            if not deliver(outbox, received, draw.randint(1, 9)):
                outbox.wait(outbox.newest_seq, 0.01)

    threading.Thread(target=output, daemon=True).start()
    for second in range(1_000_000):
        if draw.random() < 0.1:
            refuses = draw.choice(("ON", "OFF"))
            recorder.call(lambda refuses=refuses: database._writer.execute(f"PRAGMA query_only = {refuses}"))
            database._retry_at = 0.0
        recorder.update(StreamUpdate("a", time.monotonic(), time.time(), draw.choice((0.0, 2.0)), True))
        if second % 7 == 0:
            recorder.command("a", Command(command="acknowledge"))


def main() -> None:
    folder, kills, draw = Path(sys.argv[1]), int(sys.argv[3]), random.Random(int(sys.argv[4]))
    with Bundle(Path(sys.argv[2])) as bundle:
        manifest = bundle.manifest
    for number in range(kills + 1):
        seconds = draw.choice((0.02, 0.1, 0.3)) * draw.random() if number < kills else None
        seed = draw.random()
        child = os.fork()
        if child == 0:
            try:
                live(folder, manifest, random.Random(seed), seconds)
                os._exit(0)
            except EdgeasdError as error:
                print(error, file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) if seconds is not None else status == 0):
            sys.exit(f"life {number} ended by itself: {status}")


if __name__ == "__main__":
    main()
