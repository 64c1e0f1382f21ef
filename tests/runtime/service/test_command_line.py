"""`edgeasd alarm` and `edgeasd status` beside a service, where one stream or one output is not as it should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.service.service import Service
from edgeasd.toolkit.cli import app

pytestmark = pytest.mark.core
LOG = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\nkinds = ["event"]\n'
QUIET = '[outputs.quiet]\ntype = "jsonl"\npath = "quiet.jsonl"\nkinds = ["score"]\n'
DEAD = '[outputs.plc]\ntype = "webhook"\nurl = "http://127.0.0.1:9/"\n'
ALARM = "[streams.{}.alarm]\non = -5.0\nhysteresis = 0.0\nwarning_margin = 0.0\nk = 1\nn = 1\n"
Serve = Callable[..., tuple[Service, Any]]


@pytest.fixture
def edgeasd(site: Any) -> Callable[..., Any]:
    """A command of edgeasd on the site file, in this process."""
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments), "--config", str(site.file)])


@pytest.mark.parametrize("served", [True, False], ids=["a service", "no service"])
def test_command_reaches_the_streams_that_are_loaded(
    site: Any, sound: Path, serve: Serve, edgeasd: Callable[..., Any], served: bool
) -> None:
    stream = f'input = "{sound}"\nloop = true\nrealtime = true'
    site.write(f'{stream}\nbundle = "absent"', f"{stream}\n{LOG}{QUIET}")
    if served:
        service, _ = serve()
        site.until(lambda: service.is_loaded)
    done = edgeasd("alarm", "test")
    assert done.exit_code == 2, done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["b: normal -> alarm", "b: alarm -> normal"]
    lines = done.stderr.splitlines()
    assert lines[0].startswith("edgeasd: a: not loaded: ")
    assert "absent" in lines[0]
    assert lines[1:3] == ["edgeasd: output log: delivered", "edgeasd: output quiet: is sent no events, by its kinds"]
    assert len((site.data / "log.jsonl").read_text("utf-8").splitlines()) == 2
    alone = edgeasd("alarm", "test", "--stream", "a", "--json")
    assert alone.exit_code == 2
    answer = json.loads(alone.stdout)
    assert (answer["streams"], list(answer["refused"]), answer["service"]) == ({}, ["a"], served)
    shown = edgeasd("status")
    if served:
        assert (shown.exit_code, shown.stderr) == (1, "")
        assert "a: failed: " in shown.stdout
    else:
        assert isinstance(shown.exception, DeviceError)
        assert "no service runs" in str(shown.exception)


@pytest.mark.parametrize("served", [True, False], ids=["a service", "no service"])
def test_test_alarm_that_is_not_delivered_ends_with_1(
    site: Any,
    sound: Path,
    serve: Serve,
    edgeasd: Callable[..., Any],
    served: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("httpx", reason="NO httpx: pip install 'edgeasd[serve]'")
    monkeypatch.setattr("edgeasd.runtime.service.commands.DELIVERY_SECONDS", 1.0)
    site.write(f'input = "{sound}"\nloop = true\nrealtime = true\n{LOG}{DEAD}')
    if served:
        service, _ = serve()
        site.until(lambda: service.is_loaded)
    done = edgeasd("alarm", "test", "--json")
    assert done.exit_code == 1, done.stderr
    log, plc = json.loads(done.stdout)["outputs"]
    assert (log["output"], log["delivered"], plc["output"], plc["delivered"]) == ("log", True, "plc", False)
    assert plc["waiting"] >= 2
    assert "edgeasd: output plc: NOT delivered, " in done.stderr
    assert "refused" in done.stderr
    if served:
        shown = edgeasd("status")
        assert shown.exit_code == 1
        assert "output plc NOT connected, " in shown.stdout


def test_event_is_acknowledged_without_the_name_of_its_stream(
    site: Any, sound: Path, serve: Serve, edgeasd: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = f'input = "{sound}"\nloop = true\n'
    site.write(stream + ALARM.format("a"), stream + ALARM.format("b"))
    _, records = serve()
    site.until(lambda: {one["id"] for one in records.of("event") if one["state"] == "alarm"} == {"a", "b"})
    event = records.of("event", "b")[0]["event"]
    shown = edgeasd("status", "--json")
    assert shown.exit_code == 1
    status = json.loads(shown.stdout)
    assert not status["well"]
    assert f"b: event {event}" in status["concerns"]
    monkeypatch.setenv("SUDO_USER", "anna")
    done = edgeasd("alarm", "ack", "--event", event, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    ((name, (message,)),) = json.loads(done.stdout)["streams"].items()
    assert (name, message["state"], message["by"]) == ("b", "acknowledged", "anna")


def test_status_of_a_service_that_is_well(site: Any, sound: Path, serve: Serve, edgeasd: Callable[..., Any]) -> None:
    quiet = "[streams.a.health]\nunhealthy = []\n"
    site.write(f'input = "{sound}"\nloop = true\nrealtime = true\n{quiet}{LOG}')
    service, _ = serve()
    site.until(lambda: service.is_loaded)
    assert edgeasd("alarm", "test").exit_code == 0
    shown = edgeasd("status")
    assert (shown.exit_code, shown.stderr) == (0, ""), shown.stdout
    for part in ("plant, up ", "stream", "output", "log", "connected"):
        assert part in shown.stdout
    assert "\x1b" not in shown.stdout
    status = json.loads(edgeasd("status", "--json").stdout)
    assert (status["well"], status["streams"][0]["state"], status["outputs"][0]["queued"]) == (True, "running", 0)
