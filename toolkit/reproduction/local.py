"""Jobs on this machine: a few worker processes side by side, each of which may die without harm to the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from edgeasd.toolkit.reproduction.board import Board, Say
from edgeasd.toolkit.reproduction.plan import ModelJob

_STATUS_EVERY_SECONDS = 20.0


def slots(accelerator: str, jobs: int | None) -> list[str]:
    """The accelerator of each worker: by default one a GPU, or one on the CPU; more of them share the GPUs.

    Raises DeviceError for an accelerator that is not there.
    """
    import torch

    from edgeasd.toolkit.training.fabric import open_fabric

    open_fabric(accelerator)
    if accelerator not in ("auto", "cuda"):
        return [accelerator] * (jobs or 1)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{k % gpus}" if gpus else "cpu" for k in range(jobs or max(1, gpus))]


def run_local(board: Board, accelerators: Sequence[str], logs: Path, say: Say, should_stop: Callable[[], bool]) -> None:
    """Run the jobs of `board`, as many at once as there are accelerators; returns when all ended or were stopped.

    Standard error of worker k goes to `logs`/worker-k.log. When `should_stop` says so, the workers write
    checkpoints and end; KeyboardInterrupt ends them at once.
    """
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, len(os.sched_getaffinity(0)) // len(accelerators))
    workers = [_Worker(board, one, threads, logs / f"worker-{k}.log") for k, one in enumerate(accelerators)]
    for worker in workers:
        worker.thread.start()
    asked, shown = False, time.monotonic()
    try:
        while any(worker.thread.is_alive() for worker in workers):
            time.sleep(0.1)
            if should_stop() and not asked:
                asked = True
                board.stop()
                say("stopping: running models write a checkpoint; a second Ctrl-C ends at once")
                for worker in workers:
                    worker.ask_to_stop()
            if time.monotonic() - shown >= _STATUS_EVERY_SECONDS:
                shown = time.monotonic()
                if line := board.status():
                    say(line)
    except BaseException:
        board.stop()
        for worker in workers:
            worker.kill()
        raise
    for worker in workers:
        if worker.surprise is not None:
            raise worker.surprise


class _Worker:
    """A thread of this process that feeds one worker process, and starts another when that dies."""

    def __init__(self, board: Board, accelerator: str, threads: int, log: Path) -> None:
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.surprise: BaseException | None = None
        """What ended the thread and should not have."""
        self._board, self._log = board, log
        self._command = [sys.executable, "-m", "edgeasd.toolkit.reproduction.worker", accelerator, str(threads)]
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopping = False

    def _work(self) -> None:
        """Take jobs until there are none."""
        try:
            while (job := self._board.take()) is not None:
                self._do(job)
            if self._process is not None:
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait()
        except BaseException as error:
            self.surprise = error
            self._board.stop()
            self.kill()

    def ask_to_stop(self) -> None:
        """Let the process end its iteration, write a checkpoint and stop."""
        with self._lock:
            self._stopping = True
            self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process now."""
        with self._lock:
            self._stopping = True
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _do(self, job: ModelJob) -> None:
        process = self._living()
        if process is None:
            self._board.put_back(job)
            return
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(job.model_dump_json() + "\n")
            process.stdin.flush()
            ended = self._listen(job, process.stdout)
        except (OSError, ValueError):  # it died before it read the job, or in the middle of a line
            ended = False
        if not ended:
            code = process.wait()
            if self._stopping:
                self._board.put_back(job)
            else:
                self._board.fail(job, f"{_death(code)}{self._last_words()}", again=True)

    def _listen(self, job: ModelJob, events: IO[str]) -> bool:
        """Follow a job to its end; False where the process ended first."""
        for line in events:
            event = json.loads(line)
            if event["event"] == "progress":
                self._board.progress(job, event["done"], event["total"], event["text"])
                continue
            if event["event"] == "finished":
                result = job.result()
                assert result is not None
                self._board.finish(job, result)
            elif event["event"] == "stopped":
                self._board.put_back(job)
            else:
                self._board.fail(job, event["reason"], again=event["again"])
            return True
        return False

    def _living(self) -> subprocess.Popen[str] | None:
        """The process, a new one where there is none alive; None when stopping."""
        with self._lock:
            if self._stopping:
                return None
            if self._process is None or self._process.poll() is not None:
                with open(self._log, "w", encoding="utf-8") as log:
                    # A session of its own: Ctrl-C reaches the parent alone, which then asks each worker once.
                    self._process = subprocess.Popen(
                        self._command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        encoding="utf-8",
                        env=self._environment,
                        start_new_session=True,
                    )
            return self._process

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f" ({lines[-1][:200]})" if lines else ""


def _death(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", which is also what running out of memory looks like" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"
