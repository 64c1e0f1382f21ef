"""ALSA by name, through pyalsaaudio and through arecord, on file PCMs and on a scripted arecord."""

from __future__ import annotations

import importlib.util
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
from edgeasd.runtime.sources import AlsaSource, open_source

pytestmark = pytest.mark.core


def _load_helper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("alsa_file_pcm", Path(__file__).with_name("alsa_file_pcm.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


helper = _load_helper()
HAVE = {
    "arecord": shutil.which("arecord") is not None,
    "pyalsaaudio": importlib.util.find_spec("alsaaudio") is not None,
}


def need(backend: str) -> None:
    if not HAVE[backend]:
        pytest.skip(f"{backend} is not installed here (alsa-utils / pyalsaaudio)")
    if not helper.STOCK.exists():
        pytest.skip(f"{helper.STOCK} is not here (libasound2-data)")


@pytest.fixture(params=["pyalsaaudio", "arecord"])
def backend(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """20,000 int16 samples, which hw and plughw deliver from now on."""
    samples = np.random.default_rng(3).integers(-32768, 32768, 20000).astype("<i2")
    (tmp_path / "sound.raw").write_bytes(samples.tobytes())
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(helper.write_alsa_config(tmp_path, tmp_path / "sound.raw")))
    return samples


def read_exactly(source: AlsaSource, count: int) -> np.ndarray:
    blocks: list[np.ndarray] = []
    while sum(map(len, blocks)) < count:
        block = source.read()
        assert block is not None
        assert block.ndim == 1
        assert block.dtype == np.float32
        blocks.append(block)
    return np.concatenate(blocks)[:count]


@pytest.mark.parametrize("device", ["hw:1", "plughw:1,0"])
def test_samples_arrive_bit_for_bit(device: str, backend: str, sound: np.ndarray) -> None:
    source = open_source(device=device, alsa_backend=backend)
    try:
        assert source.name == f"{device} through {backend}, S16_LE, 16000 Hz, channel 0 of 1"
        assert source.live
        got = read_exactly(source, len(sound))
    finally:
        source.close()
    np.testing.assert_array_equal(got * 32768, sound)
    assert source.read() is None


@pytest.mark.parametrize("choice", [{"channel": 1}, {"mix": True, "channels": 2}])
def test_one_signal_of_a_stereo_device(choice: dict, backend: str, sound: np.ndarray) -> None:
    source = AlsaSource("hw:1", backend=backend, **choice)
    try:
        got = read_exactly(source, len(sound) // 2)
    finally:
        source.close()
    stereo = sound.reshape(-1, 2).astype(np.float64) / 32768
    expected = stereo[:, 1] if "channel" in choice else stereo.mean(axis=1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("device", ["hw:NoSuchCard", "no_such_pcm"])
def test_missing_device(device: str, backend: str) -> None:
    with pytest.raises(DeviceError, match=rf"^{device}: no such ALSA capture device .*`edgeasd devices`") as caught:
        AlsaSource(device, backend=backend)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["hw:99", "plughw:99,0", "hw:CARD=99,DEV=0"])
def test_a_card_that_does_not_exist_is_not_said_to_need_conversion(device: str, backend: str) -> None:
    with pytest.raises(DeviceError, match=rf"^{device}: card 99 does not exist .*list the devices with `edgeasd dev"):
        AlsaSource(device, backend=backend)


def test_missing_device_prints_nothing_beside_the_error(capfd: pytest.CaptureFixture[str], backend: str) -> None:
    with pytest.raises(DeviceError):
        AlsaSource("hw:NoSuchCard", backend=backend)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("sound")
def test_device_that_has_only_stereo_says_so(backend: str) -> None:
    with pytest.raises(DeviceError, match=r"stereo_only: does not capture 1 channel, 2 work; pass --channel 0 to 1"):
        AlsaSource("stereo_only", backend=backend)


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize(("choice", "described"), [({"channel": 0}, "channel 0 of 2"), ({"mix": True}, "mean of 2")])
def test_chosen_channel_of_a_stereo_only_device(choice: dict, described: str, backend: str) -> None:
    source = AlsaSource("stereo_only", backend=backend, **choice)
    source.close()
    assert described in source.name


@pytest.mark.usefixtures("sound")
def test_channel_beyond_the_device(backend: str) -> None:
    with pytest.raises(DeviceError, match=r"does not capture 6 channels, 2 work; pass --channel 0 to 1"):
        AlsaSource("stereo_only", channel=5, backend=backend)


@pytest.mark.usefixtures("sound")
def test_device_without_our_format(backend: str) -> None:
    with pytest.raises(
        DeviceError, match=r"mulaw_only: does not capture any of S16_LE, .*FLOAT_LE, it offers MU_LAW; use a plughw:"
    ):
        AlsaSource("mulaw_only", backend=backend)


@pytest.mark.usefixtures("sound")
def test_rate_that_is_only_near_is_refused(backend: str) -> None:
    with pytest.raises(DeviceError, match="does not capture at 2000 Hz, the nearest is 4000 Hz"):
        AlsaSource("plughw:1", 2000, backend=backend)


@pytest.mark.usefixtures("sound")
def test_device_with_one_rate_through_arecord() -> None:
    need("arecord")  # not pyalsaaudio: libasound's share plugin corrupts the heap of its caller
    with pytest.raises(DeviceError, match="only_48000: does not capture at 16000 Hz, the nearest is 48000 Hz"):
        AlsaSource("only_48000", backend="arecord")


@pytest.mark.usefixtures("sound")
def test_reading_thread_and_closing_thread(backend: str) -> None:
    source = AlsaSource("hw:1", backend=backend)
    ends: list[object] = []

    def read_on() -> None:
        try:
            while (block := source.read()) is not None:
                assert len(block)
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
        AlsaSource("hw:1", backend="arecord")


def test_overruns_are_counted_and_an_unexpected_end_quotes_arecord(scripted: Callable[[str], None]) -> None:
    scripted(
        SETUP + "printf abcd; echo 'overrun!!! (at least 5.1 ms long)' >&2; echo 'overrun!!!' >&2\n"
        "echo 'arecord: pcm_read:2221: read error: No such device' >&2; exit 1"
    )
    source = AlsaSource("hw:1", backend="arecord")
    np.testing.assert_array_equal(read_exactly(source, 2) * 32768, np.frombuffer(b"abcd", "<i2"))
    with pytest.raises(DeviceError, match=r"hw:1: arecord ended by itself \(read error: No such device\)"):
        source.read()
    assert source.overruns == 2  # type: ignore[attr-defined]
    source.close()


def test_an_overrun_lies_between_what_was_heard_before_it_and_what_came_after(
    scripted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much waits in the pipe while the reader is slow, as it was where a buffer ran over."""
    monkeypatch.setattr("edgeasd.runtime.sources.alsa_arecord.STALL_SECONDS", 30.0)
    # A second each, for a busy machine: an overrun is to be noted before the next sound is in the pipe.
    scripted(
        SETUP + "head -c 30000 /dev/zero; echo 'overrun!!!' >&2; sleep 1; head -c 20000 /dev/zero | tr '\\0' '\\1'\n"
        "sleep 2; echo 'overrun!!!' >&2; sleep 1; head -c 2000 /dev/zero | tr '\\0' '\\2'; sleep 60"
    )
    source = AlsaSource("hw:1", backend="arecord")
    time.sleep(2.0)  # the reader is busy elsewhere
    heard: dict[float, set[int]] = {}
    count = 0
    while count < 26_000:
        samples = source.read()
        assert samples is not None
        samples = samples * 32768
        count += len(samples)
        value, *others = set(samples.tolist())
        assert not others, "no block spans a loss"
        heard.setdefault(value, set()).add(source.overruns)  # type: ignore[attr-defined]
    source.close()
    assert heard == {0.0: {0}, 257.0: {1}, 514.0: {2}}


def test_close_ends_a_blocked_read_and_a_stubborn_child(scripted: Callable[[str], None]) -> None:
    scripted("trap '' TERM\n" + SETUP + "while :; do sleep 0.2; done")
    source = AlsaSource("hw:1", backend="arecord")
    pid = source._device._capture._process.pid  # type: ignore[attr-defined]
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
        "source = AlsaSource('hw:1', backend='arecord')\n"
        "print(source._device._capture._process.pid, flush=True)\n"
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


def test_neither_backend_names_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alsaaudio", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match=r"neither pyalsaaudio nor arecord.*edgeasd\[mic\].*alsa-utils"):
        AlsaSource("hw:1")
    with pytest.raises(DeviceError, match="no pyalsaaudio here"):
        AlsaSource("hw:1", backend="pyalsaaudio")


@pytest.mark.usefixtures("sound")
def test_auto_takes_a_child_and_pyalsaaudio_where_there_is_no_arecord(monkeypatch: pytest.MonkeyPatch) -> None:
    need("arecord")
    source = AlsaSource("hw:1")
    source.close()
    assert "through arecord" in source.name
    need("pyalsaaudio")
    monkeypatch.setenv("PATH", "")
    source = AlsaSource("hw:1")
    source.close()
    assert "through pyalsaaudio" in source.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": ""}, "not an ALSA device name"),
        ({"backend": "oss"}, "oss: not an ALSA backend; use one of auto, pyalsaaudio, arecord"),
        ({"channels": 2}, "2 channels, one signal is needed"),
        ({"channels": 2, "channel": 2}, "counted from 0"),
        ({"channels": 0}, "0 channels; give a number"),
        ({"channel": 0, "mix": True}, "exclude each other"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlsaSource(**options)
