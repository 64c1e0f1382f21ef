"""Where training runs and in which precision: Lightning Fabric on what the user names."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import torch
from lightning_fabric import Fabric

from edgeasd.runtime.errors import DeviceError, InputError

TRAINING_PRECISIONS = ("auto", "fp32", "bf16")


def open_fabric(accelerator: str, precision: str = "auto") -> Fabric:
    """Fabric on "cpu", "cuda" or "cuda:K", training in "fp32" or with "bf16" autocast.

    An accelerator of "auto" is the first GPU there is, else the CPU. A precision of "auto" is bfloat16 on
    a GPU that has it, float32 elsewhere: on CPUs it pays on some only. Raises DeviceError for what is not
    there, InputError for an unknown precision.
    """
    if precision not in TRAINING_PRECISIONS:
        raise InputError(f"--training-precision {precision}: unknown; use one of {', '.join(TRAINING_PRECISIONS)}")
    kind, _, index = accelerator.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise DeviceError(f"--accelerator {accelerator}: unknown; use auto, cpu, cuda or cuda:0")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise DeviceError(f"--accelerator {accelerator}: torch sees {count} CUDA GPUs; use --accelerator cpu")
        # float32 means float32 (TF32 has 10 bits of mantissa), and a seed means the same run.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        able = torch.cuda.is_bf16_supported()
        if precision == "bf16" and not able:
            raise DeviceError(f"--training-precision bf16: {accelerator} has no bfloat16; use fp32")
        mixed = able and precision != "fp32"
        return Fabric(accelerator="cuda", devices=[int(index or 0)], precision="bf16-mixed" if mixed else "32-true")
    return Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")


@dataclass(frozen=True)
class Job:
    """One ID to train and the arguments that do it."""

    id: str
    arguments: Sequence[str]


def run_jobs(jobs: Sequence[Job], accelerators: Sequence[str]) -> dict[str, int]:
    """Run every job, as many at once as there are accelerators; returns exit codes by ID.

    Progress lines of the processes are passed on to standard error with the ID in front. When this
    process is interrupted, the others are asked to stop and write their checkpoints, and it waits for them.
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
            # A session of its own: Ctrl-C reaches this process alone, which then signals each child once.
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
