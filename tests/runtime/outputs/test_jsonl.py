"""JSON lines on disk: rotated by us or by others, repaired after a power cut."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.base import DeliveryError, OutputMessage
from edgeasd.runtime.outputs.jsonl import JsonlOutput
from edgeasd.runtime.outputs.messages import numbered
from edgeasd.runtime.outputs.settings import JsonlSettings

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]

STORE = "0123456789abcdef"


def output(path: Path, clock: Any = None, **more: Any) -> JsonlOutput:
    settings = JsonlSettings(type="jsonl", path=str(path), **more)
    return JsonlOutput(settings, clock) if clock else JsonlOutput(settings)


def put(to: JsonlOutput, *numbers: int, text: str = "a") -> int:
    confirmed: list[int] = []
    payload = f'{{"schema": 2, "a": "{text}"}}'
    to.deliver(
        [OutputMessage(n, "score", "m", "0", numbered(payload, STORE, n, True), STORE) for n in numbers],
        confirmed.append,
    )
    return confirmed[-1]


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines()]


def test_lines_are_appended_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("of somebody else\n")
    to = output(path)
    assert put(to, 1, 2) == 2
    put(to, 3)
    to.close(1.0)
    assert path.read_text().splitlines()[1:] == [
        f'{{"schema": 2, "store": "{STORE}", "seq": {n}, "stored": true, "a": "a"}}' for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("how", ["moved", "deleted", "copied over"])
def test_file_that_a_log_rotator_took_is_made_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "o.jsonl"
    to = output(path)
    put(to, 1)
    if how == "moved":
        os.replace(path, tmp_path / "o.jsonl.old")
    elif how == "deleted":
        path.unlink()
    else:
        (tmp_path / "other").write_text("")
        os.replace(tmp_path / "other", path)
    put(to, 2)
    assert numbers(path) == [2]


def test_truncation_in_place_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    to = output(path)
    put(to, 1)
    os.truncate(path, 0)
    put(to, 2)
    assert numbers(path) == [2]


def test_large_file_is_rotated_and_the_oldest_deleted(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    to = output(path, rotate_megabytes=0.01, keep=2)
    for number in range(1, 8):
        put(to, number, text="x" * 12_000)
    assert {entry.name for entry in tmp_path.iterdir()} == {"o.jsonl", "o.jsonl.1", "o.jsonl.2"}
    assert [numbers(path.with_name(name)) for name in ("o.jsonl.2", "o.jsonl.1", "o.jsonl")] == [[5], [6], [7]]


def test_keep_of_zero_rotates_nothing(tmp_path: Path) -> None:
    to = output(tmp_path / "o.jsonl", rotate_megabytes=0.01, keep=0)
    for number in range(1, 4):
        put(to, number, text="x" * 12_000)
    assert numbers(tmp_path / "o.jsonl") == [1, 2, 3]


def test_old_file_is_rotated(tmp_path: Path) -> None:
    now = 1e9
    to = output(tmp_path / "o.jsonl", lambda: now, rotate_hours=1.0)
    put(to, 1)
    now += 3599.0
    put(to, 2)
    now += 2.0
    put(to, 3)
    assert numbers(tmp_path / "o.jsonl.1") == [1, 2]
    assert numbers(tmp_path / "o.jsonl") == [3]


@pytest.mark.parametrize("cut", [1, 9, 20, 60])
def test_partial_line_of_ours_is_removed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "o.jsonl"
    put(output(path), 1, 2)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut])
    put(output(path), 2, 3)
    assert numbers(path) == [1, 2, 3]


def test_partial_line_of_an_earlier_version_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text('{"queue": "61fb944a11703a43", "sequ')
    put(output(path), 1)
    assert numbers(path) == [1]


def test_partial_line_of_somebody_else_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("hello")
    put(output(path), 1)
    assert path.read_text().splitlines()[0] == "hello"


def test_full_disk_fails_and_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write is cut short in the same way."""
    path = tmp_path / "o.jsonl"
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_jsonl import DeliveryError, output, put
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
to = output(Path({str(path)!r}))
put(to, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (120, resource.RLIM_INFINITY))
try:
    put(to, 2, 3)
    print("written")
except DeliveryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
put(to, 2, 3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert numbers(path) == [1, 2, 3]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100


def test_named_pipe_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "o.jsonl")
    with pytest.raises(InputError, match="not a plain file"):
        output(tmp_path / "o.jsonl")
    (tmp_path / "o.jsonl").unlink()
    to = output(tmp_path / "o.jsonl")
    os.mkfifo(tmp_path / "o.jsonl")
    with pytest.raises(DeliveryError, match="not a plain file"):
        put(to, 1)
