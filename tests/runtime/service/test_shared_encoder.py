"""Bundles with one encoder in one service: one session, common batches, and each machine for itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgeasd.runtime.errors import CheckFailed
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.service.service import Service

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]

Serve = Callable[..., tuple[Service, Any]]


def machine_bundle(small_bundle: Path, folder: Path, d_max: float) -> Path:
    """A bundle with the encoder of all and a `d_max` of its own."""
    made = Path(shutil.copytree(small_bundle, folder / f"bundle-{d_max:g}"))
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["score"]["d_max"] = d_max
    (made / "manifest.json").write_text(json.dumps(manifest))
    return made


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Sizes of the batches that each session ran."""
    found: dict[int, list[int]] = {}
    embed = OnnxRuntimeEngine.embed

    def counted(engine: OnnxRuntimeEngine, batch: Float32Array) -> Float32Array:
        found.setdefault(id(engine), []).append(len(batch))
        return embed(engine, batch)

    monkeypatch.setattr(OnnxRuntimeEngine, "embed", counted)
    return found


def test_bundles_with_one_encoder_share_session_and_batches(
    site: Any, small_bundle: Path, sound: Path, serve: Serve, batches: dict[int, list[int]]
) -> None:
    bundles = [machine_bundle(small_bundle, site.folder, d_max) for d_max in (7.0, 9.0, 11.0)]
    site.write(*(f'input = "{sound}"\nbundle = "{bundle}"' for bundle in bundles))
    service, records = serve()
    site.until(lambda: not service.poll())
    assert len(service.supervisor.beats()) == 1
    assert len(batches) == 1
    (sizes,) = batches.values()
    assert max(sizes[-20:]) > 1
    service.stop("test")
    together = {id: [one["score"] for one in records.of("segment", id)] for id in "abc"}
    assert len({len(scores) for scores in together.values()}) == 1
    for id, bundle in zip("abc", bundles, strict=True):
        site.write(f'input = "{sound}"\nbundle = "{bundle}"\nid = "{id}"')
        service, records = serve()
        site.until(lambda service=service: not service.poll())
        service.stop("test")
        alone = [one["score"] for one in records.of("segment", id)]
        assert together[id] == pytest.approx(alone, rel=1e-5, abs=1e-6)
    assert together["a"] != pytest.approx(together["c"], rel=1e-3)


def test_a_bundle_is_replaced_beside_others_with_its_encoder(
    site: Any, small_bundle: Path, sound: Path, serve: Serve, batches: dict[int, list[int]]
) -> None:
    first, second, third = (machine_bundle(small_bundle, site.folder, d_max) for d_max in (7.0, 9.0, 11.0))
    play = f'input = "{sound}"\nloop = true\n'
    site.write(f'{play}bundle = "{first}"', f'{play}bundle = "{second}"')
    service, records = serve()
    site.until(lambda: len(records.of("segment", "a")) > 20 and len(records.of("segment", "b")) > 20)
    site.write(f'{play}bundle = "{first}"', f'{play}bundle = "{third}"')
    service.reload()
    site.until(lambda: len(records.of("start", "b")) == 2)
    begun = len(records.of("segment", "a"))
    site.until(lambda: len(records.of("segment", "a")) > begun + 20)
    ends = [one["end_sample"] for one in records.of("segment", "a")]
    assert {later - earlier for earlier, later in pairwise(ends)} == {ends[1] - ends[0]}
    assert len(records.of("start", "a")) == 1
    ends = [one["end_sample"] for one in records.of("segment", "b")]
    assert {later - earlier for earlier, later in pairwise(ends)} == {ends[1] - ends[0]}
    assert len(batches) == 1
    # The last to leave frees the session.
    service.stop("test")
    assert len(service.supervisor.encoders) == 0


def test_a_head_that_fails_ends_only_its_own_machine(
    site: Any, small_bundle: Path, sound: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = machine_bundle(small_bundle, site.folder, 7.0), machine_bundle(small_bundle, site.folder, 9.0)
    score_embeddings, is_broken = Scorer.score_embeddings, list[bool]()

    def scored(scorer: Scorer, z: Float32Array) -> Any:
        if is_broken and scorer.score.d_max == 9.0:
            raise CheckFailed("head: gave a score that is not a number; check it")
        return score_embeddings(scorer, z)

    monkeypatch.setattr(Scorer, "score_embeddings", scored)
    play = f'input = "{sound}"\nloop = true\n'
    site.write(f'{play}bundle = "{good}"', f'{play}bundle = "{bad}"')
    service, records = serve(retry_seconds=0.3)
    site.until(lambda: records.of("segment", "a") and records.of("segment", "b"))
    is_broken.append(True)

    def state(name: str) -> Any:
        return next(one for one in service.status().streams if one.name == name)

    site.until(lambda: state("b").state == "failed")
    assert "not a number" in state("b").reason
    before = len(records.of("segment", "a"))
    site.until(lambda: len(records.of("segment", "a")) > before + 20)
    assert len(records.of("start", "a")) == 1
    is_broken.clear()
    site.until(lambda: state("b").state == "running")
