"""Phases within phases become one number of a hundred that never goes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.engine_build.progress import TOTAL, Phases

pytestmark = pytest.mark.core


class Shown(list[tuple[int, int, str]]):
    def __call__(self, done: int, total: int, text: str) -> None:
        self.append((done, total, text))


def test_the_share_of_a_phase_inside_counts_as_part_of_a_step() -> None:
    shown = Shown()
    phases = Phases(shown)
    phases.start("build", None, 2)
    phases.start("tactics", "build", 4)
    phases.step("tactics", 0)
    phases.step("tactics", 1)
    phases.finish("tactics")
    phases.step("build", 0)
    phases.finish("build")
    assert shown == [(12, 100, "tactics"), (25, 100, "tactics"), (50, 100, "tactics"), (100, 100, "build")]


def test_a_phase_that_ends_early_is_done() -> None:
    shown = Shown()
    phases = Phases(shown)
    phases.start("build", None, 10)
    phases.finish("build")
    assert shown == [(TOTAL, TOTAL, "build")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "step", "finish"]),
            st.sampled_from("abcd"),
            st.sampled_from([None, *"abcd"]),
            st.integers(-1, 5),
        ),
        max_size=60,
    )
)
def test_the_percentage_grows_within_bounds(
    calls: list[tuple[str, str, str | None, int]],
) -> None:
    shown = Shown()
    phases = Phases(shown)
    for what, name, parent, number in calls:
        if what == "start":
            phases.start(name, parent, number)
        elif what == "step":
            phases.step(name, number)
        else:
            phases.finish(name)
    done = [one for one, _, _ in shown]
    assert done == sorted(set(done))
    assert all(0 <= one <= total == TOTAL for one, total, _ in shown)
