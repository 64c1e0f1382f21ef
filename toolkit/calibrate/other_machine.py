"""Whether the given clips are of the machine that the bundle knows, told by their fp32 scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edgeasd.calibration.fit.clips import evidently_another_machine, normal_bounds, strangers
from edgeasd.calibration.fit.deploy import SegmentOutputs, clip_scores
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.toolkit.calibrate.clips import Material, named
from edgeasd.toolkit.calibrate.request import Request


def compare_with_machine(
    bundle: Bundle, request: Request, normals: Material, heard: Sequence[SegmentOutputs]
) -> list[str]:
    """Warnings about clips that score where no normal clip of the bundle did; none where all are as expected.

    `heard` is what fp32 says of each clip. Scores are compared on the scale of the export: a re-fit moved the scores
    of the bundle and not those of the reference. Raises InputError where the clips are evidently of another
    machine, unless the request says `force`.
    """
    reference = normal_reference(bundle)
    if reference is None:
        return ["the bundle has no normal scores to compare the clips with; nothing says that they are of this machine"]
    scale = bundle.manifest.score.model_copy(
        update={"d_min": reference.d_min, "d_max": reference.d_max, "alpha": reference.alpha}
    )
    scores = clip_scores(scale, heard)
    odd = strangers(scores, reference.scores, reference.threshold)
    if not odd:
        return []
    low, high = normal_bounds(reference.scores, reference.threshold)
    # A bundle without a first threshold had nothing held out to take one from.
    of = "normals" if reference.threshold is not None else "training clips"
    told = (
        f"{len(odd)} of {len(scores)} clips score outside {low:.3g} to {high:.3g}, where {of} of this machine lie: "
        f"{named(normals.clips[i] for i in odd)} ({min(scores[i] for i in odd):.3g} to {max(scores[i] for i in odd):.3g})"
    )
    if evidently_another_machine(scores, reference.scores, reference.threshold) and not request.force:
        raise InputError(
            f"--clips {request.clips}: evidently of another machine, or recorded in another way: {told}; "
            "give normal clips of this one, or pass --force"
        )
    return [told]


@dataclass(frozen=True)
class Reference:
    """Clip scores of held-out normals that export wrote into calibration.json, and their scale."""

    d_min: float
    d_max: float
    alpha: float
    scores: tuple[float, ...]
    threshold: float | None


def normal_reference(bundle: Bundle) -> Reference | None:
    """The bundle's own normal clip scores; None where it has none, as with a model without hold-out."""
    place = f"{bundle.path.name}/calibration.json"
    if "calibration.json" not in bundle.manifest.files:
        return None
    try:
        raw = json.loads(bundle.file("calibration.json").read_bytes())
        score = raw["score"]
        scores = tuple(float(one) for one in raw["normal_clip_scores"])
        threshold = None if raw.get("threshold") is None else float(raw["threshold"]["clip"])
        d_min, d_max, alpha = (float(score[name]) for name in ("d_min", "d_max", "alpha"))
        return Reference(d_min, d_max, alpha, scores, threshold) if scores else None
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{place}: holds no normal clip scores ({error!r}); export the bundle again") from None
