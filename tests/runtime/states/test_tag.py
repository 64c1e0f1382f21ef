"""What the plant publishes, and what it says of a machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.states import OperationSettings
from edgeasd.runtime.states.tag import parse_tag

pytestmark = pytest.mark.core

PLAIN = OperationSettings()
SPEEDS = OperationSettings(tag_values={"0": "off", "1": "slow", "2": "fast"}, tag_field="speed")


@pytest.mark.parametrize(
    ("payload", "state"),
    [
        (b"0", "off"),
        (b"1.0", "running"),
        (b"TRUE", "running"),
        (b" Off\n", "off"),
        (b'"idle"', "idle"),
        (b"fast", "fast"),
        (b'{"value": 0, "ts": 12}', "off"),
        (b'{"value": true}', "running"),
        (b'{"value": "slow"}', "slow"),
    ],
)
def test_usual_values_need_no_settings(payload: bytes, state: str) -> None:
    assert parse_tag(payload, PLAIN, "tag") == state


def test_settings_say_what_values_mean() -> None:
    assert [parse_tag(text, SPEEDS, "tag") for text in (b"0", b"1", b'{"speed": 2}')] == ["off", "slow", "fast"]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"7", "'7' is no state; say what it means in tag_values"),
        (b"", "'' is no state"),
        (b"\xff", "is not UTF-8"),
        (b"{", "not JSON"),
        (b'{"other": 1}', "has no field 'value'"),
        (b'{"value": [1]}', "has no field 'value'"),
        (b"x" * 5000, "5000 bytes, at most 4096"),
        (b"two words", "is no state"),
    ],
)
def test_what_says_nothing_is_refused_in_one_line(payload: bytes, said: str) -> None:
    with pytest.raises(InputError, match="^tag: ") as caught:
        parse_tag(payload, PLAIN, "tag")
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.binary(max_size=60))
def test_any_bytes_are_a_state_or_refused(payload: bytes) -> None:
    said, state = "", "none"
    try:
        state = parse_tag(payload, PLAIN, "tag")
    except InputError as error:
        said = str(error)
    assert said.isprintable()
    assert state == state.lower()
    assert not state.isdigit()
