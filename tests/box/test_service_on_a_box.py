"""docs/how-to/install-linux.md, typed line by line into a Debian with a real systemd; then what months do to the service.

Slow, as root, and only where systemd-container and debootstrap are: see conftest.py. The tests go on from each
other, as an afternoon at the box would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SITE = """
site = "hall 3"
data = "/var/lib/edgeasd"
score_seconds = 1
[streams.pump1]
bundle = "/opt/edgeasd/bundles/pump-id_01"
input = "/opt/edgeasd/sound.wav"
realtime = true
loop = true
# Noise is no pump, and an alarm by itself would come between.
alarm = { on = 1000.0 }
[outputs.log]
type = "jsonl"
path = "messages.jsonl"
[outputs.metrics]
type = "prometheus"
"""
HASTE = "[Service]\nRestartSec=1\nWatchdogSec=4\n"
"""So that the tests need not wait for minutes; all else is as the unit has it."""
COMMAND = "--config /etc/edgeasd/site.toml"


@pytest.fixture(scope="module")
def box(bare_box: Any, carried: Path) -> Any:
    """The page, from step 1 to the running service."""
    box = bare_box
    noise = 0.02 * np.random.default_rng(0).standard_normal(30 * 16_000)
    soundfile.write(carried / "sound.wav", noise.clip(-1, 1).astype(np.float32), 16_000, subtype="PCM_16")
    (carried / "site.toml").write_text(SITE, "utf-8")
    (carried / "haste.conf").write_text(HASTE, "utf-8")
    box.page("sudo python3 -m venv /opt/edgeasd/0.1.0")
    box.page("sudo /opt/edgeasd/0.1.0/bin/pip install --no-index --find-links wheels 'edgeasd[serve]'", 120)
    box.page("sudo ln -s 0.1.0 /opt/edgeasd/venv")
    box.page("/opt/edgeasd/venv/bin/edgeasd --version")
    box.page("sudo install -D -m 644 docs/install/edgeasd.sysusers /etc/sysusers.d/edgeasd.conf")
    box.page("sudo systemd-sysusers")
    box.page("sudo install -d /etc/edgeasd /opt/edgeasd/bundles")
    box.page("sudo install -d -o edgeasd -g edgeasd -m 750 /var/lib/edgeasd")
    box.page("sudo cp docs/install/85-edgeasd-microphone.rules /etc/udev/rules.d/")
    assert "1 problem" not in box.page("cd /tmp && sudo -u edgeasd /opt/edgeasd/venv/bin/edgeasd doctor")
    box.page("sudo cp -r pump-id_01 /opt/edgeasd/bundles/")
    box.page("sudo -u edgeasd /opt/edgeasd/venv/bin/edgeasd verify /opt/edgeasd/bundles/pump-id_01")
    box.ok("cp sound.wav /opt/edgeasd/ && cp site.toml /etc/edgeasd/")
    box.page("sudo -u edgeasd /opt/edgeasd/venv/bin/edgeasd run --config /etc/edgeasd/site.toml --check")
    box.page("sudo cp docs/install/edgeasd.service /etc/systemd/system/")
    box.ok("install -D -m 644 haste.conf /etc/systemd/system/edgeasd.service.d/haste.conf")
    box.page("sudo systemctl daemon-reload")
    box.page("sudo systemctl enable --now edgeasd")
    return box


def active(box: Any) -> bool:
    return bool(box("systemctl is-active edgeasd").returncode == 0)


def restarted(box: Any, pid: str) -> bool:
    return active(box) and box.show("MainPID") not in (pid, "0")


def messages(box: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in box.ok("cat /var/lib/edgeasd/messages.jsonl").split("\n")[:-1]]


def test_it_is_ready_when_sound_flows_and_says_so(box: Any) -> None:
    assert box.show("StatusText") == "hall 3: 1 streams"
    assert box.show("NRestarts") == "0"
    box.until(lambda: any(one["kind"] == "score" for one in messages(box)))
    assert "looped, in real time; fp32 on onnxruntime" in box.journal()


def test_files_belong_to_the_user_and_are_private(box: Any) -> None:
    assert box.ok("stat -c '%U %G %a' /var/lib/edgeasd").split() == ["edgeasd", "edgeasd", "750"]
    assert box.ok("find /var/lib/edgeasd ! -user edgeasd -o -perm /o=rwx") == ""


def test_the_sandbox_holds_and_is_rated_as_the_page_says(box: Any) -> None:
    pid = box.show("MainPID")
    status = box.ok(f"cat /proc/{pid}/status")
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    # Its own view of the disks: all of it to read, but for the one folder.
    writable = box.ok(f"awk '$6 ~ /^rw/ {{print $5}}' /proc/{pid}/mountinfo").split()
    assert "/var/lib/edgeasd" in writable
    assert not [place for place in writable if place in ("/", "/etc", "/opt", "/usr", "/home", "/root")]
    assert "exposure level for edgeasd.service: 1.4" in box.ok("systemd-analyze security edgeasd --no-pager")


def test_alarm_test_works_only_for_the_service_user(box: Any) -> None:
    line = "sudo -u edgeasd /opt/edgeasd/venv/bin/edgeasd alarm test --config /etc/edgeasd/site.toml"
    assert "normal -> alarm, test" in box.page(line)
    box.ok("useradd --create-home joe")
    refused = box.edgeasd(f"alarm test {COMMAND}", "joe")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "run this as the user of the service" in refused.stderr
    assert "run this as the user of the service" in box.edgeasd("events list --data /var/lib/edgeasd", "joe").stderr
    box.until(lambda: [one["body"]["test"] for one in messages(box) if one["kind"] == "event"] == [True, True])
    assert "edgeasd_" in box.ok(
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:9464/metrics\").read().decode())'"
    )


def test_reload_takes_good_and_refuses_bad_files(box: Any) -> None:
    pid = box.show("MainPID")
    box.ok("sed -i 's/hall 3/hall 4/' /etc/edgeasd/site.toml && systemctl reload edgeasd")
    box.until(lambda: box.show("StatusText") == "hall 4: 1 streams")
    refused = box("sed -i 's/realtime/realtme/' /etc/edgeasd/site.toml && systemctl reload edgeasd")
    assert refused.returncode == 1
    assert "streams.pump1.realtme: unknown; did you mean realtime?" in box.journal()
    assert active(box)
    assert box.show("MainPID") == pid
    box.ok("sed -i 's/realtme/realtime/' /etc/edgeasd/site.toml && systemctl reload edgeasd")


def test_it_comes_back_after_a_kill_and_after_it_hangs(box: Any) -> None:
    box.ok(f"kill -KILL {(pid := box.show('MainPID'))}")
    box.until(lambda: restarted(box, pid))
    box.ok(f"kill -STOP {(pid := box.show('MainPID'))}")
    box.until(lambda: restarted(box, pid), 60)
    assert "Watchdog timeout" in box.journal()


def test_it_stops_within_two_seconds(box: Any) -> None:
    box.until(lambda: box.show("ActiveState") == "active")
    took = box.ok("a=$(date +%s%N); systemctl stop edgeasd; b=$(date +%s%N); echo $(((b - a) / 1000000))")
    assert int(took) < 2000
    assert (box.show("Result"), box.show("ExecMainStatus")) == ("success", "0")
    assert [one["kind"] for one in messages(box)][-1] == "stop"


def test_root_cannot_lock_the_service_out_of_its_folder(box: Any) -> None:
    box.ok("systemctl stop edgeasd")
    refused = box.edgeasd(f"alarm test {COMMAND}", "root")
    assert refused.returncode == 2
    assert "sudo -u edgeasd" in refused.stderr
    assert box.edgeasd("events list --data /var/lib/edgeasd", "root").returncode == 0
    assert box.ok("find /var/lib/edgeasd ! -user edgeasd") == ""


def test_wrong_file_is_retried_slowly_until_mended(box: Any) -> None:
    box.ok("systemctl stop edgeasd && sed -i 's/realtime/realtme/' /etc/edgeasd/site.toml")
    assert box("systemctl start edgeasd").returncode == 1
    # systemd's own limit is five starts within ten seconds.
    box.until(lambda: int(box.show("NRestarts")) >= 7, 60)
    assert box.journal().count("did you mean realtime?") < 20
    box.ok("sed -i 's/realtme/realtime/' /etc/edgeasd/site.toml")
    box.until(lambda: active(box))


def test_logs_are_rotated_while_it_runs(box: Any) -> None:
    box.page("sudo cp docs/install/edgeasd.logrotate /etc/logrotate.d/edgeasd")
    box.ok("logrotate --force /etc/logrotate.d/edgeasd && systemctl start logrotate.service")
    assert box.show("Result", "logrotate.service") == "success"
    assert box.ok("ls /var/lib/edgeasd").count("messages.jsonl-") == 1
    assert box.edgeasd(f"alarm test {COMMAND}").returncode == 0
    box.until(lambda: any(one["kind"] == "event" for one in messages(box)))


def test_starts_after_a_power_cut_with_a_sound_store(box: Any) -> None:
    before = [one for one in messages(box) if one["kind"] == "event"]
    box.cut_power()
    box.boot()
    box.until(lambda: active(box))
    asked = "import sqlite3; print(*sqlite3.connect('/var/lib/edgeasd/events.db').execute('pragma integrity_check'))"
    assert box.ok(f'sudo -u edgeasd python3 -c "{asked}"') == "('ok',)\n"
    # What was confirmed to the queue before is still there, whole and once.
    after = [one for one in messages(box) if one["kind"] == "event"]
    assert after[: len(before)] == before
    # The service that came up has said what the machine does.
    assert all(one["body"]["reason"] == "operating_state" for one in after[len(before) :])
    box.until(lambda: messages(box)[-1]["kind"] == "score")


ALSA = """
pcm.pump1mic { type plug slave.pcm { type file slave.pcm "null" file "/dev/null" infile "/opt/edgeasd/sound.raw" format "raw" } }
"""


def test_the_unit_for_one_machine_listens_and_comes_back(box: Any, carried: Path) -> None:
    (carried / "sound.raw").write_bytes(soundfile.read(carried / "sound.wav", dtype="int16")[0].tobytes())
    (carried / "asound.conf").write_text(ALSA, "utf-8")
    box.ok("systemctl stop edgeasd && cp sound.raw /opt/edgeasd/ && cp asound.conf /etc/")
    box.page("sudo cp docs/install/edgeasd@.service /etc/systemd/system/")
    box.page("sudo cp docs/install/pump1.env /etc/edgeasd/")
    box.ok("sed -i 's/plughw:CARD=pump1mic/pump1mic/' /etc/edgeasd/pump1.env")
    box.ok("install -D -m 644 haste.conf /etc/systemd/system/edgeasd@.service.d/haste.conf")
    box.page("sudo systemctl daemon-reload")
    box.page("sudo systemctl enable --now edgeasd@pump1")
    try:
        box.until(lambda: '"kind": "segment"' in box("tail -n 3 /var/lib/edgeasd/pump1.jsonl").stdout)
        pid = box.show("MainPID", "edgeasd@pump1")
        box.ok(f"kill -KILL {pid}")
        box.until(lambda: box.show("MainPID", "edgeasd@pump1") not in (pid, "0"))
        assert "exposure level for edgeasd@pump1.service: 0.5" in box.ok(
            "systemd-analyze security edgeasd@pump1 --no-pager"
        )
    finally:
        box.ok("systemctl stop edgeasd@pump1")
