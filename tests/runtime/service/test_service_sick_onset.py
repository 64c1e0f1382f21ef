"""Sound that goes bad raises no alarm in the seconds before a health state has begun, and an old clip is not believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeasd.runtime.alarms import SERVICE, AlarmSettings
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.config import StreamSettings
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import score_streams
from edgeasd.runtime.service.finding import Finding
from edgeasd.runtime.service.kept import Kept, clip_seconds
from edgeasd.runtime.service.patient import PatientSource
from edgeasd.runtime.service.stream import Listeners, ServedStream
from edgeasd.runtime.sources.capture import Block
from edgeasd.toolkit.demo.machines import render

pytestmark = pytest.mark.core

RATE = 16_000
BEGUN = 1000.0
SICK_FROM = 20.0


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Iterator[tuple[Manifest, Scorer]]:
    with Bundle(small_bundle) as opened:
        scorer, _ = opened.open_scorer(threads=1)
        yield opened.manifest, scorer
        scorer.close()


def sixteen_bits(sound: np.ndarray) -> Float32Array:
    return (np.clip(np.round(sound * 32768), -32768, 32767) / 32768).astype(np.float32)


def valve(seconds: float) -> np.ndarray:
    return render("valve", "00", seconds=seconds, seed=3)


def findings(bundle: tuple[Manifest, Scorer], sound: Float32Array, keep_every: int = 1) -> list[Finding]:
    """What a stream of the service finds in `sound`, as it would come live; times begin at 1000."""
    manifest, scorer = bundle
    settings, found = StreamSettings(bundle="x", device="hw:1"), list[Finding]()
    source = PatientSource(lambda: pytest.fail("opened"), name="hw:1", sample_rate=RATE, live=True, retry=True)
    served = ServedStream("pump", settings, manifest, source, Listeners(found.append, lambda *_: None), lambda: None)
    served.adopt(settings, manifest, scorer)
    assert served.stream is not None
    served.stream.keep_every = keep_every
    for at in range(0, len(sound), 512):
        served.accept(Block(at, sound[at : at + 512], captured_at=BEGUN + at / RATE))
        served.finish(score_streams([served.stream])[0], BEGUN + (at + 512) / RATE)
    return found


def raised(manifest: Manifest, found: list[Finding], policy: AlarmSettings) -> list[float]:
    """Seconds of sound after which alarms were raised."""
    kept, times = Kept("pump", manifest, policy, 10.0), []
    for finding in found:
        kept.find(finding)
        times += [finding.time - BEGUN for said in kept.unsaved if said.state == "alarm" != said.previous]
        kept.unsaved.clear()
    return times


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sound: 10 ** (-85 / 20) * np.random.default_rng(5).standard_normal(len(sound)),
        lambda sound: 10 ** (-30 / 20) * sound,
    ],
    ids=["converter noise", "gain turned down"],
)
def test_no_alarm_comes_from_sick_sound_before_it_is_known_to_be_sick(
    bundle: tuple[Manifest, Scorer], spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    healthy = valve(45.0)
    cut = int(SICK_FROM * RATE)
    sound = sixteen_bits(np.concatenate([healthy[:cut], spoil(healthy[cut:])]))
    found = findings(bundle, sound)
    known = min(one.time - BEGUN for one in found if one.sick)
    assert known > SICK_FROM + 5
    assert not any(one.suspect for one in found if one.time - BEGUN < SICK_FROM)
    believing = raised(bundle[0], [replace(one, suspect=False) for one in found], SERVICE)
    assert believing, "this sound raises no alarm anyway"
    assert SICK_FROM < believing[0] < known
    assert raised(bundle[0], found, SERVICE) == []


@pytest.mark.parametrize("keep_every", [1, 8])
def test_no_score_is_used_after_sick_sound_that_still_holds_some_of_it(
    bundle: tuple[Manifest, Scorer], keep_every: int
) -> None:
    """Zeros from 20 to 25 s. A policy without a time to settle, and on which every score is an alarm."""
    sound = sixteen_bits(valve(60.0))
    sound[int(SICK_FROM * RATE) : 25 * RATE] = 0.0
    found = findings(bundle, sound, keep_every)
    looks_back = {round(one.looks_back, 6) for one in found if one.complete and one.looks_back is not None}
    hop = 6 * 512 / RATE
    assert looks_back == {round(clip_seconds(bundle[0]) + 9 * hop * (keep_every - 1), 6)}
    policy = AlarmSettings(on=-1e6, k=1, recovery_seconds=0.0)
    sick_at = max(one.time for one in found if one.sick) - BEGUN
    late = found[next(number for number, one in enumerate(found) if one.sick) :]
    (first,) = raised(bundle[0], late, policy)
    assert first - max(looks_back) >= sick_at - 0.3
    assert first - max(looks_back) >= 25.0


def test_the_first_score_used_is_known_where_segments_lie_far_apart(bundle: tuple[Manifest, Scorer]) -> None:
    manifest = bundle[0]
    wide = manifest.model_copy(update={"segments": manifest.segments.model_copy(update={"hop": 33})})
    assert clip_seconds(wide) == pytest.approx(17.7, abs=0.1)
    kept = Kept("pump", wide, AlarmSettings(on=0.0, k=1), 10.0)
    kept.find(Finding("pump", 0.0, sick=True))
    for second in range(1, 25):
        kept.tick(float(second), False)
        kept.find(Finding("pump", second + 0.5, 1.0, True))
        if kept.machine.event is not None:
            break
    assert second == 18
