"""Runs the jobs of an experiment on this machine, in a few worker processes that may die without harm to the others.

Each worker is a `ProcessPoolExecutor` of one process, so that a killed process breaks its own job and no other.
A job is done when its result file is there; `JobQueue` orders the jobs for this runner and for Ray's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from edgeasd.toolkit.reproduction.plan import JobEnd, ModelJob

RETRIES = 2
"""New attempts after a worker died. A job that refuses its data, or whose loss is NaN, gets none."""
_STATUS_EVERY_SECONDS = 20.0
_PROGRESS_EVERY_SECONDS = 1.0
_SPAWN = multiprocessing.get_context("spawn")
"""Torch must not be forked; and a fresh process takes its number of threads from the environment."""

PrintLine = Callable[[str], None]


class JobQueue:
    """The state of all jobs of one command: waiting, running, done or failed."""

    def __init__(self, jobs: Sequence[ModelJob], print_line: PrintLine) -> None:
        """Jobs with a result file are done from the start. Raises InputError if one was made with other settings."""
        self._print = print_line
        self._stopping = False
        self.total = len(jobs)
        self._attempts: dict[str, int] = {}
        self._running: dict[str, str] = {}
        self._started = time.monotonic()
        finished = {job.name: job.result() is not None for job in jobs}
        self.done = {name for name, is_done in finished.items() if is_done}
        self._waiting = {job.name: job for job in jobs if not finished[job.name]}
        self.failed: dict[str, str] = {}
        self._done_before = len(self.done)
        self._printed_copies: set[str] = set()

    @property
    def waiting(self) -> int:
        """Number of jobs that have not started."""
        return len(self._waiting)

    def take(self) -> ModelJob | None:
        """The next job whose needs are met; None if there is none now, or after `stop`."""
        if self._stopping:
            return None
        for name, job in self._waiting.items():
            if job.needs is None or job.needs in self.done:
                del self._waiting[name]
                self._running[name] = "starting"
                self._attempts[name] = self._attempts.get(name, 0) + 1
                return job
        return None

    def progress(self, job: ModelJob, done: int, total: int, text: str) -> None:
        """Store the progress of a running job."""
        self._running[job.name] = f"{done}/{total} {text}".rstrip()

    def end(self, job: ModelJob, end: JobEnd) -> None:
        """Take the end of an attempt: the result file of a finished job, a failure, or an interruption."""
        if end.state == "finished":
            result = job.result()
            if result is None:
                self.fail(job, f"{job.result_path}: not visible here though its worker wrote it; share it", retry=False)
            else:
                self.finish(job, result)
        elif end.state == "stopped":
            self.requeue(job)
        else:
            self.fail(job, end.reason, retry=end.may_retry)

    def finish(self, job: ModelJob, result: dict[str, Any]) -> None:
        """A job has its result."""
        self._running.pop(job.name, None)
        self.done.add(job.name)
        self._print(f"{self._count()} {job.name}: {headline(result)}{self._time_left()}")
        copies = result.get("copies")
        if copies and copies not in self._printed_copies:
            self._printed_copies.add(copies)
            self._print(f"{job.machine}: {copies}")

    def fail(self, job: ModelJob, reason: str, *, retry: bool) -> None:
        """A job failed; with `retry` it is tried again, at most `RETRIES` times."""
        self._running.pop(job.name, None)
        attempt = self._attempts.get(job.name, 1)
        if retry and attempt <= RETRIES and not self._stopping:
            self._print(f"{job.name}: attempt {attempt} failed: {reason}; trying again")
            self._waiting = {job.name: job, **self._waiting}
            return
        self.failed[job.name] = reason
        self._print(f"{job.name}: failed: {reason}")
        for other in [one for one in self._waiting.values() if one.needs == job.name]:
            del self._waiting[other.name]
            self.failed[other.name] = f"needs {job.name}, which failed"

    def requeue(self, job: ModelJob) -> None:
        """A job was stopped before its end; the attempt does not count."""
        self._running.pop(job.name, None)
        self._attempts[job.name] = self._attempts.get(job.name, 1) - 1
        self._waiting = {job.name: job, **self._waiting}

    def stop(self) -> None:
        """Hand out no more jobs."""
        self._stopping = True

    def status(self) -> str | None:
        """One line on the running jobs; None if there are none."""
        if not self._running:
            return None
        running = "; ".join(f"{name}: {at}" for name, at in self._running.items())
        return f"{self._count()} done, running {running}"

    def _count(self) -> str:
        return f"[{len(self.done)}/{self.total}]"

    def _time_left(self) -> str:
        made, left = len(self.done) - self._done_before, len(self._waiting) + len(self._running)
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


def worker_accelerators(accelerator: str, jobs: int | None) -> list[str]:
    """The accelerator of each worker: by default one per GPU, or one on the CPU; more of them share the GPUs.

    Raises DeviceError for an accelerator that is not there.
    """
    import torch

    from edgeasd.toolkit.training.fabric import open_fabric

    open_fabric(accelerator)
    if accelerator not in ("auto", "cuda"):
        return [accelerator] * (jobs or 1)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{k % gpus}" if gpus else "cpu" for k in range(jobs or max(1, gpus))]


def run_local(
    queue: JobQueue,
    accelerators: Sequence[str],
    logs: Path,
    print_line: PrintLine,
    should_stop: Callable[[], bool],
) -> None:
    """Run the jobs of `queue`, as many at once as there are accelerators; returns when all ended or were stopped.

    Output of worker k goes to `logs`/worker-k.log. If `should_stop` says so, the running jobs write checkpoints
    and end; KeyboardInterrupt ends them at once.
    """
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, len(os.sched_getaffinity(0)) // len(accelerators))
    workers = [_Worker(one, threads, logs / f"worker-{k}.log") for k, one in enumerate(accelerators)]
    is_stopping, shown = False, time.monotonic()
    try:
        while True:
            for worker in workers:
                if worker.job is None and (job := queue.take()) is not None:
                    worker.start(job)
            running = [worker for worker in workers if worker.future is not None]
            if not running:
                return
            wait([worker.future for worker in running if worker.future], timeout=0.1, return_when=FIRST_COMPLETED)
            for worker in running:
                worker.poll(queue, is_stopping)
            if should_stop() and not is_stopping:
                is_stopping = True
                queue.stop()
                print_line("stopping: running models write a checkpoint; a second Ctrl-C ends at once")
                for worker in running:
                    worker.signal(signal.SIGINT)
            if time.monotonic() - shown >= _STATUS_EVERY_SECONDS:
                shown = time.monotonic()
                if line := queue.status():
                    print_line(line)
    except BaseException:
        for worker in workers:
            worker.signal(signal.SIGKILL)
        raise
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """One worker process and the job it runs; the process is replaced if it dies."""

    def __init__(self, accelerator: str, threads: int, log: Path) -> None:
        self.job: ModelJob | None = None
        self.future: Future[JobEnd] | None = None
        self._accelerator, self._threads, self._log = accelerator, threads, log
        self._pool: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self._progress: Connection | None = None

    def start(self, job: ModelJob) -> None:
        """Give the idle worker a job."""
        self.job = job
        if self._pool is None:
            self._progress, sender = _SPAWN.Pipe(duplex=False)
            arguments = (self._accelerator, self._threads, str(self._log), sender)
            self._pool = ProcessPoolExecutor(1, _SPAWN, initializer=_set_up_worker, initargs=arguments)
            before = set(multiprocessing.active_children())
            with _thread_count(self._threads):
                self.future = self._pool.submit(_run_in_worker, job.model_dump_json())
            self._process = next(iter(set(multiprocessing.active_children()) - before), None)
            sender.close()
        else:
            self.future = self._pool.submit(_run_in_worker, job.model_dump_json())

    def poll(self, queue: JobQueue, is_stopping: bool) -> None:
        """Pass progress, and the end of the job if it has ended, to `queue`."""
        job, future = self.job, self.future
        assert job is not None
        assert future is not None
        for done, total, text in self._received():
            queue.progress(job, done, total, text)
        if not future.done():
            return
        self.job = self.future = None
        try:
            end = future.result()
        except BrokenProcessPool:
            exit_code = self._exit_code()
            self.close()
            if is_stopping:
                queue.requeue(job)
            else:
                queue.fail(job, f"{_death(exit_code)}{self._last_log_line()}", retry=True)
        else:
            queue.end(job, end)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process: SIGINT to stop after its iteration, SIGKILL to end it now."""
        if self._process is not None and self._process.pid is not None and self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def close(self) -> None:
        """End the process, which must be idle or dead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._progress is not None:
            self._progress.close()
        self._pool = self._process = self._progress = None

    def _received(self) -> Iterator[tuple[int, int, str]]:
        # EOFError and OSError: the process died, perhaps within a message.
        with contextlib.suppress(EOFError, OSError):
            while self._progress is not None and self._progress.poll():
                yield self._progress.recv()

    def _exit_code(self) -> int | None:
        if self._process is None:
            return None
        self._process.join(timeout=10)
        return self._process.exitcode

    def _last_log_line(self) -> str:
        try:
            lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f" ({lines[-1][:200]})" if lines else ""


@contextlib.contextmanager
def _thread_count(threads: int) -> Iterator[None]:
    """The environment that a new process reads before it imports numpy and torch."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", which is also what running out of memory looks like" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


# In the worker process.

_accelerator = "cpu"
_progress: Connection | None = None
_should_stop: Callable[[], bool]
_until_exit = contextlib.ExitStack()


def _set_up_worker(accelerator: str, threads: int, log: str, progress: Connection) -> None:
    global _accelerator, _progress, _should_stop
    # A session of its own: Ctrl-C reaches the parent alone, which then asks each worker once.
    os.setsid()
    handle = open(log, "w", encoding="utf-8")  # noqa: SIM115
    os.dup2(handle.fileno(), 1)
    os.dup2(handle.fileno(), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import torch

    from edgeasd.toolkit.training.session import stop_requests

    torch.set_num_threads(threads)
    _should_stop = _until_exit.enter_context(stop_requests())
    _accelerator, _progress = accelerator, progress


def _end_with_parent() -> None:
    """A worker whose command was killed must not train on unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(job_json: str) -> JobEnd:
    from edgeasd.toolkit.reproduction.job import attempt_job

    sent = 0.0

    def report(done: int, total: int, text: str = "") -> None:
        nonlocal sent
        if time.monotonic() - sent >= _PROGRESS_EVERY_SECONDS and _progress is not None:
            sent = time.monotonic()
            _progress.send((done, total, text))

    end = attempt_job(ModelJob.model_validate_json(job_json), _accelerator, report, _should_stop)
    sys.stderr.flush()
    return end
