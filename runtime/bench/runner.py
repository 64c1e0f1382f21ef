"""Runs the measurement of each variant in a process of its own, one after another.

As a program it is that process: a request on standard input, events as JSON lines on standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeasd.runtime.bench.measure import BenchSettings, ProgressCallback
from edgeasd.runtime.bench.variants import Variant
from edgeasd.runtime.errors import DeviceError, EdgeasdError

_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Row:
    """The outcome of a variant: `result` of `measure`, or one line why there is none."""

    variant: Variant
    result: dict[str, Any] | None = None
    reason: str | None = None
    exit_code: int = 0
    """Of the failure; 0 if it was measured or left out on purpose."""

    def as_json(self) -> dict[str, Any]:
        """One object of the list `variants`; `not_measured` is null if it was measured."""
        named = {name: getattr(self.variant, name) for name in ("precision", "engine", "accelerator")}
        note = self.variant.note if self.result is not None else None
        return {**named, "note": note, "not_measured": self.reason, **(self.result or {})}


def run_variant(
    bundle: Path, variant: Variant, settings: BenchSettings, progress: ProgressCallback, root: Path = Path("/")
) -> Row:
    """Measure a variant in a fresh process; a failure becomes the row's reason. KeyboardInterrupt ends the process."""
    if variant.left_out is not None:
        return Row(variant, reason=variant.left_out)
    request = {
        "bundle": str(bundle.absolute()),
        "variant": asdict(variant),
        "settings": asdict(settings),
        "root": str(root.absolute()),
    }
    with tempfile.TemporaryFile() as errors, _child(errors) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request))
            process.stdin.close()
        except BrokenPipeError:
            pass
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress":
                progress(event["done"], event["total"], event["text"])
            elif event["event"] == "measured":
                return Row(variant, result=event["result"])
            else:
                return Row(variant, reason=event["message"], exit_code=event["exit_code"])
        return Row(variant, reason=_describe_end(process.wait(), errors), exit_code=DeviceError.exit_code)


@contextmanager
def _child(errors: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block. In its own session, so that Ctrl-C reaches only this process."""
    command = [sys.executable, "-m", "edgeasd.runtime.bench.runner"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                _close(pipe.close)
        try:
            # After its result it ends by itself; after an error here it is killed at once.
            process.wait(timeout=0 if sys.exc_info()[0] else _PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _close(close: Callable[[], None]) -> None:
    try:
        close()
    except BrokenPipeError:
        return


def _describe_end(code: int, errors: Any) -> str:
    """One line for a process that ended without a result."""
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "without a message")
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name if -code in {int(s) for s in signal.Signals} else f"signal {-code}"
    memory = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
    return f"its process ended with {how} ({last[:200]}){memory}"


def main() -> None:
    """Entry point of `python -m edgeasd.runtime.bench.runner`."""
    # Libraries may write to standard output, so events get a descriptor of their own.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=events, flush=True)

    # Imported here: a failure of an import is an event too.
    from edgeasd.runtime.bench.measure import BenchSettings, measure
    from edgeasd.runtime.bench.variants import Variant

    text = sys.stdin.read()
    if not text:  # the parent was stopped before it wrote the request
        return
    request = json.loads(text)
    request["settings"]["batches"] = tuple(request["settings"]["batches"])
    try:
        result = measure(
            Path(request["bundle"]),
            Variant(**request["variant"]),
            BenchSettings(**request["settings"]),
            lambda done, total, text: emit("progress", done=done, total=total, text=text),
            Path(request["root"]),
        )
    except EdgeasdError as error:
        emit("failed", exit_code=error.exit_code, message=str(error))
    else:
        emit("measured", result=result)


if __name__ == "__main__":
    main()
