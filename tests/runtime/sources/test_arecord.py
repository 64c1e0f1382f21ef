"""ALSA through arecord: names, channels and errors on file PCMs, overruns and faults on a scripted arecord."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources import AlsaSource, Source, SourceSettings, open_source

pytestmark = pytest.mark.core


@pytest.fixture
def arecord(alsa_file_pcm: ModuleType) -> ModuleType:
    """The helper with ALSA configurations, if ALSA is here."""
    if shutil.which("arecord") is None or not alsa_file_pcm.STOCK.exists():
        pytest.skip("arecord (alsa-utils) or the stock ALSA configuration is not installed here")
    return alsa_file_pcm


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arecord: ModuleType) -> np.ndarray:
    """20,000 int16 samples, which hw and plughw deliver from now on."""
    samples = np.random.default_rng(3).integers(-32768, 32768, 20000).astype("<i2")
    (tmp_path / "sound.raw").write_bytes(samples.tobytes())
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(arecord.write_alsa_config(tmp_path, tmp_path / "sound.raw")))
    return samples


def read_exactly(source: Source, count: int) -> np.ndarray:
    parts: list[np.ndarray] = []
    end = 0
    while end < count:
        chunk = source.read()
        assert chunk is not None
        assert (chunk.samples.ndim, chunk.samples.dtype, chunk.start_sample) == (1, np.float32, end)
        end = chunk.end_sample
        parts.append(chunk.samples)
    return np.concatenate(parts)[:count]


@pytest.mark.parametrize("device", ["hw:1", "plughw:1,0"])
def test_samples_arrive_bit_for_bit(device: str, sound: np.ndarray) -> None:
    source = open_source(SourceSettings(device=device))
    try:
        assert source.name == f"{device} through arecord, S16_LE, 16000 Hz, channel 0 of 1"
        assert source.live
        got = read_exactly(source, len(sound))
    finally:
        source.close()
    np.testing.assert_array_equal(got * 32768, sound)
    assert source.read() is None


@pytest.mark.parametrize("choice", [{"channel": 1}, {"mix": True, "channels": 2}])
def test_channel_and_mean_of_a_stereo_device(choice: dict, sound: np.ndarray) -> None:
    source = AlsaSource("hw:1", **choice)
    try:
        got = read_exactly(source, len(sound) // 2)
    finally:
        source.close()
    stereo = sound.reshape(-1, 2).astype(np.float64) / 32768
    expected = stereo[:, 1] if "channel" in choice else stereo.mean(axis=1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("device", ["hw:NoSuchCard", "no_such_pcm"])
def test_missing_device_names_the_command_to_list_them(device: str) -> None:
    with pytest.raises(DeviceError, match=rf"^{device}: no such ALSA capture device .*`edgeasd devices`") as caught:
        AlsaSource(device)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["hw:99", "plughw:99,0", "hw:CARD=99,DEV=0"])
def test_missing_card_is_named(device: str) -> None:
    with pytest.raises(DeviceError, match=rf"^{device}: card 99 does not exist .*list the devices with `edgeasd dev"):
        AlsaSource(device)


def test_missing_device_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError):
        AlsaSource("hw:NoSuchCard")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("sound")
def test_stereo_only_device_asks_for_a_channel() -> None:
    with pytest.raises(DeviceError, match=r"stereo_only: does not capture 1 channel, 2 work; pass --channel 0 to 1"):
        AlsaSource("stereo_only")


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize(("choice", "described"), [({"channel": 0}, "channel 0 of 2"), ({"mix": True}, "mean of 2")])
def test_chosen_channel_of_a_stereo_only_device(choice: dict, described: str) -> None:
    source = AlsaSource("stereo_only", **choice)
    source.close()
    assert described in source.name


@pytest.mark.usefixtures("sound")
def test_channel_beyond_the_device() -> None:
    with pytest.raises(DeviceError, match=r"does not capture 6 channels, 2 work; pass --channel 0 to 1"):
        AlsaSource("stereo_only", channel=5)


@pytest.mark.usefixtures("sound")
def test_device_without_our_format() -> None:
    with pytest.raises(
        DeviceError, match=r"mulaw_only: does not capture any of S16_LE, .*FLOAT_LE, it offers MU_LAW; use a plughw:"
    ):
        AlsaSource("mulaw_only")


@pytest.mark.usefixtures("sound")
def test_rate_that_is_only_near_is_refused() -> None:
    with pytest.raises(DeviceError, match="does not capture at 2000 Hz, the nearest is 4000 Hz"):
        AlsaSource("plughw:1", 2000)


@pytest.mark.usefixtures("sound")
def test_device_with_one_other_rate_is_refused() -> None:
    with pytest.raises(DeviceError, match="only_48000: does not capture at 16000 Hz, the nearest is 48000 Hz"):
        AlsaSource("only_48000")


@pytest.mark.usefixtures("sound")
def test_close_ends_a_reading_thread() -> None:
    source = AlsaSource("hw:1")
    ends: list[object] = []

    def read_on() -> None:
        try:
            while (chunk := source.read()) is not None:
                assert len(chunk.samples)
            ends.append(None)
        except Exception as error:
            ends.append(error)

    thread = threading.Thread(target=read_on)
    thread.start()
    time.sleep(0.2)
    source.close()
    source.close()
    thread.join(3.0)
    assert not thread.is_alive()
    assert ends == [None]


# A scripted arecord: what a broken or busy microphone does cannot be had from a file PCM.
SETUP = (
    "printf '  format       : S16_LE\\n  channels     : 1\\n  rate         : 16000\\n  buffer_size  : 8192\\n' >&2\n"
)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def write(body: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / "arecord"
        script.write_text("#!/bin/sh\n" + body)
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return write


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # true of a zombie too
    except ProcessLookupError:
        return False
    return True


def test_busy_device(scripted: Callable[[str], None]) -> None:
    scripted("echo 'arecord: main:831: audio open error: Device or resource busy' >&2; exit 1")
    with pytest.raises(DeviceError, match=r"^hw:1: in use by another program \(Device or resource busy\)"):
        AlsaSource("hw:1")


def test_unexpected_end_quotes_arecord_and_counts_overruns(scripted: Callable[[str], None]) -> None:
    scripted(
        SETUP + "printf abcd; echo 'overrun!!! (at least 5.1 ms long)' >&2; echo 'overrun!!!' >&2\n"
        "echo 'arecord: pcm_read:2221: read error: No such device' >&2; exit 1"
    )
    source = AlsaSource("hw:1")
    np.testing.assert_array_equal(read_exactly(source, 2) * 32768, np.frombuffer(b"abcd", "<i2"))
    with pytest.raises(DeviceError, match=r"hw:1: arecord ended by itself \(read error: No such device\)"):
        source.read()
    assert source.status.overruns == 2
    source.close()


def test_overrun_lies_between_the_samples_around_it(
    scripted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much waits in the pipe while the reader is slow, as it was where a buffer ran over."""
    monkeypatch.setattr("edgeasd.runtime.sources.arecord.STALL_SECONDS", 30.0)
    # Half a second each, for a busy machine: an overrun is to be noted before the next sound is in the pipe.
    scripted(
        SETUP + "head -c 30000 /dev/zero; echo 'overrun!!!' >&2; sleep 0.5; head -c 20000 /dev/zero | tr '\\0' '\\1'\n"
        "sleep 1; echo 'overrun!!!' >&2; sleep 0.5; head -c 2000 /dev/zero | tr '\\0' '\\2'; sleep 60"
    )
    source = AlsaSource("hw:1")
    time.sleep(1.0)  # the reader is busy elsewhere
    overruns: dict[float, set[int]] = {}
    discontinuities: list[int] = []
    end = 0
    while end < 26_000:
        chunk = source.read()
        assert chunk is not None
        assert chunk.start_sample == end, "an unknown amount is not counted"
        end = chunk.end_sample
        discontinuities += [chunk.start_sample] if chunk.discontinuity else []
        value, *others = set((chunk.samples * 32768).tolist())
        assert not others, "no chunk spans a loss"
        overruns.setdefault(value, set()).add(source.status.overruns)
    source.close()
    assert overruns == {0.0: {0}, 257.0: {1}, 514.0: {2}}
    assert discontinuities == [15_000, 25_000]


def test_close_ends_a_blocked_read_and_a_stubborn_child(scripted: Callable[[str], None]) -> None:
    scripted("trap '' TERM\n" + SETUP + "while :; do sleep 0.2; done")
    source = AlsaSource("hw:1")
    pid = source._capture._process.pid  # type: ignore[attr-defined]
    blocks: list[object] = []
    thread = threading.Thread(target=lambda: blocks.append(source.read()))
    thread.start()
    time.sleep(0.2)
    assert alive(pid)
    source.close()
    thread.join(10.0)
    assert blocks == [None]
    assert not alive(pid)


def test_no_child_outlives_an_interrupt(scripted: Callable[[str], None]) -> None:
    scripted(SETUP + "exec sleep 60")
    code = (
        "from edgeasd.runtime.sources import AlsaSource\n"
        "source = AlsaSource('hw:1')\n"
        "print(source._capture._process.pid, flush=True)\n"
        "source.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert b"KeyboardInterrupt" in errors
    assert not alive(pid)


def test_missing_arecord_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match="arecord: not installed.*apt install alsa-utils"):
        AlsaSource("hw:1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": ""}, "not an ALSA device name"),
        ({"channels": 2}, "2 channels, one signal is needed"),
        ({"channels": 2, "channel": 2}, "counted from 0"),
        ({"channels": 0}, "0 channels; give a number"),
        ({"channel": 0, "mix": True}, "exclude each other"),
    ],
)
def test_wrong_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlsaSource(**options)
