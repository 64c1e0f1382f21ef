"""ReconnectingSource: growing pauses, measured loss, errors before the first sound, and real devices that vanish."""

from __future__ import annotations

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
from edgeasd.runtime.sources import (
    AlsaSource,
    AudioChunk,
    ReconnectingSource,
    Source,
    SourceEventKind,
    SourceSettings,
    SourceState,
    SourceStatus,
    open_source,
)
from edgeasd.runtime.sources.arecord import FIRST_SECONDS, STALL_SECONDS
from edgeasd.runtime.sources.base import BaseSource
from edgeasd.runtime.sources.capture import CaptureThread, SampleQueue
from edgeasd.runtime.sources.reconnecting import FIRST_PAUSE, HEALTHY_SECONDS, LONGEST_PAUSE
from edgeasd.runtime.system.clocks import Backoff

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]
RATE = 1000


class FakeClock:
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


class ScriptedSource(BaseSource):
    """Delivers `chunks` of 100 samples, one every 0.1 s, then raises `error`, or ends if it is None."""

    def __init__(
        self,
        clock: FakeClock,
        chunks: int,
        error: Exception | None = DeviceError("gone; plug it in"),
        *,
        overruns: int = 0,
        seconds: float = 0.1,
        lost: tuple[int, ...] = (),
    ) -> None:
        super().__init__("scripted", RATE, live=True, bits=16)
        self._clock, self._left, self._error, self._seconds = clock, chunks, error, seconds
        self._change_status(overruns=overruns)
        self._lost = list(lost)
        self.closed = 0

    def read(self) -> AudioChunk | None:
        if not self._left:
            if self._error is not None:
                raise self._error
            return None
        self._left -= 1
        self._clock.now += self._seconds
        lost = self._lost.pop(0) if self._lost else 0
        self._position += lost
        chunk = AudioChunk(np.ones(100, np.float32), self._position, self._clock.now - 0.1, lost > 0)
        self._position += 100
        return chunk

    def close(self) -> None:
        self.closed += 1


def reconnecting(
    clock: FakeClock,
    script: list[object],
    draw: float = 1.0,
    wait: Callable[[float], bool] | None = None,
    **options: object,
) -> tuple[ReconnectingSource, list[object]]:
    """`script` has a source or an error for each opening. Also returns the openings so far."""
    opened: list[object] = []

    def open_next() -> Source:
        opened.append(script[len(opened)])
        if isinstance(opened[-1], Exception):
            raise opened[-1]
        return opened[-1]  # type: ignore[return-value]

    source = ReconnectingSource(
        open_next,
        name="scripted",
        sample_rate=RATE,
        live=True,
        clock=clock,
        wait=wait or clock.wait,
        backoff=Backoff(FIRST_PAUSE, LONGEST_PAUSE, lambda: draw),
        **options,  # type: ignore[arg-type]
    )
    return source, opened


def next_chunk(source: Source) -> AudioChunk:
    chunk = source.read()
    assert chunk is not None
    return chunk


def position(source: Source) -> tuple[int, int, bool]:
    chunk = next_chunk(source)
    return chunk.start_sample, len(chunk.samples), chunk.discontinuity


def states(source: Source) -> list[str]:
    return [str(event.kind) for event in source.take_events()]


def test_loss_is_time_from_last_sample_to_next() -> None:
    clock = FakeClock()
    first, second = ScriptedSource(clock, 2, overruns=3), ScriptedSource(clock, 5, overruns=1)
    source, _ = reconnecting(clock, [first, DeviceError("still gone"), DeviceError("still gone"), second])
    assert source.status.state is SourceState.OPENING
    assert [position(source) for _ in range(2)] == [(0, 100, False), (100, 100, False)]
    opened = source.status
    assert (opened.state, opened.lost_samples, opened.overruns, opened.bits) == ("open", 0, 3, 16)
    assert position(source) == (1950, 100, True)
    assert clock.pauses == [0.25, 0.5, 1.0]
    status = source.status
    assert (status.state, status.reconnects, status.overruns, status.lost_samples) == ("open", 1, 4, 1750)
    assert first.closed
    lost, reopened = source.take_events()
    assert (lost.kind, lost.detail, lost.at) == (SourceEventKind.LOST, "gone; plug it in", pytest.approx(100.2))
    assert (reopened.kind, reopened.lost_seconds) == (SourceEventKind.REOPENED, pytest.approx(1.75))
    assert source.take_events() == []


def test_losses_inside_a_source_are_passed_on_and_counted() -> None:
    clock = FakeClock()
    source, _ = reconnecting(clock, [ScriptedSource(clock, 3, lost=(0, 40)), ScriptedSource(clock, 2, lost=(7, 5))])
    assert [position(source) for _ in range(5)] == [
        (0, 100, False),
        (140, 100, True),
        (240, 100, False),
        (590, 100, True),
        (695, 100, True),
    ]
    assert source.status.lost_samples == 40 + 250 + 5


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30)), min_size=1, max_size=6), min_size=1, max_size=4
    )
)
def test_positions_do_not_depend_on_how_sound_is_cut(lives: list[list[tuple[int, int]]]) -> None:
    """Each life of the source is a list of (samples, samples lost before them); both cuttings hold the same sound."""

    class CutSource(BaseSource):
        def __init__(self, clock: FakeClock, runs: list[tuple[int, int]], size: int) -> None:
            super().__init__("cut", RATE, live=True)
            self._chunks, self._clock, at = [], clock, 0
            for count, lost in runs:
                at += lost
                for start in range(0, count, size):
                    samples = np.arange(at + start, at + min(start + size, count), dtype=np.float32)
                    self._chunks.append(AudioChunk(samples, at + start, 0.0, lost > 0 and start == 0))
                at += count

        def read(self) -> AudioChunk | None:
            if not self._chunks:
                raise DeviceError("gone")
            chunk = self._chunks.pop(0)
            # Sound takes its time, the lost part included.
            self._clock.now += (len(chunk.samples) + chunk.start_sample - self._position) / RATE
            self._position = chunk.end_sample
            return chunk

        def close(self) -> None: ...

    def placed(size: int) -> tuple[dict[int, float], set[int], int]:
        clock = FakeClock()
        source, _ = reconnecting(clock, [CutSource(clock, runs, size) for runs in lives] + [KeyboardInterrupt()])
        samples, gaps, total = {}, set(), sum(count for runs in lives for count, _ in runs)
        while len(samples) < total:
            chunk = next_chunk(source)
            samples |= {chunk.start_sample + i: float(value) for i, value in enumerate(chunk.samples)}
            gaps |= {chunk.start_sample} if chunk.discontinuity else set()
        return samples, gaps, source.status.lost_samples

    whole = placed(1000)
    assert placed(1) == placed(7) == whole
    assert max(whole[0]) + 1 - len(whole[0]) == whole[2], "lost samples are those without a place"


def test_restart_before_first_sound_loses_nothing() -> None:
    clock = FakeClock()
    source, _ = reconnecting(clock, [ScriptedSource(clock, 0, None), ScriptedSource(clock, 1)])
    source.restart("more channels")
    assert position(source) == (0, 100, False)
    assert (source.status.state, source.status.lost_samples, states(source)) == ("open", 0, [])


def test_error_before_first_sound_is_raised_at_once() -> None:
    clock = FakeClock()
    with pytest.raises(DeviceError, match="no such"):
        reconnecting(clock, [DeviceError("no such device")])
    source, opened = reconnecting(clock, [ScriptedSource(clock, 0)])
    with pytest.raises(DeviceError, match="gone"):
        source.read()
    assert (len(opened), clock.pauses) == (1, [])


def test_first_open_is_waited_for_if_asked() -> None:
    clock = FakeClock()
    script = [OSError(5, "no processes"), ScriptedSource(clock, 0), ScriptedSource(clock, 0, None)]
    seen: list[SourceStatus] = []

    def wait(seconds: float) -> bool:
        seen.append(source.status)
        return clock.wait(seconds)

    source, opened = reconnecting(clock, [*script, ScriptedSource(clock, 1)], wait=wait, wait_for_first_open=True)
    assert (opened, source.status.state, source.status.reason) == ([], "opening", "")
    assert source.status.channels == 0
    assert position(source) == (0, 100, False)
    assert [status.state for status in seen] == ["opening"] * 3
    reasons = ["OSError: [Errno 5] no processes", "gone; plug it in", "scripted: ended"]
    assert [status.reason for status in seen] == reasons
    assert clock.pauses == [0.25, 0.5, 1.0]
    assert (source.status.state, source.status.reason, source.status.reconnects) == ("open", "", 0)
    assert states(source) == []


@pytest.mark.parametrize("wait_for_first_open", [True, False])
def test_without_retry_end_and_error_are_final(wait_for_first_open: bool) -> None:
    clock = FakeClock()
    options = {"retry": False, "wait_for_first_open": wait_for_first_open}
    source, opened = reconnecting(clock, [ScriptedSource(clock, 1)], **options)
    next_chunk(source)
    with pytest.raises(DeviceError, match="gone"):
        source.read()
    source, opened = reconnecting(clock, [ScriptedSource(clock, 1, None)], **options)
    next_chunk(source)
    assert source.read() is None
    assert len(opened) == 1


def test_with_retry_end_is_a_loss() -> None:
    clock = FakeClock()
    source, opened = reconnecting(clock, [ScriptedSource(clock, 1, None), ScriptedSource(clock, 1, None)])
    next_chunk(source)
    next_chunk(source)
    assert len(opened) == 2
    assert source.take_events()[0].detail == "scripted: ended"


def test_errors_of_libraries_and_bad_input_are_retried() -> None:
    class BrokenSource(ScriptedSource):
        def close(self) -> None:
            raise ValueError("not open")

    clock = FakeClock()
    shortages = [BlockingIOError(11, "Resource temporarily unavailable"), RuntimeError("can't start new thread")]
    broken = BrokenSource(clock, 1, OSError(5, "Input/output error"))
    nan = ScriptedSource(clock, 1, InputError("nan at sample 100"))
    source, _ = reconnecting(clock, [broken, *shortages, nan, ScriptedSource(clock, 1)])
    for _ in range(3):
        next_chunk(source)
    assert source.status.reconnects == 2
    details = [event.detail for event in source.take_events() if event.kind is SourceEventKind.LOST]
    assert details == ["OSError: [Errno 5] Input/output error", "nan at sample 100"]


def test_loss_is_known_before_a_hanging_close() -> None:
    clock, closing, may_close = FakeClock(), threading.Event(), threading.Event()

    class HangingSource(ScriptedSource):
        def close(self) -> None:
            closing.set()
            may_close.wait(30)

    source, _ = reconnecting(clock, [HangingSource(clock, 1, overruns=2), ScriptedSource(clock, 1)])
    next_chunk(source)
    reader = threading.Thread(target=lambda: next_chunk(source), daemon=True)
    reader.start()
    try:
        assert closing.wait(10)
        status = source.status
        assert (status.state, status.reason, status.overruns) == ("reopening", "gone; plug it in", 2)
        assert states(source) == ["lost"]
    finally:
        may_close.set()
        reader.join(10)
    assert source.status.state == "open"


def test_restart_during_opening_opens_once_more() -> None:
    clock = FakeClock()
    sources = [ScriptedSource(clock, 1) for _ in range(3)]
    remaining = list(sources)

    def open_next() -> Source:
        if len(remaining) == 2:
            source.restart("more channels")
        return remaining.pop(0)

    source = ReconnectingSource(open_next, name="x", sample_rate=RATE, live=True, clock=clock, wait=clock.wait)
    next_chunk(source)
    next_chunk(source)
    assert [one.closed for one in sources] == [1, 1, 0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 40), st.floats(0.0, 1.0))
def test_pauses_double_within_bounds(failures: int, draw: float) -> None:
    clock = FakeClock()
    source, _ = reconnecting(
        clock, [ScriptedSource(clock, 1), *[DeviceError("gone")] * failures, ScriptedSource(clock, 1)], draw
    )
    next_chunk(source)
    next_chunk(source)
    whole = [min(FIRST_PAUSE * 2**i, LONGEST_PAUSE) for i in range(failures + 1)]
    assert clock.pauses == pytest.approx([pause * (0.5 + 0.5 * draw) for pause in whole])


def test_pauses_begin_anew_after_healthy_sound() -> None:
    clock, healthy = FakeClock(), int(HEALTHY_SECONDS * 10) + 2
    flapping = [ScriptedSource(clock, 1) for _ in range(4)]
    source, _ = reconnecting(clock, [*flapping, ScriptedSource(clock, healthy), ScriptedSource(clock, 1)])
    for _ in range(4 + healthy + 1):
        next_chunk(source)
    assert clock.pauses == [0.25, 0.5, 1.0, 2.0, 0.25]


def test_close_ends_a_pause() -> None:
    opened = iter([ScriptedSource(FakeClock(), 1)])
    is_retrying = threading.Event()

    def open_next() -> Source:
        for source in opened:
            return source
        is_retrying.set()
        raise DeviceError("still gone")

    source = ReconnectingSource(
        open_next, name="x", sample_rate=RATE, live=True, backoff=Backoff(0.01, 3600.0, lambda: 1.0)
    )
    next_chunk(source)
    ends: list[object] = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: ends.append(source.read()))
    thread.start()
    assert is_retrying.wait(30)
    assert source.status.state == "reopening"
    assert began <= source.status.since <= time.monotonic()
    source.close()
    source.close()
    thread.join(30.0)
    assert ends == [None]
    assert (source.status.state, source.status.reason, source.status.reconnects) == ("closed", "", 0)


def test_queue_shows_the_loss_as_a_gap() -> None:
    clock = FakeClock()
    source, _ = reconnecting(clock, [ScriptedSource(clock, 2), ScriptedSource(clock, 1)])
    queue = SampleQueue(10_000, "block")
    capture = CaptureThread(source, queue, 300)
    capture.start()
    first, second = queue.get(), queue.get()
    assert first is not None
    assert second is not None
    assert queue.get() is None
    assert (first.start_sample, len(first.samples), first.captured_at) == (0, 200, pytest.approx(100.0))
    assert (second.start_sample, len(second.samples), second.captured_at) == (450, 100, pytest.approx(100.45))
    assert second.discontinuity
    assert queue.dropped == 0
    capture.stop()


def test_return_without_lost_time_is_a_gap() -> None:
    clock = FakeClock()
    script: list[object] = [ScriptedSource(clock, 2), ScriptedSource(clock, 1, seconds=0.0)]
    source, _ = reconnecting(clock, script, wait=lambda _: False)
    assert [position(source) for _ in range(3)] == [(0, 100, False), (100, 100, False), (200, 100, True)]
    assert source.status.lost_samples == 0


# A scripted arecord stands for a microphone that is unplugged: no file PCM can be.
SETUP = (
    "printf '  format       : S16_LE\\n  channels     : 1\\n  rate         : 16000\\n  buffer_size  : 8192\\n' >&2\n"
)


@pytest.fixture
def microphone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes an arecord that runs a given script at its first start, and captures without end from then on."""

    def write(first: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / "arecord"
        script.write_text(
            f"#!/bin/sh\nif mkdir '{tmp_path}/unplugged' 2>/dev/null; then\n{SETUP}\n{first}\nfi\n{SETUP}\n"
            "while printf '0123456789abcdef'; do sleep 0.05; done\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return write


@pytest.mark.parametrize(
    "first",
    [
        "printf abcd; echo 'arecord: pcm_read:2221: read error: No such device' >&2; exit 1",
        "printf abcd; exec sleep 60",
    ],
    ids=["error", "stall"],
)
def test_unplugged_microphone_comes_back(microphone: Callable[[str], None], first: str) -> None:
    microphone(first)
    source = open_source(SourceSettings(device="hw:1"))
    try:
        before = time.monotonic()
        assert len(next_chunk(source).samples) == 2
        began = time.monotonic()
        chunk = next_chunk(source)
        lost, reopened = source.take_events()
        assert (lost.kind, reopened.kind) == ("lost", "reopened")
        # A busy machine may need longer than STALL_SECONDS, but not as long as at the start.
        assert STALL_SECONDS <= 1.5
        assert lost.at - began < FIRST_SECONDS
        assert reopened.at - began <= reopened.lost_seconds + len(chunk.samples) / 16000 <= reopened.at - before
        assert source.status.lost_samples == round(reopened.lost_seconds * 16000)
        assert (chunk.start_sample, chunk.discontinuity) == (2 + source.status.lost_samples, True)
    finally:
        source.close()


def test_without_reopen_the_error_is_the_end(microphone: Callable[[str], None]) -> None:
    microphone("printf abcd; exec sleep 60")
    source = open_source(SourceSettings(device="hw:1", reopen=False))
    assert isinstance(source, AlsaSource)
    source.read()
    with pytest.raises(DeviceError, match=r"hw:1: no sound for 1\.5 s; check its plug"):
        source.read()
    source.close()


def test_killed_arecord_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alsa_file_pcm: ModuleType
) -> None:
    if shutil.which("arecord") is None or not alsa_file_pcm.STOCK.exists():
        pytest.skip("arecord or the stock ALSA configuration is not installed here")
    sound = np.random.default_rng(1).integers(-32768, 32768, 20_000).astype("<i2")
    (tmp_path / "sound.raw").write_bytes(sound.tobytes())
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(alsa_file_pcm.write_alsa_config(tmp_path, tmp_path / "sound.raw")))
    source = open_source(SourceSettings(device="hw:1"))
    try:
        for kills in range(1, 3):
            next_chunk(source)
            os.kill(source._inner._capture._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            chunk = next_chunk(source)
            while source.status.reconnects < kills:
                chunk = next_chunk(source)
            first = chunk.samples[:1000]
            np.testing.assert_array_equal(first * 32768, sound[: len(first)])
    finally:
        source.close()
    assert states(source) == ["lost", "reopened"] * 2


def test_command_is_restarted_whatever_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(2000))
    source = open_source(SourceSettings(input_command=f"cat {tmp_path}/a.raw"))
    try:
        samples = sum(len(next_chunk(source).samples) for _ in range(3))
    finally:
        source.close()
    assert samples == 3000
    assert source.live
    assert source.status.reconnects == 2
    assert source.read() is None
