"""Several IDs at once: one process per device, each training one ID with the ordinary command."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue


@dataclass(frozen=True)
class Job:
    """One ID to train and the arguments that do it."""

    id: str
    arguments: Sequence[str]


def run_jobs(jobs: Sequence[Job], accelerators: Sequence[str]) -> dict[str, int]:
    """Run every job, as many at once as there are accelerators; returns exit codes by ID.

    Progress lines of the processes are passed on to standard error with the ID in front. When this
    process is interrupted the others are told to stop, write their checkpoints, and are waited for.
    """
    waiting: SimpleQueue[Job] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    codes: dict[str, int] = {}
    running: dict[str, subprocess.Popen[str]] = {}
    stopping = threading.Event()

    def work(accelerator: str) -> None:
        while not stopping.is_set():
            try:
                job = waiting.get_nowait()
            except Empty:
                return
            command = [sys.executable, "-m", "edgeasd", *job.arguments, "--accelerator", accelerator]
            # A session of its own: Ctrl-C reaches this process alone, which then tells each child once.
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
            running[job.id] = process
            assert process.stderr is not None
            for line in process.stderr:
                print(f"[{job.id}] {line.rstrip()}", file=sys.stderr, flush=True)
            codes[job.id] = process.wait()
            del running[job.id]

    threads = [threading.Thread(target=work, args=(accelerator,)) for accelerator in accelerators]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(timeout=0.5)
    except BaseException:
        stopping.set()
        for process in list(running.values()):
            process.send_signal(signal.SIGINT)
        for thread in threads:
            thread.join()
        raise
    return codes
