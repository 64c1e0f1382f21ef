"""Progress on a terminal of any width, in a pipe, and beside other output."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest

from edgeasd.toolkit.progress import progress

pytestmark = pytest.mark.core

WORK = """
import sys, time
from edgeasd.toolkit.progress import progress
with progress("log-mel features") as report:
    for done in range(1, 6):
        time.sleep(0.25)
        report(done, 400, "a rather long name of a clip.wav")
        if done == 3:
            print("on standard output")
            print("on standard error", file=sys.stderr)
            with progress("inner work") as inner:
                inner(1, 2)
                time.sleep(0.3)
print("done")
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def screen(text: str) -> list[str]:
    """What a terminal shows in the end: lines that were erased are gone."""
    rows, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part.endswith("A") and part.startswith("\x1b["):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\x1b[2K":
            rows[row] = ""
        elif not part.startswith("\x1b") and part != "\r":
            rows[row] += part
    return [line for line in rows if line]


@pytest.fixture
def in_terminal() -> Callable[..., str]:
    """(columns, **environment) -> all that WORK writes to a terminal of that width."""

    def run(columns: int, **environment: str) -> str:
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        surroundings = {
            "TERM": "xterm-256color",
            **{k: v for k, v in os.environ.items() if k not in ("TERM", "COLUMNS")},
        }
        process = subprocess.Popen(
            [sys.executable, "-c", WORK],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**surroundings, **environment},
        )
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65_536):
                written += part
        except OSError:
            pass  # Linux says EIO where others say end of file.
        os.close(ours)
        assert process.wait(30) == 0
        return written.decode()

    return run


@pytest.mark.parametrize("columns", [20, 40, 80, 120])
def test_rate_and_time_left_fit_any_width(in_terminal: Callable[..., str], columns: int) -> None:
    written = in_terminal(columns)
    lines = [line for line in re.split(r"[\r\n]+", ESCAPES.sub("", written)) if "/s " in line]
    assert lines
    for line in lines:
        assert re.search(r"[\d.]+/s \d+:\d\d left", line)
        assert len(line.rstrip()) < columns
    assert screen(written) == ["on standard output", "on standard error", "done"], "no line is left behind or torn"


def test_no_color_is_kept(in_terminal: Callable[..., str]) -> None:
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", in_terminal(80))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", in_terminal(80, NO_COLOR="1"))


def test_a_pipe_gets_whole_plain_lines_and_few() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "on standard output\ndone\n")
    assert done.stderr == "on standard error\n"


def test_the_last_line_of_long_work_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((100.0, 105.0, 111.0, 112.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress("work") as report:
        report(1, 10)
        report(4, 10, "clip")
        report(10, 10)
    assert capsys.readouterr().err == "work: 4/10, 2.8 s each, 0:16 left clip\nwork: 10/10\n"
