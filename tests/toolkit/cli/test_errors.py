"""Interrupts that a library swallows are raised again before anything is given its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeasd.runtime.sources import AudioChunk
from edgeasd.runtime.sources.capture import SampleQueue
from edgeasd.toolkit.cli._errors import TERMINATED, defer_signals, interruptible

pytestmark = pytest.mark.core


def swallow(number: int) -> None:
    """What an import machinery or a finaliser may do to an interrupt."""
    try:
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 0)
    except BaseException:
        return
    raise AssertionError("the signal did not arrive")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_swallowed_interrupt_is_raised_at_the_next_check(number: int, raised: type[BaseException]) -> None:
    def work(check: Callable[[], None]) -> None:
        check()
        swallow(number)
        check()
        raise AssertionError("the check let it pass")

    with pytest.raises(raised) as caught, interruptible() as check:
        work(check)
    if raised is SystemExit:
        assert caught.value.code == TERMINATED  # type: ignore[attr-defined]


def test_a_swallowed_interrupt_is_raised_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        swallow(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible() as check:
        check()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("window", ["_release_save", "_acquire_restore"])
def test_an_interrupt_waits_until_a_lock_is_given_back(window: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SampleQueue(16_000, "drop")
    within = getattr(queue._changed, window)

    def interrupted(*state: object) -> object:
        monkeypatch.undo()
        found = within(*state)
        signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(queue._changed, window, interrupted)
    with pytest.raises(KeyboardInterrupt), defer_signals():
        queue.get(timeout=0.5)
    # Were the lock still taken, a writer would wait for ever.
    writer = threading.Thread(target=lambda: queue.put(AudioChunk(np.ones(10, dtype=np.float32), 0)), daemon=True)
    writer.start()
    writer.join(5.0)
    assert queue.held == 10


def test_ctrl_c_inside_generated_code_still_ends_with_130(tmp_path: Path) -> None:
    (tmp_path / "generating.py").write_text(
        "import signal, sys\n"
        "from edgeasd.toolkit import cli\n"
        "def generate():\n"
        "    exec('signal.raise_signal(signal.SIGINT)')\n"
        "cli.app.command('generate')(generate)\n"
        "sys.argv = ['edgeasd', 'generate']\n"
        "cli.main()\n"
    )
    # Only `python -m` and the installed command end through the interpreter's own check for unhandled interrupts.
    done = subprocess.run([sys.executable, "-m", "generating"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "edgeasd: stopped by Ctrl-C; nothing half-written was left\n"
