"""SharedSources: one card or command for several streams, and what keeps streams from sharing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.sources import AudioChunk, SharedSources, Source, SourceSettings
from edgeasd.runtime.sources.base import BaseSource
from edgeasd.runtime.sources.shared import sharing_problems

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]


class FakeCard(BaseSource):
    """Stands for AlsaSource: captures as many channels as it was opened for, in which each sample is its channel."""

    opened: list[FakeCard] = []  # noqa: RUF012 - emptied by the fixture
    available = 8

    def __init__(self, device: str, sample_rate: int, *, channel: int | None, mix: bool, **_: object) -> None:
        count = 2 if mix else 1 + (channel or 0)
        if count > self.available:
            from edgeasd.runtime.sources.alsa import TooFewChannels

            raise TooFewChannels(f"{device}: does not capture {count} channels, {self.available} work")
        super().__init__(f"{device} with {count}", sample_rate, live=True, bits=16, channels=count)
        self.opened.append(self)

    def read(self) -> AudioChunk | None:
        if self._closed.wait(0.01):
            return None
        return self._make_chunk(np.tile(np.arange(self.status.channels, dtype=np.float32), (160, 1)))

    def close(self) -> None:
        self._mark_closed()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeCard]]:
    monkeypatch.setattr("edgeasd.runtime.sources.open.AlsaSource", FakeCard)
    FakeCard.opened, FakeCard.available = [], 8
    yield FakeCard
    for one in FakeCard.opened:
        one.close()


def device(channel: int | None = None, **options: object) -> SourceSettings:
    return SourceSettings(device="hw:1", channel=channel, **options)  # type: ignore[arg-type]


def value(source: Source) -> float:
    chunk = source.read()
    assert chunk is not None
    assert chunk.samples.shape == (160,)
    return float(chunk.samples[0])


def test_card_is_opened_once_with_the_channels_of_all(card: type[FakeCard]) -> None:
    shared, settings = SharedSources(), [device(0), device(3), device(1)]
    shared.plan(settings)
    streams = [shared.open(one, 16000) for one in settings]
    assert card.opened == [], "nothing is opened before the first read"
    assert streams[1].name == "hw:1, channel 3"
    assert [value(stream) for stream in streams] == [0.0, 3.0, 1.0]
    assert [one.name for one in card.opened] == ["hw:1 with 4"]
    assert streams[1].name == "hw:1 with 4, channel 3 of 4"
    for stream in streams:
        assert card.opened[0].status.state != "closed"
        stream.close()
    assert card.opened[0].status.state == "closed"


def test_card_is_opened_again_for_more_channels(card: type[FakeCard]) -> None:
    shared = SharedSources()
    shared.plan([device(0)])
    first = shared.open(device(0), 16000)
    assert value(first) == 0.0
    shared.plan([device(0), device(2)])
    third = shared.open(device(2), 16000)
    assert value(third) == 2.0
    assert [one.name for one in card.opened] == ["hw:1 with 1", "hw:1 with 3"]
    lost = first.take_events()[0]
    assert (lost.kind, lost.detail) == ("lost", "hw:1: is opened again, with more channels")
    shared.plan([device(0)])
    assert value(first) == 0.0
    assert len(card.opened) == 2, "fewer channels need no other opening"
    first.close()
    third.close()


def test_card_without_the_highest_channel_serves_the_others(card: type[FakeCard]) -> None:
    card.available = 2
    shared, settings = SharedSources(), [device(1), device(5)]
    shared.plan(settings)
    second, sixth = (shared.open(one, 16000) for one in settings)
    assert value(second) == 1.0
    assert (sixth.status.state, "has no channel 5" in sixth.status.reason) == ("opening", True)
    sixth.close()
    second.close()


def test_card_is_opened_anew_after_its_last_stream(card: type[FakeCard]) -> None:
    shared = SharedSources()
    shared.plan([device(0)])
    for _ in range(2):
        stream = shared.open(device(0), 16000)
        assert value(stream) == 0.0
        stream.close()
    assert [one.status.state for one in card.opened] == ["closed", "closed"]


def test_missing_card_is_waited_for_or_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Source:
        raise DeviceError("hw:1: no such device")

    monkeypatch.setattr("edgeasd.runtime.sources.open.AlsaSource", refuse)
    with pytest.raises(DeviceError, match="no such device"):
        SharedSources(wait_for_first_open=False).open(device(0), 16000)
    stream = SharedSources().open(device(0), 16000)
    assert (stream.status.state, stream.status.reason) == ("opening", "")
    reader = threading.Thread(target=stream.read)
    reader.start()
    end = time.monotonic() + 20
    while not stream.status.reason and time.monotonic() < end:
        time.sleep(0.01)
    assert (stream.status.state, stream.status.reason) == ("opening", "hw:1: no such device")
    stream.close()
    reader.join(20)
    assert not reader.is_alive()


def test_command_runs_once_for_both_channels(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(-9999, 9999, (5000, 2)).astype("<i2")
    (tmp_path / "a.raw").write_bytes(frames.tobytes())
    (tmp_path / "feed.sh").write_text(f"echo run >> {tmp_path}/runs; cat {tmp_path}/a.raw")
    command = f"sh {tmp_path}/feed.sh"
    settings = [SourceSettings(input_command=command, once=True, pcm_channels=2, channel=at) for at in (0, 1)]
    shared = SharedSources()
    shared.plan(settings)
    streams = [shared.open(one, 16000) for one in settings]
    for stream, expected in zip(streams, frames.T, strict=True):
        parts = []
        while (chunk := stream.read()) is not None:
            parts.append(chunk.samples)
        np.testing.assert_array_equal(np.concatenate(parts) * 32768, expected)
        stream.close()
    assert (tmp_path / "runs").read_text() == "run\n"


def test_files_are_not_shared_and_not_retried(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.wav", np.zeros(5000), 16000)
    shared, settings = SharedSources(), SourceSettings(input=str(path))
    first, second = shared.open(settings, 16000), shared.open(settings, 16000)
    assert (first.name, first.status.state) == (str(path), "opening")
    for source in (first, second):
        chunk = source.read()
        assert chunk is not None
        assert len(chunk.samples) == 5000
    assert first.read() is None
    missing = shared.open(SourceSettings(input=str(tmp_path / "no.wav")), 16000)
    with pytest.raises(InputError, match="no such file"):
        missing.read()


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="input_command: 2 channels, one signal is needed"):
        SharedSources().open(SourceSettings(input_command=f"{sys.executable} x", pcm_channels=2), 16000)
    with pytest.raises(InputError, match="one source is needed"):
        SharedSources().open(SourceSettings(), 16000)


@pytest.mark.parametrize(
    ("first", "second", "rates", "problem"),
    [
        (device(0), device(1), {}, None),
        (device(0), SourceSettings(device="hw:2", channel=0, resample=True), {}, None),
        (device(0), device(1, resample=True), {}, "resample is true here and false there; make it the same in both"),
        (device(0), device(1, alsa_format="S32_LE"), {}, 'alsa_format is "S32_LE" here and "auto" there'),
        (device(0), device(1, pace="block"), {}, 'pace is "block" here and "drop" there'),
        (device(0), device(mix=True), {}, "not both name a channel; give each its channel, counted from 0"),
        (device(0), device(1), {"a": 16000, "b": 8000}, "its bundle wants 8000 Hz and the other 16000 Hz"),
        (device(0), SourceSettings(device="plughw:CARD=1,DEV=0", channel=1), {}, "calls it otherwise than hw:1"),
        (
            SourceSettings(input_command="cat x", pcm_channels=2, channel=0),
            SourceSettings(input_command="cat x", pcm_channels=3, channel=0),
            {},
            "channels is 3 here and 2 there",
        ),
        (SourceSettings(input="a.wav"), SourceSettings(input="a.wav", resample=True), {}, None),
    ],
)
def test_streams_that_cannot_share_are_named(
    first: SourceSettings, second: SourceSettings, rates: dict[str, int], problem: str | None
) -> None:
    problems = sharing_problems({"a": first, "b": second}, rates)
    if problem is None:
        assert problems == []
    else:
        ((name, line),) = problems
        assert name == "b"
        assert line.startswith(f"shares {second.device or second.input_command} with a, but {problem}")
