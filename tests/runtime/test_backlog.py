"""A live sound that waits for `run`: segments are left out evenly, and it is said; a slow start is forgiven."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.service.backlog import Backlog
from edgeasd.runtime.service.listen import Session

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def manifest(small_bundle: Path) -> Iterator[Manifest]:
    with Bundle(small_bundle) as bundle:
        yield bundle.manifest


def simulated(backlog: Backlog, cost: float, seconds: float, waiting: float = 0.0) -> list[dict[str, Any]]:
    """A device that needs `cost` seconds for a second of sound, `waiting` of which are there at the start."""
    said, behind = [], waiting
    for step in range(round(seconds / 0.1)):
        each = cost / backlog.keep_every
        done = min(behind + 0.1, 0.1 / each)
        behind += 0.1 - done
        said += backlog.update(behind, done * each, 0.1 * step)
    return said


def test_a_device_that_is_too_slow_leaves_out_segments_and_says_so(manifest: Manifest) -> None:
    backlog = Backlog(manifest, 60, skips=True)
    said = simulated(backlog, 3.0, 60.0)
    assert [record["type"] for record in said] == ["overload"] * len(said)
    assert [record["keep_every"] for record in said] == [2, 4]
    assert backlog.keep_every == 4
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "listen.md").read_text("utf-8")
    table = page.split("### overload\n")[1].split("\n### ")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", table, re.M)))) == set(said[0])


def test_what_came_while_the_bundle_was_loaded_is_worked_off_without_leaving_out(manifest: Manifest) -> None:
    backlog = Backlog(manifest, 60, skips=True)
    said = simulated(backlog, 0.5, 60.0, waiting=20.0)
    assert {record["type"] for record in said} == {"late"}
    assert backlog.keep_every == 1


def test_it_is_not_forgiven_for_ever(manifest: Manifest) -> None:
    backlog = Backlog(manifest, 60, skips=True)
    said = simulated(backlog, 1.0, 60.0, waiting=8.0)
    assert "overload" in [record["type"] for record in said]


def test_a_source_that_waits_leaves_out_nothing(manifest: Manifest) -> None:
    backlog = Backlog(manifest, 60, skips=False)
    assert {record["type"] for record in simulated(backlog, 3.0, 30.0)} == {"late"}
    assert backlog.keep_every == 1


def test_a_slow_scorer_skips_evenly_and_loses_no_sound(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound at ten times its speed, and a scorer that can do a third of it."""

    class Fast:
        name, sample_rate, live = "fast", 16_000, True

        def __init__(self) -> None:
            self.left, self._rng = 60, np.random.default_rng(0)

        def read(self) -> np.ndarray | None:
            time.sleep(0.1)
            self.left -= 1
            return (0.02 * self._rng.standard_normal(16_000)).astype(np.float32) if self.left >= 0 else None

        def close(self) -> None:
            pass

    quick = Scorer.score_waiting

    def slow(self: Scorer, waiting: Any) -> Any:
        time.sleep(0.06 * len(waiting))
        return quick(self, waiting)

    records: list[dict[str, Any]] = []
    with Bundle(small_bundle) as bundle:
        session = Session(bundle, Fast())
        session.load(threads=1)
        monkeypatch.setattr(Scorer, "score_waiting", slow)
        session.start()
        session.listen(records.append)
        standing = session.standing()
        end = session.stop("end of sound")
    said = [at for at, record in enumerate(records) if record["type"] == "overload"]
    assert said
    assert records[said[0]]["keep_every"] == 2
    last = records[said[-1]]["keep_every"]
    indices = [record["index"] for record in records[said[-1] :] if record["type"] == "score"]
    assert last > 1
    assert all(index % last == 0 for index in indices)
    assert end["dropped_samples"] == 0
    assert end["skipped_segments"] == standing.skipped > 0
    assert standing.latency is not None
    assert 0.0 < standing.latency["p50"] <= standing.latency["p99"] < 60.0
    assert standing.texts()[-1] == f"none lost, {standing.skipped} skipped"
