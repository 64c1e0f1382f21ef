"""Alarm commands and the state of a service where one stream or one output is not as it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.core
LOG = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\nkinds = ["event"]\n'
QUIET = '[outputs.quiet]\ntype = "jsonl"\npath = "quiet.jsonl"\nkinds = ["score"]\n'
DEAD = '[outputs.plc]\ntype = "webhook"\nurl = "http://127.0.0.1:9/"\n'
ALARM = "[streams.{}.alarm]\non = -5.0\nhysteresis = 0.0\nwarning_margin = 0.0\nk = 1\nn = 1\n"


@pytest.mark.parametrize("served", [True, False], ids=["a service", "no service"])
def test_a_stream_that_is_not_loaded_keeps_a_command_from_no_other(site: Any, sound: Path, served: bool) -> None:
    stream = f'input = "{sound}"\nloop = true\nrealtime = true'
    site.write(f'{stream}\nbundle = "absent"', f"{stream}\n{LOG}{QUIET}")
    process = site.start() if served else None
    done = site.command("alarm", "test", "--config", site.file)
    assert done.returncode == 2, done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["b: normal -> alarm", "b: alarm -> normal"]
    said = done.stderr.splitlines()
    assert said[0].startswith("edgeasd: a: not loaded: ")
    assert "absent" in said[0]
    assert said[1:3] == ["edgeasd: output log: delivered", "edgeasd: output quiet: is sent no events, by its kinds"]
    assert len((site.folder / "data" / "log.jsonl").read_text("utf-8").splitlines()) == 2
    alone = site.command("alarm", "test", "--config", site.file, "--stream", "a", "--json")
    assert alone.returncode == 2
    answer = json.loads(alone.stdout)
    assert (answer["streams"], list(answer["refused"]), answer["service"]) == ({}, ["a"], served)
    if process is not None:
        shown = site.command("status", "--config", site.file)
        assert (shown.returncode, shown.stderr) == (1, "")
        assert "    failed: " in shown.stdout
        site.end(process)


@pytest.mark.parametrize("served", [True, False], ids=["a service", "no service"])
def test_a_test_alarm_that_an_output_has_not_delivered_ends_with_1(site: Any, sound: Path, served: bool) -> None:
    site.write(f'input = "{sound}"\nloop = true\nrealtime = true\n{LOG}{DEAD}')
    process = site.start() if served else None
    done = site.command("alarm", "test", "--config", site.file, "--json")
    assert done.returncode == 1, done.stderr
    log, plc = json.loads(done.stdout)["outputs"]
    assert (log["output"], log["delivered"], plc["output"], plc["delivered"]) == ("log", True, "plc", False)
    assert plc["waiting"] >= 2
    assert "edgeasd: output plc: NOT delivered, " in done.stderr
    assert "refused" in done.stderr
    if process is not None:
        shown = site.command("status", "--config", site.file)
        assert shown.returncode == 1
        assert "output plc NOT connected, " in shown.stdout
        site.end(process)


def test_an_event_is_acknowledged_without_the_name_of_its_stream(
    site: Any, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = f'input = "{sound}"\nloop = true\n'
    site.write(stream + ALARM.format("a"), stream + ALARM.format("b"))
    process = site.start()
    site.until(lambda: {one["id"] for one in site.records("event") if one["state"] == "alarm"} == {"a", "b"})
    event = next(one["event"] for one in site.records("event") if one["id"] == "b")
    shown = site.command("status", "--config", site.file, "--json")
    assert shown.returncode == 1
    state = json.loads(shown.stdout)
    assert (state["well"], state["concerns"][1]) == (False, f"b: event {event}")
    monkeypatch.setenv("SUDO_USER", "anna")
    done = site.command("alarm", "ack", "--config", site.file, "--event", event, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    ((name, (message,)),) = json.loads(done.stdout)["streams"].items()
    assert (name, message["state"], message["by"]) == ("b", "acknowledged", "anna")
    site.end(process)


def test_status_of_a_service_that_is_well_and_of_none(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nloop = true\nrealtime = true\n{LOG}')
    none = site.command("status", "--config", site.file)
    assert (none.returncode, none.stdout, none.stderr.count("\n")) == (3, "", 1)
    assert "no service runs" in none.stderr
    process = site.start()
    assert site.command("alarm", "test", "--config", site.file).returncode == 0
    well = site.command("status", "--config", site.file)
    assert (well.returncode, well.stderr) == (0, "")
    for part in ("plant, up ", "stream", "healthy", "output", "log", "connected"):
        assert part in well.stdout
    state = json.loads(site.command("status", "--config", site.file, "--json").stdout)
    assert (state["well"], state["streams"][0]["state"], state["outputs"][0]["queued"]) == (True, "running", 0)
    site.end(process)
