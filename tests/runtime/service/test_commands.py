"""Commands without a running service, and what is said of the delivery of a test alarm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.alarms import Command
from edgeasd.runtime.config import ServiceConfig, parse_config, read_config
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import OutputState
from edgeasd.runtime.service.commands import send_command, wait_for_delivery
from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.system.lock import folder_lock

pytestmark = pytest.mark.core
CONFIG = """
site = "plant"
[streams.a]
bundle = "b"
input = "a.wav"
[outputs.hook]
type = "webhook"
url = "http://127.0.0.1:9/"
kinds = ["event"]
"""


@pytest.fixture
def config(tmp_path: Path, small_bundle: Path) -> ServiceConfig:
    """A site with a stream whose bundle is absent, one that can be commanded, and outputs of every sort."""
    (tmp_path / "site.toml").write_text(
        'site = "plant"\n'
        '[streams.a]\nbundle = "absent"\ninput = "a.wav"\n'
        f'[streams.b]\nbundle = "{small_bundle}"\nid = "b"\ninput = "b.wav"\n'
        '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\nkinds = ["event"]\n'
        '[outputs.quiet]\ntype = "jsonl"\npath = "quiet.jsonl"\nkinds = ["score"]\n'
        '[outputs.page]\ntype = "prometheus"\naddress = "127.0.0.1:0"\n',
        "utf-8",
    )
    return read_config(tmp_path / "site.toml")


def test_stream_that_is_not_loaded_does_not_stop_the_others(config: ServiceConfig) -> None:
    result = send_command(config, ["a", "b"], Command(command="test"))
    assert not result.by_service
    assert [one["reason"] for one in result.transitions["b"]] == ["test", "test_over"]
    assert list(result.rejected) == ["a"]
    assert result.rejected["a"].startswith("a: not loaded: ")
    assert [(one.output, one.delivered) for one in result.deliveries] == [("log", True), ("quiet", None)]
    lines = [json.loads(line) for line in (config.data / "log.jsonl").read_text("utf-8").splitlines()]
    assert [one["body"] for one in lines] == result.transitions["b"]
    again = send_command(config, ["b"], Command(command="maintenance_on", by="anna"))
    assert again.deliveries == []
    with EventStore.open(config.data / "events.db", read_only=True) as store:
        assert store.transitions("valve", "b") == [*result.transitions["b"], *again.transitions["b"]]
    lines = [json.loads(line) for line in (config.data / "log.jsonl").read_text("utf-8").splitlines()]
    assert [one["seq"] for one in lines] == [1, 2, 3]
    assert len({one["store"] for one in lines}) == 1


def test_commands_are_refused_while_the_folder_is_taken(config: ServiceConfig) -> None:
    with folder_lock(config.data), pytest.raises(InputError, match="another edgeasd uses this folder"):
        send_command(config, ["b"], Command(command="test"))


def hook(**changes: Any) -> OutputState:
    return OutputState(**{"name": "hook", "type": "webhook", "connected": True, **changes})


def test_messages_dropped_since_the_command_are_not_delivered() -> None:
    config = parse_config(CONFIG.encode(), Path("site.toml"))
    before = [hook(dropped={"event": 3})]
    (kept,) = wait_for_delivery(config, before, lambda: before, 1.0)
    assert (kept.delivered, kept.text) == (True, "delivered")
    after = [hook(dropped={"event": 5}, last_error="HTTP 410")]
    (lost,) = wait_for_delivery(config, before, lambda: after, 1.0)
    assert (lost.delivered, lost.waiting, lost.text) == (False, 0, "NOT delivered, given up; last error: HTTP 410")


def test_output_has_delivered_once_nothing_waits() -> None:
    config = parse_config(CONFIG.encode(), Path("site.toml"))
    states = iter([[hook(queued=2)], [hook()], [hook(queued=1)]])
    (found,) = wait_for_delivery(config, [hook()], lambda: next(states), 5.0)
    assert found.delivered is True
    (waits,) = wait_for_delivery(config, [hook()], lambda: [hook(queued=2, last_error="timed out")], 0.2)
    assert (waits.delivered, waits.waiting) == (False, 2)
    assert waits.text == "NOT delivered, 2 wait; last error: timed out"


def test_service_that_ends_ends_the_wait() -> None:
    config = parse_config(CONFIG.encode(), Path("site.toml"))
    states = iter([[hook(queued=1)], None])
    (found,) = wait_for_delivery(config, [], lambda: next(states), 60.0)
    assert (found.delivered, found.text) == (False, "NOT delivered, 1 waits")
