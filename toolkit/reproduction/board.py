"""Which jobs wait, run, are done or have failed; shared by every way of running them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgeasd.toolkit.reproduction.plan import ModelJob

RETRIES = 2
"""New attempts after a worker died. A job that refuses its data, or whose loss is NaN, gets none."""

Say = Callable[[str], None]


class Board:
    """All jobs of one command. Safe to use from several threads."""

    def __init__(self, jobs: Sequence[ModelJob], say: Say) -> None:
        """Jobs that have their result are done from the start. Raises InputError where one was made otherwise."""
        self._say = say
        self._changed = threading.Condition()
        self._stopping = False
        self.total = len(jobs)
        self._attempts: dict[str, int] = {}
        self._running: dict[str, str] = {}
        self._started = time.monotonic()
        found = [(job, job.result() is not None) for job in jobs]
        self.done = {job.name for job, finished in found if finished}
        self._waiting = {job.name: job for job, finished in found if not finished}
        self.failed: dict[str, str] = {}
        self._before = len(self.done)
        self._said: set[str] = set()

    @property
    def waiting(self) -> int:
        """Jobs that nobody has taken."""
        return len(self._waiting)

    def take(self, *, wait: bool = True) -> ModelJob | None:
        """The next job whose needs are met. None when there will be no more, or, without `wait`, none now."""
        with self._changed:
            while not self._stopping and self._waiting:
                for name, job in self._waiting.items():
                    if job.needs is None or job.needs in self.done:
                        del self._waiting[name]
                        self._running[name] = "starting"
                        self._attempts[name] = self._attempts.get(name, 0) + 1
                        return job
                if not wait:
                    return None
                self._changed.wait(timeout=1.0)
            return None

    def progress(self, job: ModelJob, done: int, total: int, text: str) -> None:
        """What a running job is at."""
        with self._changed:
            self._running[job.name] = f"{done}/{total} {text}".rstrip()

    def finish(self, job: ModelJob, result: dict[str, Any]) -> None:
        """A job has its result."""
        with self._changed:
            self._running.pop(job.name, None)
            self.done.add(job.name)
            self._say(f"{self._count()} {job.name}: {headline(result)}{self._left()}")
            copies = result.get("copies")
            if copies and copies not in self._said:
                self._said.add(copies)
                self._say(f"{job.machine}: {copies}")
            self._changed.notify_all()

    def fail(self, job: ModelJob, reason: str, *, again: bool) -> None:
        """A job failed; with `again` it is tried anew, `RETRIES` times at the most."""
        with self._changed:
            self._running.pop(job.name, None)
            attempt = self._attempts.get(job.name, 1)
            if again and attempt <= RETRIES and not self._stopping:
                self._say(f"{job.name}: attempt {attempt} failed: {reason}; trying again")
                self._waiting = {job.name: job, **self._waiting}
            else:
                self._give_up(job, reason)
            self._changed.notify_all()

    def put_back(self, job: ModelJob) -> None:
        """A job was stopped before its end."""
        with self._changed:
            self._running.pop(job.name, None)
            self._attempts[job.name] = self._attempts.get(job.name, 1) - 1
            self._waiting = {job.name: job, **self._waiting}
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no more jobs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def status(self) -> str | None:
        """One line on what runs at the moment."""
        with self._changed:
            if not self._running:
                return None
            running = "; ".join(f"{name}: {at}" for name, at in self._running.items())
            return f"{self._count()} done, running {running}"

    def _give_up(self, job: ModelJob, reason: str) -> None:
        self.failed[job.name] = reason
        self._say(f"{job.name}: failed: {reason}")
        for other in [one for one in self._waiting.values() if one.needs == job.name]:
            del self._waiting[other.name]
            self.failed[other.name] = f"needs {job.name}, which failed"

    def _count(self) -> str:
        return f"[{len(self.done)}/{self.total}]"

    def _left(self) -> str:
        made, left = len(self.done) - self._before, len(self._waiting) + len(self._running)
        if not left:
            return ""
        return f", about {duration((time.monotonic() - self._started) / made * left)} left"


def headline(result: dict[str, Any]) -> str:
    """The figures of one model in a few words."""
    parts = []
    for name, figures in result["evaluation"]["figures"].items():
        value = figures["auc"]
        parts.append(f"{name} d′ {'undefined' if value is None else format(100 * value, '.1f')}")
    return f"AUC % {', '.join(parts)}, {duration(result['seconds']['all'])}"


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
