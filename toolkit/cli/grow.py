"""edgeasd grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, DeviceError, InputError
from edgeasd.toolkit.cli._errors import interruptible, print_error
from edgeasd.toolkit.cli._options import AsJson, ChannelOfRun, SkipBad

if TYPE_CHECKING:
    from edgeasd.export.bank_growth import Growth, NewClip
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.scoring.scorer import Scorer


def grow(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder that is scored by stored normals.")],
    clips: Annotated[list[Path], typer.Argument(help="New normal clips, or folders of them.")],
    channel: ChannelOfRun = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Add new normals to a bundle that compares with stored ones, without training.

    For a state that the machine was not recorded in: another product, a winter, a repair. Of the new clips 15 % stay
    out of the bank, and with them d_min, d_max and the threshold are found again. The bundle is changed in place, at
    the very end and at once.

    Example: edgeasd grow bundles/valve-id_00 winter/
    """
    _require_onnx()
    from edgeasd.export.bank_growth import grow_bundle, read_stored_normals
    from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle
    from edgeasd.toolkit.cli.score import expand

    if bundle.is_file():
        raise InputError(f"{bundle}: is a zip, and grow changes a bundle in place; unpack it into a folder first")
    with interruptible(f"stopped; {bundle} is as it was") as check:
        with Bundle(bundle) as opened:
            opened.verify_files()
            before = (bundle / MANIFEST).read_bytes()
            sections = read_stored_normals(opened).sections
            new = _embedded(opened, list(expand(clips)), sections, channel, skip_bad, check)

        def step(text: str) -> None:
            check()
            print_error(text)

        found = grow_bundle(bundle, before, new, step)
    if as_json:
        print(json.dumps(_facts(bundle, found), indent=2, ensure_ascii=False))
    else:
        _print(bundle, found)
    for line in _warnings(found):
        print_error(f"warning: {line}")


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError:
        raise DeviceError(
            "edgeasd grow needs onnx, which is not installed here; grow the bundle on the workstation, or "
            "pip install 'edgeasd[export]'"
        ) from None


def _embedded(
    bundle: Bundle, paths: list[Path], sections: int, channel: int | None, skip_bad: bool, check: Any
) -> list[NewClip]:
    """The clips behind the fp32 encoder. Raises one InputError that names all that cannot be used."""
    from edgeasd.toolkit.data.clips import refuse_bad
    from edgeasd.toolkit.progress import progress

    known = bundle.manifest.provenance.get("channel")
    heard = channel if channel is not None else known if isinstance(known, int) else None
    scorer, _ = bundle.open_scorer(precision="fp32", engine="onnxruntime")
    found, bad = [], []
    try:
        with progress("new clips") as report:
            for done, path in enumerate(paths, start=1):
                check()
                try:
                    found.append(_embed(scorer, path, sections, heard))
                except InputError as error:
                    bad.append((path, str(error) if str(path) in str(error) else f"{path}: {error}"))
                report(done, len(paths))
    finally:
        scorer.close()
    if skip_bad:
        for _, reason in bad:
            print_error(f"left out: {reason}")
    else:
        refuse_bad(bad, len(paths))
    return found


def _embed(scorer: Scorer, path: Path, sections: int, channel: int | None) -> NewClip:
    import numpy as np

    from edgeasd.calibration.fit.stored_normals import section_starts
    from edgeasd.export.bank_growth import NewClip
    from edgeasd.runtime.features.segments import clip_starts, live_starts, tile
    from edgeasd.runtime.health.clip import clip_states, describe_states
    from edgeasd.toolkit.data.cache import read_clip
    from edgeasd.toolkit.data.clips import content_hash

    sound = read_clip(path, scorer.features, channel)
    if states := clip_states(sound, scorer.features.sample_rate):
        raise InputError(f"{path}: {describe_states(states)}; record it again or leave it out")
    features, length = scorer.extract_features(sound), scorer.segments.frames
    features = features if len(features) >= length else tile(features, length)

    def embed(starts: list[int]) -> np.ndarray:
        return scorer.embed(np.stack([features[start : start + length] for start in starts]))

    stored, whole = (
        embed(section_starts(len(features), length, sections)),
        embed(clip_starts(len(features), scorer.segments)),
    )
    live = embed(live_starts(len(features), scorer.segments))
    if not (np.isfinite(stored).all() and np.isfinite(whole).all()):
        raise CheckFailed(f"{path}: its embedding is not finite; check the bundle with `edgeasd verify`")
    return NewClip(str(path), content_hash(path), stored, whole, live)


def _above(found: Growth) -> list[tuple[str, float, float | None]]:
    """New clips that lay above the old threshold, furthest first."""
    old = found.before.threshold
    return [] if old is None else sorted((one for one in found.scores if one[1] > old.clip), key=lambda one: -one[1])


def _print(bundle: Path, found: Growth) -> None:
    machine, old, new = found.before.machine, found.before, found.after
    print(f"{bundle}: {machine.type} ID {machine.id}, {len(found.scores)} new normal clips")
    sizes = ", ".join(f"{a} → {b}" for a, b in zip(found.banks_before, found.banks_after, strict=True))
    print(f"  stored segments {sizes}; {found.added} clips added, {found.held_out} held out for the constants")
    print(f"  d_min {old.score.d_min:.4g} → {new.score.d_min:.4g}, d_max {old.score.d_max:.4g} → {new.score.d_max:.4g}")
    if new.threshold is None:
        print("  uncalibrated: nothing is held out, so there is no threshold")
    else:
        was = "none" if old.threshold is None else f"{old.threshold.clip:.4f}"
        print(f"  threshold {was} → {new.threshold.clip:.4f} ({new.threshold.found_by}, {new.threshold.clips} clips)")
    before = sorted(one[1] for one in found.scores)
    after = sorted(one[2] for one in found.scores if one[2] is not None)
    now = f"; of those held out {_median(after):.4f} now" if after else ""
    print(f"  score of the new clips: median {_median(before):.4f} before{now}")


def _median(values: list[float]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _warnings(found: Growth) -> list[str]:
    lines, far = [], _above(found)
    if far:
        name, score, _ = far[0]
        old = found.before.threshold
        assert old is not None
        lines.append(
            f"{len(far)} of {len(found.scores)} new clips lay above the old threshold {old.clip:.4f}, furthest {name} "
            f"at {score:.4f}: from now on such sound is normal; be sure that it is"
        )
    if how := found.threshold_no_longer_holds:
        lines.append(
            f"the threshold was calibrated ({how}) and no longer holds with another bank; the new one comes from "
            "held-out normals, calibrate again for the old promise"
        )
    others = [name for name in found.after.precisions if name != "fp32"]
    kept = [name for name in others if name not in found.refused and not found.after.precisions[name].stale]
    if kept:
        lines.append(f"the drift of {', '.join(kept)} was measured with the old bank; calibrate to measure it again")
    lines += [f"{name} is out of use until it is calibrated again: {reason}" for name, reason in found.refused.items()]
    if found.after.threshold is not None and found.after.threshold.warning:
        lines.append(found.after.threshold.warning)
    return lines


def _facts(bundle: Path, found: Growth) -> dict[str, Any]:
    old, new = found.before, found.after
    return {
        "bundle": str(bundle),
        "machine": old.machine.type,
        "id": old.machine.id,
        "added": found.added,
        "held_out": found.held_out,
        "stored_segments": {"before": found.banks_before, "after": found.banks_after},
        "d_min": [old.score.d_min, new.score.d_min],
        "d_max": [old.score.d_max, new.score.d_max],
        "threshold": [one.threshold.clip if one.threshold else None for one in (old, new)],
        "clips": [{"file": name, "before": before, "after": after} for name, before, after in found.scores],
        "recalibrate": found.refused,
        "warnings": _warnings(found),
    }
