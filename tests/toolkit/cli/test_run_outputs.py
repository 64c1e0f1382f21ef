"""`edgeasd run --mqtt` and `--metrics`: a service of one stream out of the options of `run`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.config import read_config
from edgeasd.runtime.storage import Database, Outbox
from edgeasd.toolkit.cli.run import toml_value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "ten.wav"
    noise = 0.01 * np.random.default_rng(3).standard_normal(160_000)
    soundfile.write(path, noise, 16_000, subtype="PCM_16")
    return path


def command(bundle: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "edgeasd", "run", "--bundle", str(bundle), *more]


def run(bundle: Path, folder: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGEASD_WORKSPACE": str(folder), **variables}
    return subprocess.run(
        command(bundle, *more), cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@given(st.text(st.characters(exclude_categories=("Cs",))) | st.integers() | st.booleans())
def test_what_is_written_is_what_toml_reads(value: str | int | bool) -> None:
    assert tomllib.loads(f"key = {toml_value(value)}") == {"key": value}


def test_metrics_are_served_and_scores_equal_score_live(small_bundle: Path, sound: Path, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "work"
    folder.mkdir()
    arguments = command(small_bundle, "--input", "../ten.wav", "--loop", "--metrics", f"127.0.0.1:{port}")
    process = subprocess.Popen(
        [*arguments, "--jsonl", "out.jsonl"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until, page = time.monotonic() + 30.0, ""
        while "edgeasd_clip_score{" not in page:
            assert process.poll() is None
            assert time.monotonic() < until, page
            time.sleep(0.1)
            with suppress(OSError):
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    site = read_config(folder / "service" / "valve-id_00" / "site.toml")
    assert f"described in {Path('service', 'valve-id_00', 'site.toml')}" in said
    assert Path(str(site.streams["valve"].input)).samefile(sound)
    assert (folder / "service" / "valve-id_00" / "data" / "events.db").exists()
    records = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    scores = [one["body"] for one in records if one["kind"] == "segment"][:10]
    live = subprocess.run(
        [sys.executable, "-m", "edgeasd", "score", str(small_bundle), str(sound), "--live", "--json"],
        capture_output=True,
        check=True,
    )
    expected = [one["body"] for one in map(json.loads, live.stdout.splitlines()) if one["kind"] == "segment"]
    assert len(expected) == 10
    for name in ("start_sample", "score", "clip_score"):
        assert [one[name] for one in scores] == pytest.approx([one[name] for one in expected], rel=1e-6)


def test_messages_wait_for_a_broker_that_is_not_there(small_bundle: Path, sound: Path, tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client")
    done = run(
        small_bundle,
        tmp_path,
        *("--input", str(sound), "--mqtt", "mqtt://127.0.0.1:1"),
        EDGEASD_MQTT_USERNAME="box",
        EDGEASD_MQTT_PASSWORD="secret",
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "service" / "valve-id_00"
    assert 'password_env = "EDGEASD_MQTT_PASSWORD"' in (folder / "site.toml").read_text()
    assert "secret" not in (folder / "site.toml").read_text() + done.stdout + done.stderr
    with Database(folder / "data" / "events.db") as database:
        outbox = Outbox(database)
        outbox.register({"mqtt": ["start", "stop", "status"]})
        assert outbox.lag("mqtt").count > 0


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--mqtt", "http://broker"), "outputs.mqtt.url 'http://broker': is not mqtt://HOST or mqtts://HOST"),
        (("--mqtt", "mqtt://u:p@broker"), "holds a user or password"),
        (("--metrics", "9464"), "outputs.metrics.address '9464': is not HOST:PORT"),
        (("--metrics", "127.0.0.1:9464", "--duration", "3"), "--duration: is not for a service"),
        (("--metrics", "127.0.0.1:9464", "--config", "site.toml"), "is set in the site file"),
    ],
)
def test_a_wrong_address_is_one_line_and_leaves_nothing(
    small_bundle: Path, sound: Path, tmp_path: Path, more: tuple[str, ...], line: str
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    done = run(small_bundle, folder, "--input", str(sound), *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_standard_input_is_not_for_a_service(small_bundle: Path, tmp_path: Path) -> None:
    done = run(small_bundle, tmp_path, "--input", "-", "--metrics", "127.0.0.1:9464")
    assert done.returncode == 2
    assert "--input -: a service has no standard input" in done.stderr
