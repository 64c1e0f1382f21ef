"""What is said of the delivery of a test alarm, and of a state that is not understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.config import parse_config
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.state import OutputState
from edgeasd.runtime.service import SiteState
from edgeasd.runtime.service.delivery import await_delivery
from edgeasd.runtime.service.state import read_state

pytestmark = pytest.mark.core
SITE = """
site = "plant"
[streams.a]
bundle = "b"
input = "a.wav"
[outputs.hook]
type = "webhook"
url = "http://127.0.0.1:9/"
kinds = ["event"]
"""


def hook(**changes: Any) -> OutputState:
    return OutputState(**{"name": "hook", "type": "webhook", "connected": True, **changes})


def test_what_was_given_up_since_the_command_was_not_delivered() -> None:
    site = parse_config(SITE.encode(), Path("site.toml"))
    before = [hook(dropped={"event": 3})]
    (kept,) = await_delivery(site, before, lambda: before, 1.0)
    assert (kept.delivered, kept.said) == (True, "delivered")
    after = [hook(dropped={"event": 5}, last_error="HTTP 410")]
    (lost,) = await_delivery(site, before, lambda: after, 1.0)
    assert (lost.delivered, lost.waiting, lost.said) == (False, 0, "NOT delivered, given up; last error: HTTP 410")


def test_an_output_has_delivered_once_nothing_waited_though_more_comes_later() -> None:
    site = parse_config(SITE.encode(), Path("site.toml"))
    states = iter([[hook(queued=2)], [hook()], [hook(queued=1)]])
    (found,) = await_delivery(site, [hook()], lambda: next(states), 5.0)
    assert found.delivered is True
    (waits,) = await_delivery(site, [hook()], lambda: [hook(queued=2, last_error="timed out")], 0.2)
    assert (waits.delivered, waits.waiting) == (False, 2)
    assert waits.said == "NOT delivered, 2 wait; last error: timed out"


def test_a_service_that_ends_meanwhile_ends_the_wait() -> None:
    site = parse_config(SITE.encode(), Path("site.toml"))
    states = iter([[hook(queued=1)], None])
    (found,) = await_delivery(site, [], lambda: next(states), 60.0)
    assert (found.delivered, found.said) == (False, "NOT delivered, 1 waits")


@pytest.mark.parametrize("value", [None, {}, {"streams": [{}], "outputs": []}, {"streams": [], "outputs": [], "x": 1}])
def test_the_state_of_another_version_is_one_line(value: Any) -> None:
    with pytest.raises(InputError, match="use the edgeasd that the service runs with"):
        read_state(value)


def test_a_state_comes_back_as_it_was_written() -> None:
    state = SiteState("plant", 1.0, [], [hook(queued=1)], trouble="disk is full")
    assert read_state(state.to_json()) == state
