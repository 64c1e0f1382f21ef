"""Health in `run`: what is sick is said, raises no alarm until it has left the clip score, and ends no alarm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.health import HealthSettings
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.service.listen import Listener
from edgeasd.runtime.sources.capture import Block

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

RATE, HOP = 16_000, 3072
FIRST = 131_584
"""Samples of the first segment; one more for each HOP."""
CLIP = FIRST + 9 * HOP
"""Samples that a complete clip score looks back on."""
Records = list[dict[str, Any]]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.02 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def opened(small_bundle: Path) -> Iterator[tuple[Scorer, Manifest]]:
    with Bundle(small_bundle) as bundle:
        yield bundle.open_scorer(threads=1)[0], bundle.manifest


def listener(opened: tuple[Scorer, Manifest], clip: float, health: HealthSettings | None) -> Listener:
    threshold = Threshold(clip=clip, consecutive=3, found_by="here", clips=1)
    return Listener(opened[0], opened[1].model_copy(update={"threshold": threshold}), health)


def heard(opened: tuple[Scorer, Manifest], sound: np.ndarray, clip: float = -1e9) -> Records:
    return list(listener(opened, clip, HealthSettings()).accept(Block(0, sound)))


def of_type(records: Records, kind: str) -> Records:
    return [record for record in records if record["type"] == kind]


def test_a_microphone_that_dies_is_said_and_raises_no_alarm(opened: tuple[Scorer, Manifest]) -> None:
    sound = np.concatenate([noise(2 * RATE), np.zeros(CLIP + 10 * HOP, np.float32)])
    records = heard(opened, sound)
    (health,) = of_type(records, "health")
    assert health["sick"] is True
    assert health["states"]["digital_silence"]["active"] is True
    assert health["states"]["digital_silence"]["since_seconds"] == pytest.approx(2.0, abs=0.2)
    assert (health["machine"], health["id"], health["schema"]) == ("valve", "00", 1)
    assert sum(score["complete"] for score in of_type(records, "score")) >= 3, "there were scores for an alarm"
    assert not of_type(records, "alarm")
    assert not any(score["alarm"] for score in of_type(records, "score"))
    unjudged = list(listener(opened, -1e9, None).accept(Block(0, sound)))
    assert of_type(unjudged, "alarm"), "the rule alone would have raised it"
    assert not of_type(unjudged, "health")
    strip = [{k: v for k, v in score.items() if k != "alarm"} for score in of_type(records, "score")]
    assert strip == [{k: v for k, v in score.items() if k != "alarm"} for score in of_type(unjudged, "score")]


def test_an_alarm_waits_until_no_sick_sound_is_in_the_clip_score(opened: tuple[Scorer, Manifest]) -> None:
    sound = np.concatenate([np.zeros(3 * RATE, np.float32), noise(2 * CLIP)])
    records = heard(opened, sound)
    sick, well = of_type(records, "health")
    assert (sick["sick"], well["sick"]) == (True, False)
    (alarm,) = of_type(records, "alarm")
    usable = [
        score["end_sample"]
        for score in of_type(records, "score")
        if score["complete"] and score["end_sample"] - CLIP >= round(well["at_seconds"] * RATE)
    ]
    assert alarm["end_sample"] == usable[2], "the third that looks back on healthy sound only"


def test_sick_input_does_not_end_an_alarm(opened: tuple[Scorer, Manifest]) -> None:
    loud, quiet = 10.0 * noise(CLIP + 10 * HOP), noise(CLIP + 10 * HOP, 1)
    for hole in range(3):
        quiet[500 + 4000 * hole :][:160] = 0.0
    sound = np.concatenate([loud, quiet])
    values = [score["clip_score"] for score in of_type(heard(opened, sound), "score") if score["complete"]]
    clip = (values[0] + values[-1]) / 2
    assert values[-1] < clip < min(values[:10]), "the loud sound should score above the quiet one"
    unjudged = list(listener(opened, clip, None).accept(Block(0, sound)))
    assert of_type(unjudged, "alarm")[-1]["state"] == "cleared", "the rule alone would have ended it"
    records = heard(opened, sound, clip)
    assert of_type(records, "health")[-1]["states"]["dropouts"]["active"] is True
    assert [alarm["state"] for alarm in of_type(records, "alarm")] == ["raised"]
    assert of_type(records, "score")[-1]["alarm"] is True


def test_three_losses_in_a_minute_make_the_input_sick(opened: tuple[Scorer, Manifest]) -> None:
    listening, records, position = listener(opened, -1e9, HealthSettings()), [], 0
    for number in range(4):
        records += listening.accept(Block(position, noise(2 * RATE, number)))
        position += 2 * RATE + 800
    assert [record["type"] for record in records] == ["gap", "gap", "gap", "health"]
    assert records[-1]["states"]["dropouts"]["active"] is True
    records = list(listening.accept(Block(position - 800, noise(2 * CLIP))))
    assert of_type(records, "score")
    assert not of_type(records, "alarm"), "holes stay in the count for a minute"


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 14 * RATE), max_size=12, unique=True))
def test_the_records_do_not_depend_on_how_the_sound_is_cut(opened: tuple[Scorer, Manifest], cuts: list[int]) -> None:
    parts = [noise(RATE), np.zeros(2 * RATE, np.float32), noise(CLIP + 3 * HOP, 1)]
    sound = np.concatenate(parts)
    places = sorted(cut for cut in cuts if cut < sound.size)
    listening, records = listener(opened, -1e9, HealthSettings()), []
    for start, end in zip([0, *places], [*places, sound.size], strict=True):
        records += listening.accept(Block(start, sound[start:end]))
    keep = {"type", "end_sample", "alarm", "states", "sick", "at_seconds"}
    shown = [[{k: v for k, v in r.items() if k in keep} for r in some] for some in (records, heard(opened, sound))]
    assert shown[0] == shown[1]
    assert len(of_type(records, "health")) == 2


def test_the_health_record_has_the_fields_described(opened: tuple[Scorer, Manifest]) -> None:
    (record,) = of_type(heard(opened, np.zeros(2 * RATE, np.float32)), "health")
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "listen.md").read_text("utf-8")
    table = page.split("### health\n")[1].split("\n### ")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", table, re.M)))) == set(record)
