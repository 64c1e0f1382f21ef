"""Times stay true: of samples whatever the reader's delays, of reports whatever the wall clock does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.sources.capture import Capture, CaptureClock, SampleQueue
from edgeasd.runtime.system.clocks import SettledClock, utc_text, wall_time

pytestmark = pytest.mark.core
RATE = 16000


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(0.0, 2.0)), min_size=1, max_size=100), st.floats(-1e-4, 1e-4))
def test_late_reads_do_not_shift_the_times_of_samples(blocks: list[tuple[int, float]], drift: float) -> None:
    """Blocks arrive when their last sample was captured, or later by the second figure; the first is on time."""
    times, position = CaptureClock(RATE, live=True), 0
    for number, (count, delay) in enumerate(blocks):
        true = 50.0 + position / RATE * (1 + drift)
        position += count
        at = times.arrived(count, 50.0 + position / RATE * (1 + drift) + (delay if number else 0.0))
        seconds = position / RATE
        assert at == pytest.approx(true, abs=1e-6 + seconds * (CaptureClock.DRIFT + abs(drift)))


def test_the_clock_of_a_slow_device_is_followed() -> None:
    times, rate = CaptureClock(RATE, live=True), RATE * (1 - 1e-4)
    for block in range(1, 100_000):
        at = times.arrived(512, block * 512 / rate)
    assert at == pytest.approx((100_000 - 2) * 512 / rate, abs=1e-3)


@pytest.mark.parametrize("share", [0.002, 0.02])
def test_uncounted_loss_of_a_camera_does_not_date_sound_back(share: float) -> None:
    times, block, worst = CaptureClock(RATE, live=True), 1024, 0.0
    for number in range(1, 30_000):
        now = number * block / RATE / (1 - share)
        worst = max(worst, abs(times.arrived(block, now) - (now - block / RATE)))
    assert worst < CaptureClock.LATE_SECONDS + 2.1 * share * CaptureClock.WINDOW_SECONDS


def test_a_stall_without_its_sound_is_forgotten() -> None:
    times, block = CaptureClock(RATE, live=True), 1600
    for number in range(1, 3000):
        now = 0.1 * number + (6.0 if number > 600 else 0.0)
        at = times.arrived(block, now)
        if not 600 < number < 1900:
            assert at == pytest.approx(now - 0.1, abs=0.1)


def test_a_file_has_the_times_of_its_reads() -> None:
    times = CaptureClock(RATE, live=False)
    assert [times.arrived(16000, now) for now in (1.0, 1.1)] == [1.0, 1.1]


def test_after_a_loss_times_begin_anew() -> None:
    times = CaptureClock(RATE, live=True)
    times.arrived(RATE, 1.0)
    times.begin()
    assert times.arrived(RATE, 11.0) == pytest.approx(10.0)


@pytest.mark.parametrize("step", [-86400.0, 3600.0])
def test_a_step_of_the_wall_clock_changes_reports_alone(step: float) -> None:
    now, wall = [100.0], [1_700_000_000.0]

    class Live:
        name, sample_rate, live = "live", RATE, True

        def __init__(self) -> None:
            self.left = 10

        def read(self) -> np.ndarray | None:
            if not self.left:
                return None
            self.left -= 1
            now[0] += 1.0
            wall[0] += 1.0 + (step if self.left == 5 else 0.0)
            return np.zeros(RATE, np.float32)

        def close(self) -> None:
            pass

    queue = SampleQueue(100 * RATE, "block")
    capture = Capture(Live(), queue, clock=lambda: now[0])
    capture.start()
    capture._thread.join(5)
    blocks = []
    while (block := queue.get()) is not None:
        blocks.append(block)
    capture.stop()
    assert [block.captured_at for block in blocks] == pytest.approx([100.0 + i for i in range(10)])
    last = wall_time(blocks[-1].captured_at, lambda: now[0], lambda: wall[0])
    assert last == pytest.approx(1_700_000_000.0 + 9.0 + step)


DAY = 86_400.0


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.floats(1.0, 3 * 3600.0), st.sampled_from([0.0, 0.0, 0.0, -9e8, -50.0, 50.0, 9e8]))))
def test_a_step_ahead_counts_later_a_step_back_at_once(
    looks: list[tuple[float, float]],
) -> None:
    """Looks so many seconds apart, before which the clock is set by the second figure."""
    now, wall = [100.0], [1_700_000_000.0]
    settled = SettledClock(lambda: wall[0], lambda: now[0])
    set_at = [now[0]]
    for passed, step in looks:
        now[0], wall[0] = now[0] + passed, wall[0] + passed + step
        set_at = [now[0]] if step else set_at
        said = settled()
        assert said <= wall[0] + 1e-3, "nothing is ever older than the clock says"
        if now[0] - set_at[0] > SettledClock.LASTING_SECONDS + 3 * 3600.0:
            assert said == pytest.approx(wall[0])
    for _ in range(60):
        now[0], wall[0] = now[0] + 1800.0, wall[0] + 1800.0
        said = settled()
    assert said == pytest.approx(wall[0])


def test_a_wrong_year_for_hours_makes_nothing_old() -> None:
    now, wall = [100.0], [1_700_000_000.0]
    settled = SettledClock(lambda: wall[0], lambda: now[0])
    for hour in range(1, 20):
        now[0] += 3600.0
        wall[0] += 3600.0 + {3: 10 * 366 * DAY, 8: -10 * 366 * DAY}.get(hour, 0.0)
        assert settled() == pytest.approx(1_700_000_000.0 + hour * 3600.0)


def test_wall_time_is_iso_8601() -> None:
    assert utc_text(1_700_000_000.1239) == "2023-11-14T22:13:20.123Z"
