"""Commands as sources: no shell, stderr in the error, real time, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgeasd.runtime.config import read_config
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources import CommandSource, Source, SourceSettings, kill_commands, open_source
from edgeasd.runtime.sources.command import shown_command

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


def python(code: str) -> str:
    return f'{sys.executable} -c "{code}"'


def drain(source: CommandSource) -> np.ndarray:
    parts = []
    try:
        while (chunk := source.read()) is not None:
            parts.append(chunk.samples)
    finally:
        source.close()
    return np.concatenate(parts)


def read_count(source: Source) -> int:
    """Number of samples in the next chunk."""
    chunk = source.read()
    assert chunk is not None
    return len(chunk.samples)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    return "Z" not in stat.rpartition(")")[2].split()[0]


def gone_soon(pid: int) -> bool:
    for _ in range(40):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("format", ["s16le", "f32le"])
def test_every_sample_arrives_and_exit_code_0_is_the_end(tmp_path: Path, format: str) -> None:
    samples = np.random.default_rng(5).uniform(-1, 1, 50_001).astype("<f4")
    data = samples if format == "f32le" else (samples * 32767).astype("<i2")
    (tmp_path / "a b.raw").write_bytes(data.tobytes())
    source = CommandSource(f"cat '{tmp_path}/a b.raw'", format=format)
    assert source.name == f"command cat, raw {format}, 16000 Hz, channel 0 of 1"
    assert (source.live, source.status.bits) == (False, 16 if format == "s16le" else 24)
    np.testing.assert_array_equal(drain(source), data if format == "f32le" else data / 32768)


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    command = f"echo ; touch {trap} > {trap} && touch $(touch {trap}) `touch {trap}` | cat"
    printed = command.removeprefix("echo ") + "\n"
    if len(printed) % 2:
        command, printed = command.replace("echo ;", "echo ;;"), f";{printed}"
    sound = drain(CommandSource(command))
    assert (sound * 32768).astype("<i2").tobytes().decode() == printed
    assert not trap.exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import sys; sys.stderr.write('one\\ntwo\\nthree\\nfour\\n'); sys.exit(7)",
            r"exit code 7 \(two / three / four\)",
        ),
        (
            "import sys; print('abc', flush=True); sys.stderr.write('camera gone'); sys.exit(1)",
            r"code 1 \(camera gone\)",
        ),
        ("import os; os.kill(os.getpid(), 9)", r"was ended by signal 9 \(nothing on standard error\)"),
        ("import sys; sys.stderr.write('x' * 100000); sys.exit(3)", r"exit code 3 \(x{100,300} / x"),
        ("import sys; sys.stderr.buffer.write(bytes(range(256))); sys.exit(3)", r"exit code 3"),
    ],
)
def test_error_quotes_the_last_lines_of_a_failed_command(code: str, message: str) -> None:
    source = CommandSource(python(code.replace("\n", "\\n")))
    with pytest.raises(DeviceError, match=message) as caught:
        drain(source)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_command_without_a_sample_is_bad_input() -> None:
    with pytest.raises(InputError, match="command true: ended without a single sample"):
        drain(CommandSource("true"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "is no command"),
        ("   ", "is no command"),
        ("cat 'a", "No closing quotation; close the quote"),
        ("no-such-program-here -x", "no-such-program-here: cannot be started"),
        ("/", "cannot be started"),
        ("cat \0", "is no command"),
    ],
)
def test_command_that_cannot_be_started(command: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(SourceSettings(input_command=command, once=True))


def test_wav_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt " + bytes(100))
    with pytest.raises(InputError, match="command cat: starts like a WAV file"):
        drain(CommandSource(f"cat {tmp_path}/a.wav"))


FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(child, file=open(sys.argv[1] + '.part', 'w'), flush=True)
    os.rename(sys.argv[1] + '.part', sys.argv[1])
while True:
    os.write(1, bytes(320))
    time.sleep(0.02)
"""


def test_close_ends_a_stubborn_command_and_its_children(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    source = CommandSource(f"{sys.executable} {tmp_path}/family.py {tmp_path}/child")
    while not (tmp_path / "child").exists():
        assert source.read() is not None
    child = int((tmp_path / "child").read_text())
    assert alive(source.pid)
    assert alive(child)
    began = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - began < 3.0
    assert gone_soon(source.pid)
    assert gone_soon(child)
    assert source.read() is None


def test_kill_commands_ends_every_command_at_once(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    source = CommandSource(f"{sys.executable} {tmp_path}/family.py {tmp_path}/child")
    while not (tmp_path / "child").exists():
        assert source.read() is not None
    kill_commands()
    assert gone_soon(source.pid)
    assert gone_soon(int((tmp_path / "child").read_text()))
    source.close()


def test_close_ends_a_blocked_read() -> None:
    source = CommandSource("sleep 60")
    ends: list[object] = []
    thread = threading.Thread(target=lambda: ends.append(source.read()))
    thread.start()
    time.sleep(0.2)
    source.close()
    thread.join(10.0)
    assert ends == [None]


def test_silence_of_a_live_command_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.sources.command.STALL_SECONDS", 0.3)
    source = CommandSource(python("import time; print('abcd', end='', flush=True); time.sleep(60)"), live=True)
    assert read_count(source) == 2
    with pytest.raises(DeviceError, match=r"no sound for 0\.3 s \(nothing on standard error\)"):
        source.read()
    source.close()


def test_restarted_command_gets_no_new_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.sources.command.AHEAD_SECONDS", 0.2)
    monkeypatch.setattr("edgeasd.runtime.sources.reconnecting.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("edgeasd.runtime.sources.reconnecting.LONGEST_PAUSE", 0.01)
    began, count = time.monotonic(), 0
    source = open_source(SourceSettings(input_command="head -c 6400 /dev/zero"))  # 0.2 s of sound each time
    while count < 1.0 * 16_000:
        count += read_count(source)
    source.close()
    assert time.monotonic() - began > 0.5


def test_live_command_is_held_to_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """ffmpeg on a file, without -re: it is slowed down, loses nothing, and `close` ends the wait."""
    monkeypatch.setattr("edgeasd.runtime.sources.command.AHEAD_SECONDS", 2.5)
    began, seconds = time.monotonic(), 0.0
    source = CommandSource("cat /dev/zero", live=True)
    while seconds < 3.0:
        length = read_count(source) / 16_000
        seconds += length
        assert seconds - length <= 2.5 + 1.001 * (time.monotonic() - began) + 0.01
    assert time.monotonic() - began >= 0.4
    monkeypatch.setattr("edgeasd.runtime.sources.command.AHEAD_SECONDS", -60.0)
    threading.Timer(0.2, source.close).start()
    source.read()
    assert time.monotonic() - began < 30.0


def test_killed_command_is_restarted(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    source = open_source(SourceSettings(input_command=f"{sys.executable} {tmp_path}/family.py {tmp_path}/child"))
    try:
        assert source.read() is not None
        first = source._inner.pid  # type: ignore[attr-defined]
        os.killpg(first, signal.SIGKILL)
        while not source.status.reconnects:
            assert source.read() is not None
        assert source._inner.pid != first  # type: ignore[attr-defined]
        lost, reopened = source.take_events()
        assert "was ended by signal 9" in lost.detail
        assert 0.0 < reopened.lost_seconds < 5.0
    finally:
        source.close()
    assert gone_soon(int((tmp_path / "child").read_text()))


def test_no_child_outlives_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    command = f"{sys.executable} {tmp_path}/family.py {tmp_path}/child"
    code = (
        "from edgeasd.runtime.sources import CommandSource\n"
        f"source = CommandSource({command!r})\n"
        "source.read()\nprint(source.pid, flush=True)\n"
        "while True: source.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        while not (tmp_path / "child").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert gone_soon(pid)
    assert gone_soon(int((tmp_path / "child").read_text()))


def test_close_gives_up_on_a_command_that_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.sources.command.GRACE_SECONDS", 0.2)
    source = CommandSource(python("import time; time.sleep(60)"), live=True)

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        source.close()
    assert alive(source.pid)
    os.kill(source.pid, signal.SIGKILL)


PASSWORD = "hun/ter2@x"
HOLDS_A_SECRET = [
    f"ffmpeg -i rtsp://admin:{PASSWORD}@10.0.0.7:554/live -f s16le -",
    f"ffmpeg -i 'http://camera/audio?channel=1&token={PASSWORD}' -f s16le -",
    f"curl --user admin:{PASSWORD} http://camera/audio",
    f"curl -u admin:{PASSWORD} http://camera/audio",
    f"client --password {PASSWORD} --channel 3",
    f"client --api-key={PASSWORD}",
    f"env CAMERA_TOKEN={PASSWORD} client",
    f"ffmpeg -headers 'Authorization: Bearer {PASSWORD}' -i https://camera/ -f s16le -",
    f'sh -c "ffmpeg -i rtsp://admin:{PASSWORD}@camera/ -f wav - | sox - -t raw -"',
    f"ffmpeg -i rtsp://camera/user=admin_password={PASSWORD}_channel=1_stream=0 -f s16le -",
    f"ffmpeg -i 'rtsp://admin:{PASSWORD}@camera/",
]


@pytest.mark.parametrize("command", HOLDS_A_SECRET)
def test_a_password_in_a_command_is_not_shown(command: str) -> None:
    settings = SourceSettings(input_command=command)
    assert PASSWORD not in settings.label
    assert "***" in settings.label
    assert settings.label.split()[1] == command.split()[0]


@pytest.mark.parametrize(
    "command",
    ["arecord -u -f S16_LE 'a b'", "ffmpeg -i rtsp://camera/1 -pass 1 -", "cat pipe@home", "sh -c 'python -u x.py'"],
)
def test_a_command_without_a_secret_is_shown_as_it_is(command: str) -> None:
    assert shown_command(command) == command


def test_standard_error_does_not_tell_the_password() -> None:
    code = f"import sys; sys.stderr.write('cannot log in as admin with {PASSWORD} at rtsp://admin:{PASSWORD}@c/'); sys.exit(1)"
    source = CommandSource(f"{python(code)} --password {PASSWORD}")
    with pytest.raises(DeviceError, match="cannot log in as admin") as caught:
        drain(source)
    assert PASSWORD not in str(caught.value)


def test_a_command_does_not_see_the_secrets_of_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        'site = "s"\ndata = "data"\n[streams.a]\nbundle = "b"\ninput = "x.wav"\n[outputs.m]\ntype = "mqtt"\n'
        'url = "mqtts://broker"\nusername = "u"\npassword_env = "TEST_BROKER_PASSWORD"\n'
    )
    monkeypatch.setenv("TEST_BROKER_PASSWORD", "s3cret")
    monkeypatch.setenv("TEST_OTHER", "seen")
    read_config(site)
    source = CommandSource(python("import os, sys; sys.stderr.write(str(dict(os.environ))); sys.exit(1)"))
    with pytest.raises(DeviceError) as caught:
        drain(source)
    code = "import os, sys; sys.exit(5 if 'TEST_BROKER_PASSWORD' in os.environ else 4 if 'TEST_OTHER' in os.environ else 3)"
    with pytest.raises(DeviceError, match="exit code 4"):
        drain(CommandSource(python(code)))
    assert "s3cret" not in str(caught.value)
