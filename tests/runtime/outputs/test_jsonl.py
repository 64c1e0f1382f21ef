"""JSON lines on disk: rotated by us or by others, mended after a power cut."""

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
from edgeasd.runtime.outputs.jsonl import JsonlSink
from edgeasd.runtime.outputs.settings import JsonlSettings
from edgeasd.runtime.outputs.sink import DeliveryFailed, Entry

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]

QUEUE = "0123456789abcdef"


def sink(path: Path, clock: Any = None, **more: Any) -> JsonlSink:
    settings = JsonlSettings(type="jsonl", path=str(path), **more)
    return JsonlSink(settings, clock) if clock else JsonlSink(settings)


def put(to: JsonlSink, *numbers: int, text: str = '{"a": 1}') -> int:
    confirmed: list[int] = []
    to.deliver([Entry("score", "m", "0", text, None, n, n) for n in numbers], QUEUE, confirmed.append)
    return confirmed[-1]


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


def test_lines_are_appended_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("of somebody else\n")
    to = sink(path)
    assert put(to, 1, 2) == 2
    put(to, 3)
    to.close(1.0)
    assert path.read_text().splitlines()[1:] == [f'{{"queue": "{QUEUE}", "sequence": {n}, "a": 1}}' for n in (1, 2, 3)]


@pytest.mark.parametrize("how", ["moved", "deleted", "copied over"])
def test_a_file_that_a_log_rotator_took_is_made_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "o.jsonl"
    to = sink(path)
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
    to = sink(path)
    put(to, 1)
    os.truncate(path, 0)
    put(to, 2)
    assert numbers(path) == [2]


def test_a_large_file_becomes_an_earlier_one_and_the_last_of_them_goes(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    to = sink(path, rotate_megabytes=0.01, keep=2)
    for number in range(1, 8):
        put(to, number, text='{"a": "' + "x" * 12_000 + '"}')
    assert {entry.name for entry in tmp_path.iterdir()} == {"o.jsonl", "o.jsonl.1", "o.jsonl.2"}
    assert [numbers(path.with_name(name)) for name in ("o.jsonl.2", "o.jsonl.1", "o.jsonl")] == [[5], [6], [7]]


def test_without_earlier_files_nothing_is_rotated(tmp_path: Path) -> None:
    to = sink(tmp_path / "o.jsonl", rotate_megabytes=0.01, keep=0)
    for number in range(1, 4):
        put(to, number, text='{"a": "' + "x" * 12_000 + '"}')
    assert numbers(tmp_path / "o.jsonl") == [1, 2, 3]


def test_an_old_file_becomes_an_earlier_one(tmp_path: Path) -> None:
    now = 1e9
    to = sink(tmp_path / "o.jsonl", lambda: now, rotate_hours=1.0)
    put(to, 1)
    now += 3599.0
    put(to, 2)
    now += 2.0
    put(to, 3)
    assert numbers(tmp_path / "o.jsonl.1") == [1, 2]
    assert numbers(tmp_path / "o.jsonl") == [3]


@pytest.mark.parametrize("cut", [1, 9, 20, 40])
def test_a_torn_line_of_ours_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "o.jsonl"
    put(sink(path), 1, 2)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut])
    put(sink(path), 2, 3)
    assert numbers(path) == [1, 2, 3]


def test_a_torn_line_of_somebody_else_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("hello")
    put(sink(path), 1)
    assert path.read_text().splitlines()[0] == "hello"


def test_a_full_disk_fails_the_attempt_and_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write is cut short in the same way."""
    path = tmp_path / "o.jsonl"
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_jsonl import DeliveryFailed, put, sink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
to = sink(Path({str(path)!r}))
put(to, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    put(to, 2, 3)
    print("written")
except DeliveryFailed as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
put(to, 2, 3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert numbers(path) == [1, 2, 3]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100


def test_a_pipe_in_place_of_the_file_is_refused_and_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "o.jsonl")
    with pytest.raises(InputError, match="no plain file"):
        sink(tmp_path / "o.jsonl")
    (tmp_path / "o.jsonl").unlink()
    to = sink(tmp_path / "o.jsonl")
    os.mkfifo(tmp_path / "o.jsonl")
    with pytest.raises(DeliveryFailed, match="no plain file"):
        put(to, 1)
