"""What the hub refuses: what is no message, a wrong output, a missing package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import until

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import Outputs, OutputState, parse_outputs

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

Make = Callable[..., dict[str, Any]]
FAST = {"retry_first_seconds": 0.02, "retry_longest_seconds": 0.1}


def outputs(folder: Path, tables: dict[str, dict[str, Any]], **more: Any) -> Outputs:
    return Outputs(parse_outputs(tables, "outputs"), folder / "queues", site="plant", box="box", **more)


def state(hub: Outputs, name: str) -> OutputState:
    return next(each for each in hub.state() if each.name == name)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({}, "message"),
        ({"kind": "gossip"}, "message"),
        ({"kind": "event", "schema": 1}, "message: event"),
        ({"kind": "score", "body": object()}, "give plain JSON values"),
    ],
)
def test_what_is_no_message_is_refused_in_one_line(tmp_path: Path, message: dict[str, Any], said: str) -> None:
    with outputs(tmp_path, {"file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}}) as hub:
        with pytest.raises(InputError, match=said) as refused:
            hub.put(message)
        assert "\n" not in str(refused.value)


def test_a_message_that_is_too_large_is_refused(tmp_path: Path, an_event: Make) -> None:
    hub = outputs(tmp_path, {"file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}})
    with pytest.raises(InputError, match="at most 65536 leave the box"):
        hub.put(an_event(1, note="x" * 70_000))
    hub.close()


def test_numbers_that_json_has_not_become_null(tmp_path: Path, a_score: Make) -> None:
    with outputs(tmp_path, {"file": {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}}) as hub:
        hub.put(a_score(float("nan")))
        hub.put(a_score(float("-inf")))
        until(lambda: state(hub, "file").delivered == 2)
    assert [line["body"]["last"] for line in lines(tmp_path / "o.jsonl")] == [None, None]


def test_one_wrong_output_starts_none_and_locks_nothing(tmp_path: Path) -> None:
    good = {"type": "jsonl", "path": str(tmp_path / "o.jsonl")}
    bad = {"type": "jsonl", "path": str(tmp_path / "absent" / "o.jsonl")}
    with pytest.raises(InputError, match="no such folder"):
        outputs(tmp_path, {"good": good, "bad": bad})
    outputs(tmp_path, {"good": good}).close()


@pytest.mark.parametrize(
    ("package", "table"),
    [("paho", {"type": "mqtt", "url": "mqtt://127.0.0.1"}), ("prometheus_client", {"type": "prometheus"})],
)
def test_a_missing_package_is_one_line_with_the_extra(tmp_path: Path, package: str, table: dict[str, Any]) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from edgeasd.runtime.errors import InputError\n"
        "from edgeasd.runtime.outputs import Outputs, parse_outputs\n"
        "from pathlib import Path\n"
        f"try: Outputs(parse_outputs({{'x': {table!r}}}, 'o'), Path({str(tmp_path)!r}), site='s')\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'edgeasd[serve]'" in done.stdout


def test_importing_outputs_needs_the_core_only() -> None:
    code = (
        "import sys, edgeasd.runtime.outputs\n"
        "print(sorted({'paho', 'prometheus_client', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
