"""--build: `edgeasd build` before the command itself, where no engine fits."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import typer

from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.toolkit.cli._errors import print_error

if TYPE_CHECKING:
    from edgeasd.runtime.bundle.bundle import Bundle


def build_missing(
    bundle: Bundle, precision: str | None, engine: str, accelerator: str, head: str, front_end: str = "cpu"
) -> None:
    """Build the engines that this choice needs and that are missing or do not fit; those that fit stay.

    Raises InputError where the choice is ONNX Runtime, DeviceError where TensorRT or a GPU is not there; leaves
    with the exit code of `edgeasd build` where that fails.
    """
    from edgeasd.runtime.bundle.selection import check_built, select
    from edgeasd.runtime.engines import select_engine
    from edgeasd.runtime.engines.tensorrt import library
    from edgeasd.runtime.engines.tensorrt.engine_file import NotBuilt

    if engine == "auto" and accelerator != "cpu" and precision != "int8-cpu":
        # Whoever asks to build asks for TensorRT, and is told where it is not.
        library.load()
    if select_engine(engine, accelerator, precision).engine != "tensorrt":
        raise InputError("--build: there is nothing to build for ONNX Runtime on the CPU; leave it out")
    offer = select(bundle.manifest, bundle.path, precision, engine, accelerator, head, front_end)
    tried: dict[str, int] = {}
    while True:
        try:
            return check_built(bundle.manifest, bundle.path, offer)
        except NotBuilt as missing:
            line = shlex.join(missing.arguments)
            # Only an engine that is still missing makes the failure of its build ours: one that is slower than
            # it should be ends `edgeasd build` with 1, and is kept.
            if line in tried:
                if tried[line] == 0:
                    raise
                raise typer.Exit(tried[line]) from None
            print_error(f"{missing.what}; now: edgeasd {line}")
            tried[line] = _build(missing.arguments)


def _build(arguments: list[str]) -> int:
    """Run `edgeasd build` in a process of its own, as a builder's memory should not stay for months; its exit code."""
    # What it prints is progress for whoever asked for scores.
    with subprocess.Popen([sys.executable, "-m", "edgeasd", *arguments], stdout=sys.stderr) as process:
        try:
            code = process.wait()
        except BaseException:
            # It ends in its own way, and leaves the old engine whole. A second request changes nothing.
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code < 0:
        raise DeviceError(f"edgeasd build: ended by signal {-code}; see the system log, or build on its own first")
    return code
