"""What a stream of the service says of its source, and that it says it once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.service import patient as patient_module
from edgeasd.runtime.service.berth import Berth
from edgeasd.runtime.service.patient import PatientSource
from edgeasd.runtime.sources.reopening import Reopening

pytestmark = pytest.mark.core


class Plugged:
    """A microphone that is pulled out after so many blocks; `closing` is called while it is closed."""

    name, sample_rate, live = "hw:7", 16_000, True

    def __init__(self, blocks: float, closing: Callable[[], object]) -> None:
        self._left, self.close = blocks, closing

    def read(self) -> Any:
        self._left -= 1
        if self._left < 0:
            raise DeviceError("hw:7: was pulled out")
        return np.zeros(512, np.float32)


def berth_of(open_it: Callable[[], Any], segments: int) -> tuple[Berth, PatientSource]:
    source = PatientSource(open_it, name="hw:7", sample_rate=16_000, live=True, retry=True)
    stream: Any = SimpleNamespace(source=source, breaks=deque(), segments=segments, over=False)
    settings: Any = SimpleNamespace(device="hw:7")
    return Berth(settings, settings, stream), source


def test_a_source_that_came_back_is_not_said_to_be_lost_while_it_is_closed() -> None:
    plugged, said = iter((1, 1e9)), list[str]()
    berth, source = berth_of(
        lambda: Reopening(lambda: Plugged(next(plugged), lambda: said.extend(berth.news())), wait=lambda _: False),
        segments=1,
    )
    assert source.read() is not None
    assert source.read() is not None, "from the second one"
    assert berth.served is not None
    berth.served.breaks.extend(source.events)
    assert [*said, *berth.news()] == ["hw:7: was pulled out", "hw:7 is there again"]
    said.clear()
    source.close()
    assert (source.state, source.reason) == ("closed", "")
    assert [*said, *berth.news()] == []


def test_a_source_that_opens_and_never_gives_sound_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command runs at once, long before the camera that it asks has answered."""
    monkeypatch.setattr(patient_module, "FIRST_PAUSE", 0.0)
    states: list[tuple[str, str, list[str]]] = []

    class Asks(Plugged):
        def read(self) -> Any:
            states.append((source.state, source.reason, list(berth.news())))
            if len(states) == 3:
                self._left = 1e9
            return super().read()

    berth, source = berth_of(lambda: Asks(0, lambda: None), segments=0)
    assert source.read() is not None
    lost = "hw:7: was pulled out"
    assert states == [("open", "", []), ("opening", lost, [lost]), ("opening", lost, [])]
    assert (source.state, source.reason, list(berth.news())) == ("open", "", ["hw:7 is there again"])


def test_a_source_that_was_never_there_and_is_closed_is_not_there_again() -> None:
    berth, source = berth_of(lambda: pytest.fail("opened"), segments=0)
    source._reason = "hw:7: is not there"
    assert list(berth.news()) == ["hw:7: is not there"]
    source.close()
    assert list(berth.news()) == []
