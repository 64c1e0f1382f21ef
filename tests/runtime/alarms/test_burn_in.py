"""The threshold that a learning period proposes, and what it does not learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.alarms.burn_in import BurnIn, parse_burn_in, propose

pytestmark = pytest.mark.core

START = 1.8e9


def minutes(count: int, seed: int = 0) -> tuple[list[float], np.ndarray]:
    """A day or so of highest scores of minutes: skewed, as live scores are."""
    return [START + 60.0 * i for i in range(count)], 0.03 + np.random.default_rng(seed).gamma(4.0, 0.002, count)


def test_normal_days_give_a_threshold_above_them() -> None:
    at, highs = minutes(3 * 1440)
    found = propose(at, highs, 0.04)
    assert found is not None
    assert found.doubt is None
    assert found.left_out == 0
    assert found.threshold > highs.max()
    assert found.threshold == found.threshold_with_all
    assert found.per_day == pytest.approx(1 / 7)


def test_less_than_an_hour_gives_none() -> None:
    assert propose(*minutes(59), None) is None


@pytest.mark.parametrize("level", [0.3, 3.0])
def test_a_short_fault_is_named_and_not_learnt(level: float) -> None:
    at, highs = minutes(1440)
    clean = propose(at, highs, 0.04)
    highs[600:630] = level
    found = propose(at, highs, 0.04)
    assert clean is not None
    assert found is not None
    assert found.threshold == pytest.approx(clean.threshold, rel=0.05)
    assert found.threshold_with_all > level
    assert found.left_out == 30
    (spell,) = found.spells
    assert (spell.begun, spell.ended) == (at[600], at[629] + 60)
    assert found.doubt is None


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_a_fault_for_much_of_the_time_needs_a_person(share: float) -> None:
    at, highs = minutes(1440)
    highs[-int(share * 1440) :] += 0.5
    found = propose(at, highs, 0.04)
    assert found is not None
    assert found.threshold < 0.2
    assert found.doubt is not None
    assert "unlike the rest" in found.doubt


def test_a_rise_and_another_place_are_doubted() -> None:
    at, highs = minutes(1440)
    rising = propose(at, highs + np.linspace(0, 0.05, 1440), 0.2)
    assert rising is not None
    assert "the scores went from" in str(rising.doubt)
    elsewhere = propose(at, highs + 1.0, 0.04)
    assert elsewhere is not None
    assert "above the threshold of the bundle" in str(elsewhere.doubt)


@given(st.integers(60, 400), st.floats(0.01, 100), st.floats(-10, 10))
def test_proposal_moves_with_the_scale_of_the_score(count: int, scale: float, shift: float) -> None:
    at, highs = minutes(count)
    one, other = propose(at, highs, None), propose(at, scale * highs + shift, None)
    assert one is not None
    assert other is not None
    assert other.threshold == pytest.approx(scale * one.threshold + shift, rel=1e-6, abs=1e-6)


def test_state_is_stored_whole() -> None:
    at, highs = minutes(600)
    state = BurnIn(scoring="x", begun=START, hours=10, phase="accepted", proposal=propose(at, highs, None), by="anna")
    assert parse_burn_in(state.model_dump_json()) == state
    assert state.accepted == state.proposal.threshold if state.proposal else False
    assert "was accepted by anna" in state.describe(0.1)
    assert parse_burn_in('{"phase": "nonsense"}') is None
