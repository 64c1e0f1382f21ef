"""A source that stopped comes back: pauses grow and end, the loss is measured, and a wrong name is not tried for ever."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources import AlsaSource, Reopening, Source, open_source
from edgeasd.runtime.sources.alsa_common import FIRST_SECONDS, STALL_SECONDS
from edgeasd.runtime.sources.capture import Capture, SampleQueue
from edgeasd.runtime.sources.reopening import FIRST_PAUSE, HEALTHY_SECONDS, LONGEST_PAUSE

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]
RATE = 1000


def heard(source: Source) -> int:
    """Samples of the next block."""
    block = source.read()
    assert block is not None
    return len(block)


class Time:
    """A clock that only pauses and reads move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return False


class Scripted:
    """Delivers `blocks` of 100 samples, each 0.1 s after the one before, then ends or fails."""

    name, sample_rate, live, bits = "scripted", RATE, True, 16

    def __init__(self, clock: Time, blocks: int, error: str | None = "gone; plug it in", overruns: int = 0) -> None:
        self._clock, self._left, self._error, self.overruns, self.closed = clock, blocks, error, overruns, 0

    def read(self) -> np.ndarray | None:
        if self._left:
            self._left -= 1
            self._clock.now += 0.1
            return np.ones(100, np.float32)
        if self._error:
            raise DeviceError(self._error)
        return None

    def close(self) -> None:
        self.closed += 1


def reopening(clock: Time, script: list[object], jitter: float = 0.0, **options: object) -> tuple[Reopening, list]:
    """`script` has a source or an error for each opening."""
    opened: list[object] = []

    def open_next() -> Scripted:
        opened.append(script[len(opened)])
        if isinstance(opened[-1], Exception):
            raise opened[-1]
        return opened[-1]  # type: ignore[return-value]

    return Reopening(open_next, clock=clock, wait=clock.wait, jitter=lambda: jitter, **options), opened  # type: ignore[arg-type]


def test_the_loss_is_the_time_between_the_last_sample_and_the_next() -> None:
    clock = Time()
    first, second = Scripted(clock, 2, overruns=3), Scripted(clock, 5, overruns=1)
    source, _ = reopening(clock, [first, DeviceError("still gone"), DeviceError("still gone"), second])
    assert heard(source) == heard(source) == 100
    assert (source.state, source.lost_samples, source.overruns) == ("open", 0, 3)
    assert heard(source) == 100
    # three pauses: 0.25, 0.5 and 1 s
    assert clock.pauses == [0.25, 0.5, 1.0]
    assert source.lost_samples == 1750
    assert (source.state, source.reopened, source.overruns) == ("open", 1, 4)
    assert first.closed
    lost, back = source.events
    assert (lost.state, lost.detail, lost.at) == ("lost", "gone; plug it in", pytest.approx(100.2))
    assert (back.state, back.lost_seconds) == ("reopened", pytest.approx(1.75))


def test_a_restart_before_the_first_sound_is_over_with_it() -> None:
    clock = Time()
    source, _ = reopening(clock, [Scripted(clock, 0, error=None), Scripted(clock, 1)])
    source.restart("more channels")
    assert heard(source) == 100
    assert (source.state, source.lost_samples) == ("open", 0)


def test_what_cannot_be_opened_or_never_delivers_raises_at_once() -> None:
    clock = Time()
    with pytest.raises(DeviceError, match="no such"):
        reopening(clock, [DeviceError("no such device")])
    source, opened = reopening(clock, [Scripted(clock, 0)])
    with pytest.raises(DeviceError, match="gone"):
        source.read()
    assert len(opened) == 1
    assert clock.pauses == []


def test_a_live_source_outlives_errors_that_are_not_ours() -> None:
    """Such as a shortage of processes or threads, or what a library raises."""

    class Broken(Scripted):
        def read(self) -> np.ndarray | None:
            if not self._left:
                raise OSError(5, "Input/output error")
            return super().read()

        def close(self) -> None:
            raise ValueError("not open")

    clock = Time()
    shortages: list[object] = [BlockingIOError(11, "Resource temporarily unavailable"), RuntimeError("can't start")]
    source, _ = reopening(clock, [Broken(clock, 1), *shortages, Scripted(clock, 1)])
    assert heard(source) == heard(source) == 100
    assert source.reopened == 1
    assert source.events[0].detail == "OSError: [Errno 5] Input/output error"


def test_a_source_that_hangs_in_closing_is_known_as_lost() -> None:
    clock, closing, closed = Time(), threading.Event(), threading.Event()

    class Hanging(Scripted):
        def close(self) -> None:
            closing.set()
            closed.wait(30)

    source, _ = reopening(clock, [Hanging(clock, 1, overruns=2), Scripted(clock, 1)])
    assert heard(source) == 100
    reader = threading.Thread(target=lambda: heard(source), daemon=True)
    reader.start()
    try:
        assert closing.wait(10)
        assert (source.state, source.reason, source.overruns) == ("reopening", "gone; plug it in", 2)
        assert [event.state for event in source.events] == ["lost"]
    finally:
        closed.set()
        reader.join(10)
    assert source.state == "open"


def test_a_restart_while_it_is_being_opened_opens_it_once_more() -> None:
    clock = Time()
    sources = [Scripted(clock, 1) for _ in range(3)]
    left = list(sources)

    def open_next() -> Scripted:
        if len(left) == 2:
            reopened.restart("more channels")
        return left.pop(0)

    reopened = Reopening(open_next, clock=clock, wait=clock.wait, jitter=lambda: 0.0)
    assert heard(reopened) == heard(reopened) == 100
    assert [source.closed for source in sources] == [1, 1, 0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.floats(0.0, 1.0))
def test_pauses_double_within_bounds_whatever_the_jitter(failures: int, jitter: float) -> None:
    clock = Time()
    source, _ = reopening(
        clock, [Scripted(clock, 1), *[DeviceError("gone")] * failures, Scripted(clock, 1)], jitter=jitter
    )
    source.read()
    assert source.read() is not None
    whole = [min(FIRST_PAUSE * 2**i, LONGEST_PAUSE) for i in range(failures + 1)]
    assert clock.pauses == pytest.approx([pause * (1 - 0.5 * jitter) for pause in whole])


def test_a_source_that_keeps_failing_is_paused_longer_and_a_healthy_one_begins_anew() -> None:
    clock, healthy = Time(), int(HEALTHY_SECONDS * 10) + 2
    flapping = [Scripted(clock, 1) for _ in range(4)]
    source, _ = reopening(clock, [*flapping, Scripted(clock, healthy), Scripted(clock, 1)])
    for _ in range(4 + healthy + 1):
        assert source.read() is not None
    assert clock.pauses == [0.25, 0.5, 1.0, 2.0, 0.25]


@pytest.mark.parametrize("endless", [True, False])
def test_the_end_of_a_source_is_a_loss_only_where_it_should_have_none(endless: bool) -> None:
    clock = Time()
    source, opened = reopening(clock, [Scripted(clock, 1, None), Scripted(clock, 1, None)], endless=endless)
    source.read()
    assert (source.read() is not None) == endless
    assert len(opened) == 1 + endless


def test_bad_input_in_the_middle_does_not_end_it() -> None:
    clock = Time()

    class Nan(Scripted):
        def read(self) -> np.ndarray | None:
            if not self._left:
                raise InputError("nan at sample 100")
            return super().read()

    source, _ = reopening(clock, [Nan(clock, 1), Scripted(clock, 1)])
    assert source.read() is not None
    assert source.read() is not None
    assert source.events[0].detail == "nan at sample 100"


def test_close_ends_a_pause() -> None:
    clock = Time()
    opened = iter([Scripted(clock, 1)])

    def open_next() -> Scripted:
        for source in opened:
            return source
        raise DeviceError("gone")

    source = Reopening(open_next, jitter=lambda: 0.0)
    source.read()
    ends: list[object] = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: ends.append(source.read()))
    thread.start()
    while source.reason != "gone" and time.monotonic() < began + 30.0:
        time.sleep(0.01)
    assert (source.state, source.reason) == ("reopening", "gone")
    assert began <= source.since <= time.monotonic()
    source.close()
    source.close()
    thread.join(1.0)
    assert ends == [None]
    assert (source.state, source.reopened) == ("closed", 0)


def test_the_queue_shows_the_loss_as_a_gap_of_that_length() -> None:
    clock = Time()
    source, _ = reopening(clock, [Scripted(clock, 2), Scripted(clock, 1)])
    queue = SampleQueue(10_000, "block")
    capture = Capture(source, queue, 300, clock)
    capture.start()
    first, second = queue.get(), queue.get()
    assert first is not None
    assert second is not None
    assert queue.get() is None
    assert (first.position, first.samples.size) == (0, 200)
    assert (second.position, second.samples.size) == (450, 100)
    assert first.captured_at == pytest.approx(100.0)
    assert second.captured_at == pytest.approx(100.45)
    assert queue.dropped == 0
    capture.stop()


def test_a_return_without_lost_time_is_a_gap_all_the_same() -> None:
    clock = Time()

    class Burst(Scripted):
        def read(self) -> np.ndarray | None:
            before = clock.now
            block = super().read()
            clock.now = before
            return block

    source, _ = reopening(clock, [Scripted(clock, 2), Burst(clock, 1)])
    source._wait = lambda _: False
    queue = SampleQueue(10_000, "block")
    capture = Capture(source, queue, 300, clock)
    capture.start()
    blocks = []
    while (block := queue.get()) is not None:
        blocks.append((block.position, block.samples.size, block.after_loss))
    capture.stop()
    assert source.lost_samples == 0
    assert blocks == [(0, 200, False), (200, 100, True)]


# A scripted arecord stands for a microphone that is pulled out: no file PCM can be.
SETUP = (
    "printf '  format       : S16_LE\\n  channels     : 1\\n  rate         : 16000\\n  buffer_size  : 8192\\n' >&2\n"
)


@pytest.fixture
def microphone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes an arecord that runs `pulled` at its first start and `SETUP`, sound without end, from then on."""

    def write(pulled: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / "arecord"
        script.write_text(
            f"#!/bin/sh\nif mkdir '{tmp_path}/pulled' 2>/dev/null; then\n{SETUP}\n{pulled}\nfi\n{SETUP}\n"
            "while printf '0123456789abcdef'; do sleep 0.05; done\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return write


@pytest.mark.parametrize(
    "pulled",
    [
        "printf abcd; echo 'arecord: pcm_read:2221: read error: No such device' >&2; exit 1",
        "printf abcd; exec sleep 60",
    ],
    ids=["error", "stall"],
)
def test_an_unplugged_microphone_is_noticed_within_two_seconds_and_comes_back(
    microphone: Callable[[str], None], pulled: str
) -> None:
    microphone(pulled)
    source = open_source(device="hw:1", alsa_backend="arecord", reopen=True)
    try:
        before = time.monotonic()
        assert heard(source) == 2
        began = time.monotonic()
        came = heard(source) / 16000
        assert [event.state for event in source.events] == ["lost", "reopened"]  # type: ignore[attr-defined]
        lost, back = source.events  # type: ignore[attr-defined]
        # On a busy machine the rest of the two seconds may pass; the patience at the start would take longer.
        assert STALL_SECONDS <= 1.5
        assert lost.at - began < FIRST_SECONDS
        assert back.at - began <= back.lost_seconds + came <= back.at - before
        assert source.lost_samples == round(back.lost_seconds * 16000)  # type: ignore[attr-defined]
    finally:
        source.close()


def _load_helper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("alsa_file_pcm", Path(__file__).with_name("alsa_file_pcm.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_real_arecord_that_is_killed_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alsa = _load_helper()
    if shutil.which("arecord") is None or not alsa.STOCK.exists():
        pytest.skip("arecord or the stock ALSA configuration is not installed here")
    sound = np.random.default_rng(1).integers(-32768, 32768, 20_000).astype("<i2")
    (tmp_path / "sound.raw").write_bytes(sound.tobytes())
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(alsa.write_alsa_config(tmp_path, tmp_path / "sound.raw")))
    source = open_source(device="hw:1", alsa_backend="arecord", reopen=True)
    try:
        for kills in range(1, 4):
            assert source.read() is not None
            os.kill(source._inner._device._capture._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            block = None
            while source.reopened < kills:  # type: ignore[attr-defined]
                block = source.read()
            assert block is not None
            np.testing.assert_array_equal(block[:1000] * 32768, sound[: len(block[:1000])])
    finally:
        source.close()
    assert [event.state for event in source.events] == ["lost", "reopened"] * 3  # type: ignore[attr-defined]


def test_without_reopening_the_error_is_the_end(microphone: Callable[[str], None]) -> None:
    microphone("printf abcd; exec sleep 60")
    source = open_source(device="hw:1", alsa_backend="arecord")
    assert isinstance(source, AlsaSource)
    source.read()
    with pytest.raises(DeviceError, match=r"hw:1: no sound for 1\.5 s; check its plug"):
        source.read()
    source.close()


def test_a_command_is_restarted_whatever_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(2000))
    source = open_source(input_command=f"cat {tmp_path}/a.raw", reopen=True)
    try:
        samples = sum(heard(source) for _ in range(3))
    finally:
        source.close()
    assert samples == 3000
    assert source.live
    assert source.reopened == 2  # type: ignore[attr-defined]
    assert source.read() is None
