"""The service as a process: the scores of `score --live`, signals, systemd, commands, kills."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.service.control import ask

pytestmark = pytest.mark.core

FORKER = Path(__file__).with_name("service_forker.py")


def test_file_gives_segments_of_score_live_then_ends(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"')
    process = site.start()
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopped: end of sound" in out
    assert "valve a: 114 segments scored in 30.0 s of sound" in out.splitlines()[-1]
    live = [json.loads(line) for line in site.command("score", site.bundle, sound, "--live").stdout.splitlines()]
    theirs = [one["body"] for one in live if one["kind"] == "segment"]
    ours = site.bodies("segment")
    assert len(ours) == len(theirs) > 100
    for one, two in zip(ours, theirs, strict=True):
        assert one == {k: pytest.approx(v, rel=1e-6) if isinstance(v, float) else v for k, v in two.items()}
    assert [one["reason"] for one in site.records("stop")] == ["end of sound"]
    assert site.records()[-1]["kind"] == "stop"


def test_sigterm_ends_within_two_seconds_with_everything_written(
    site: Any, sound: Path, told: Callable[[], list[str]]
) -> None:
    good = f'input = "{sound}"\nrealtime = true\nloop = true\n'
    log = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\n'
    site.write(f'input = "{sound}"\nloop = true', good, 'input_command = "/bin/false"', good + log)
    process = site.start(NOTIFY_SOCKET=str(site.folder / "notify"), WATCHDOG_USEC="400000")
    site.until(lambda: len(site.records("segment")) > 200)
    site.until(lambda: "READY=1" in told() and told().count("WATCHDOG=1") >= 3)
    took, said = site.end(process)
    assert process.returncode == 0, said
    assert took < 2.0
    lines = told()
    assert (lines.count("READY=1"), lines.count("STATUS=plant: 4 streams"), lines[-1]) == (1, 1, "STOPPING=1")
    ends = site.records("stop")
    assert {one["id"]: one["reason"] for one in ends}["a"] == "SIGTERM"
    assert len(ends) == 4
    # The failing command stopped nobody, and its reason was logged.
    assert "c: command false: ended with exit code 1" in said
    stops = [json.loads(line) for line in (site.data / "log.jsonl").read_text("utf-8").splitlines()]
    assert [one["kind"] for one in stops if one["machine"] is None and one["kind"] != "status"] == ["start", "stop"]
    assert {one["id"] for one in stops if one["kind"] == "stop"} == {"a", "b", "c", "d", None}
    with closing(sqlite3.connect(site.data / "events.db")) as store:
        found = store.execute("SELECT count(*) FROM scores").fetchone()[0]
    # Scores of one batch, ten as a rule, came at one time and are one in the store.
    assert found > 10
    assert not (site.data / "edgeasd.sock").exists()


def test_sighup_reloads_and_systemd_is_told(site: Any, sound: Path, told: Callable[[], list[str]]) -> None:
    stream = f'input = "{sound}"\nloop = true\n'
    site.write(stream)
    process = site.start(NOTIFY_SOCKET=str(site.folder / "notify"))
    site.until(lambda: "READY=1" in told())
    site.write(stream, stream)
    process.send_signal(signal.SIGHUP)
    site.until(lambda: any(one["id"] == "b" for one in site.records("segment")))
    site.until(lambda: told().count("READY=1") == 2)
    site.file.write_text("site = 3", "utf-8")
    process.send_signal(signal.SIGHUP)
    site.until(lambda: told().count("READY=1") == 3)
    _, said = site.end(process)
    assert told().count("RELOADING=1") == 2
    assert "reloaded" in said
    assert "not reloaded, everything goes on as before" in said
    assert site.records("gap") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away, and only root is meant")
@pytest.mark.parametrize("command", [("alarm", "test"), ("run",)], ids=["a command", "a service"])
def test_root_leaves_no_files_the_service_cannot_open(site: Any, sound: Path, command: tuple[str, ...]) -> None:
    site.write(f'input = "{sound}"')
    site.data.mkdir()
    os.chown(site.data, 54321, 54321)
    refused = site.command(*command, "--config", site.file)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "belongs to #54321" in refused.stderr
    assert "sudo -u" in refused.stderr
    assert list(site.data.iterdir()) == []


def test_a_command_that_changes_nothing_says_why(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"')
    done = site.command("alarm", "clear", "--config", site.file)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing to do for clear: no such event is open" in done.stderr


def test_commands_reach_the_running_service_and_else_the_store(site: Any, sound: Path) -> None:
    log = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\nkinds = ["event"]\n'
    site.write(f'input = "{sound}"\nrealtime = true\nloop = true\n' + log)
    process = site.start()
    mode = stat.S_IMODE(os.stat(site.data / "edgeasd.sock").st_mode)
    assert mode == 0o600
    done = site.command("alarm", "test", "--config", site.file, "--by", "anna", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["service"] is True
    assert [one["state"] for one in answer["streams"]["a"]] == ["alarm", "normal"]
    refused = site.command("run", "--config", site.file)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "another edgeasd uses this folder" in refused.stderr
    site.end(process)
    # The test alarm left its evidence, too.
    assert (site.data / "evidence" / answer["streams"]["a"][0]["event"] / "facts.json").is_file()
    done = site.command("alarm", "maintenance", "on", "--config", site.file)
    assert (done.returncode, done.stdout) == (0, "a: normal -> normal, maintenance_on\n")
    assert "no service runs" in done.stderr
    said = [json.loads(line)["body"] for line in (site.data / "log.jsonl").read_text("utf-8").splitlines()]
    assert [one["sequence"] for one in said] == list(range(1, len(said) + 1))
    assert [one["by"] for one in said if one["test"]] == ["anna", "anna"]
    assert said[-1]["maintenance"] is True
    wrong = site.command("alarm", "ack", "--config", site.file, "--stream", "pumpe")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_test_alarm_reaches_every_output_during_an_event(site: Any, sound: Path) -> None:
    log = '[outputs.{}]\ntype = "jsonl"\npath = "{}.jsonl"\nkinds = ["event"]\n'
    alarm = "[streams.a.alarm]\non = -5.0\nhysteresis = 0.0\nwarning_margin = 0.0\nk = 1\nn = 1\n"
    site.write(f'input = "{sound}"\nloop = true\n{alarm}' + log.format("x", "x") + log.format("y", "y"))
    process = site.start()
    site.until(lambda: site.bodies("event"))
    raised = site.bodies("event")[0]
    assert raised["state"] == "alarm"
    done = site.command("alarm", "test", "--config", site.file, "--json")
    assert (done.returncode, done.stderr) == (0, "edgeasd: output x: delivered\nedgeasd: output y: delivered\n")
    begun, ended, after = json.loads(done.stdout)["streams"]["a"]
    assert begun["event"] == ended["event"] != raised["event"]
    assert (after["event"], after["reason"], after["state"]) == (raised["event"], "goes_on", "alarm")
    state = site.command("events", "list", "--data", site.data, "--state", "open", "--json")
    assert raised["event"] in state.stdout
    assert begun["event"] not in state.stdout
    site.end(process)
    for name in "xy":
        said = [json.loads(line)["body"] for line in (site.data / f"{name}.jsonl").read_text("utf-8").splitlines()]
        assert [one["sequence"] for one in said] == [1, 2, 3, 4]
        assert [one["test"] for one in said] == [False, True, True, False]
    for event in (raised["event"], begun["event"]):
        assert (site.data / "evidence" / event / "clip.flac").is_file()


def test_bad_stream_is_reported_and_the_others_run(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nloop = true', f'input = "{sound}"\nbundle = "absent"')
    process = site.start()
    site.until(lambda: len(site.records("segment")) > 3)
    _, said = site.end(process)
    assert process.returncode == 0
    assert "streams.b: " in said.splitlines()[0]
    assert {one["id"] for one in site.records("segment")} == {"a"}
    site.write(f'input = "{sound}"\nbundle = "absent"')
    done = site.command("run", "--config", site.file)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# Kills

MAINTENANCE = {"command": "maintenance_on"}


def kill_at_random(site: Any, count: int) -> None:
    """Kill services at random instants, and look over after each what they have left."""
    chance = random.Random(7)
    forker = subprocess.Popen(
        [sys.executable, str(FORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=site.folder
    )
    assert forker.stdin is not None
    assert forker.stdout is not None

    def fork() -> int:
        assert forker.stdin is not None
        assert forker.stdout is not None
        forker.stdin.write(f"{site.file}\n")
        forker.stdin.flush()
        return int(forker.stdout.readline())

    def kill(number: int) -> None:
        nonlocal child
        child, killed = 0, child
        os.kill(killed, number)
        assert forker.stdout is not None
        assert forker.stdout.readline() == "gone\n"

    committed: list[tuple[Any, ...]] = []
    child, opening = 0, 0.0
    try:
        for number in range(count):
            began, child = time.monotonic(), fork()
            # A third of the kills hits the opening of bundles, store, queues and sources.
            if number and chance.random() < 0.33:
                time.sleep(opening * chance.random())
            else:
                site.until(lambda: running(site))
                opening = opening or time.monotonic() - began
                site.until(lambda wanted=len(committed) + 10: transitions(site) >= wanted)
                time.sleep(0.9 * chance.random())
            kill(signal.SIGKILL)
            committed = look_over(site, committed)
        child = fork()
        site.until(lambda: running(site))
        # Nothing new from here on: how much can be said after SIGTERM depends on the disk.
        for id in "ab":
            site.until(lambda id=id: asked(site, {"ask": "command", "stream": id, "command": MAINTENANCE}) is not None)
        site.until(lambda: (state := asked(site, {"ask": "status"})) and state["outputs"][0]["queued"] == 0)
        kill(signal.SIGTERM)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
        forker.stdin.close()
        forker.wait(10)
        forker.stdout.close()
    committed = look_over(site, committed)
    assert len(committed) > 5 * count
    received = [json.loads(line) for line in (site.data / "log.jsonl").read_text("utf-8").splitlines()]
    for id in "ab":
        theirs = [one["body"] for one in received if one["kind"] == "event" and one["id"] == id]
        ours = [json.loads(message) for key, _, message in committed if key == id]
        first: dict[int, Any] = {}
        for body in theirs:
            # A resend is the same message, and says so by its number.
            assert first.setdefault(body["sequence"], body) == body
        assert list(first) == sorted(first), "out of order"
        assert list(first.values()) == ours


def asked(site: Any, request: dict[str, Any]) -> Any:
    """What the service answers; None where it does not, or is too busy for a command."""
    with suppress(InputError):
        return ask(site.data, request)
    return None


def running(site: Any) -> bool:
    """Whether both streams are scored: what was committed before them has been said again by then."""
    state = asked(site, {"ask": "status"})
    return state is not None and [one["segments"] > 0 for one in state["streams"]] == [True, True]


def transitions(site: Any) -> int:
    """How many a service that runs has committed, with those before it."""
    with closing(sqlite3.connect(site.data / "events.db")) as store:
        return int(store.execute("SELECT count(*) FROM transitions").fetchone()[0])


def look_over(site: Any, before: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """All transitions, each once and without a hole, those of `before` among them; the file sound."""
    if not (site.data / "events.db").exists():
        return before
    store = sqlite3.connect(site.data / "events.db")
    try:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        query = "SELECT id, sequence, message FROM transitions JOIN machines ON key = transitions.machine "
        found = store.execute(query + "ORDER BY id, sequence").fetchall()
        states = dict(store.execute("SELECT id, snapshot FROM states JOIN machines ON key = states.machine").fetchall())
    except sqlite3.OperationalError:
        # Killed before the tables were made.
        return before
    finally:
        store.close()
    for id in {key for key, _, _ in found}:
        numbers = [sequence for key, sequence, _ in found if key == id]
        assert numbers == list(range(1, len(numbers) + 1))
        assert json.loads(states[id])["sequence"] == numbers[-1]
    assert set(before) <= set(found)
    return found


def write_restless_site(site: Any, sound: Path) -> None:
    """Two streams whose alarms come and go at every few scores."""
    alarm = (
        "[streams.{}.alarm]\non = 0.2\nhysteresis = 0.0\nwarning_margin = 0.0\ncooldown_seconds = 0.0\nk = 1\nn = 1\n"
    )
    stream = f'input = "{sound}"\nloop = true\n'
    log = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\nkinds = ["event"]\n'
    site.write(stream + alarm.format("a"), stream + alarm.format("b") + log)


def test_ten_kills_keep_events_once_and_sent_at_least_once(site: Any, sound: Path) -> None:
    write_restless_site(site, sound)
    kill_at_random(site, 10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundred_kills_keep_each_event_once(site: Any, sound: Path) -> None:
    write_restless_site(site, sound)
    kill_at_random(site, 100)
