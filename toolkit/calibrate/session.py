"""One calibration of a bundle from start to end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeasd.calibration.fit.amplitude import with_amplitude
from edgeasd.calibration.fit.clips import split_calibration_clips
from edgeasd.calibration.fit.deploy import SegmentOutputs, clip_scores
from edgeasd.calibration.fit.levels import ON_SITE_DB, TRAINING_DB, clip_levels, expected_levels, outside
from edgeasd.calibration.fit.profile import ClipSound, clip_sound, mode_of, mode_profiles, sound_profile
from edgeasd.calibration.fit.refit import refit_constants
from edgeasd.export.bundle_update import BundleChanges, stored_record, update_bundle
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude
from edgeasd.runtime.health.settings import LevelRange
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.states import ModeProfile
from edgeasd.toolkit.calibrate.clips import (
    CalibrationClip,
    ClipFiles,
    ClipSet,
    compare_with_machine,
    distinct,
    named,
    normal_files,
    prepare_clip_set,
)
from edgeasd.toolkit.calibrate.outputs import Fp32Outputs
from edgeasd.toolkit.calibrate.record import Calibration, calibration_record, provenance
from edgeasd.toolkit.calibrate.request import Request, state_folder
from edgeasd.toolkit.calibrate.thresholds import KEPT, ThresholdResult, find_threshold
from edgeasd.toolkit.calibrate.variants import VariantMaker, VariantResult
from edgeasd.toolkit.calibrate.work import Work
from edgeasd.toolkit.data.cache import FeatureCache, read_clip
from edgeasd.toolkit.data.offered import offered_files
from edgeasd.toolkit.progress import ProgressCallback


@dataclass
class _Session:
    """State of one calibration."""

    bundle: Bundle
    request: Request
    work: Work
    cache: FeatureCache
    state: Path
    warnings: list[str] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest


def calibrate_bundle(path: Path, request: Request, cache_folder: Path, workspace: Path, work: Work) -> Calibration:
    """Calibrate the bundle folder `path` with the clips of `request`, and write what passed into it.

    Work done so far is kept below <workspace>/cache/calibrate/ and taken up by a later call; it is deleted at
    the end. The same bundle, clips and request give the same bytes. Raises InputError or BundleError for clips
    and bundles that cannot be used, CheckFailed if the bundle cannot be calibrated with them; until the last
    moment the bundle stays as it was.
    """
    with Bundle(path) as bundle:
        bundle.verify_files()
        before = (path / MANIFEST).read_bytes()
        cache = FeatureCache(cache_folder, bundle.manifest.features, _channel(request, bundle.manifest))
        session = _Session(bundle, request, work, cache, state_folder(workspace, before))
        found = _calibrate(session, before)
    shutil.rmtree(session.state, ignore_errors=True)
    return found


def forget_state(path: Path, workspace: Path) -> None:
    """Delete the state of an interrupted calibration of this bundle, so that the next starts over."""
    shutil.rmtree(state_folder(workspace, (path / MANIFEST).read_bytes()), ignore_errors=True)


def _channel(request: Request, manifest: Manifest) -> int | None:
    if request.channel is not None:
        return request.channel
    known = manifest.provenance.get("channel")
    return known if isinstance(known, int) else None


def _calibrate(session: _Session, before: bytes) -> Calibration:
    request, manifest, work = session.request, session.manifest, session.work
    request.check()
    if request.precisions and manifest.network.parameters == 0:
        raise InputError(
            f"--precision {','.join(request.precisions)}: {manifest.network.backbone} has no weights to round; "
            "pass --precision none to find constants and threshold again"
        )
    with work.part("reading clips") as report:
        files = normal_files(request.clips, report, request.files)
        faults = _anomaly_files(request, files, report)
    # Before hours of work: too few clips are too few whatever they sound like.
    if request.precisions:
        split_calibration_clips(list(files.paths))
    if files.copies:
        which = "file is a copy of another clip" if files.copies == 1 else "files are copies of other clips"
        session.warnings.append(f"{files.copies} {which}; each recording counts once")
    amplitude = _amplitude(session, files)
    normals = _clip_set(session, files, amplitude, "features of clips")
    anomalies = None if faults is None else _clip_set(session, faults, amplitude, "features of anomalies")
    split = split_calibration_clips([clip.sha256 for clip in normals.clips]) if request.precisions else None

    scorer = _fp32_scorer(session, amplitude)
    encoder = manifest.files[manifest.precisions["fp32"].file].sha256
    outputs = Fp32Outputs(scorer, encoder, normals, session.state)
    with work.part("fp32 scores of clips") as report:
        fp32_outputs = outputs.by_clip(normals.clips, report)
    fault_outputs: list[SegmentOutputs] = []
    if anomalies is not None:
        with work.part("fp32 scores of anomalies") as report:
            fault_outputs = Fp32Outputs(scorer, encoder, anomalies, session.state).by_clip(anomalies.clips, report)
    session.warnings += compare_with_machine(session.bundle, request, normals, fp32_outputs)

    score = _score(session, fp32_outputs, fault_outputs)
    scorer.score = score
    threshold = _threshold(session, score, normals, fp32_outputs, outputs)
    variants: list[VariantResult] = []
    range_segments = 0
    if split is not None:
        maker = VariantMaker(session.bundle, scorer, threshold.threshold.clip, request, session.state, work)
        variants, range_segments = maker.make(normals, split, fp32_outputs, anomalies, fault_outputs)
    sounds = _sounds(session, normals)
    level = _level(session, normals, sounds)
    modes = _modes(session, score, normals, fp32_outputs, outputs, sounds)
    scorer.close()
    found = Calibration(
        bundle=session.bundle.path,
        manifest=manifest,
        written=False,
        request=request,
        normals=normals,
        split=split,
        anomalies=anomalies,
        normal_scores=clip_scores(score, fp32_outputs),
        anomaly_scores=clip_scores(score, fault_outputs),
        score=score,
        threshold=threshold,
        variants=variants,
        level=level,
        sound=sound_profile(sounds),
        modes=modes,
        range_segments=range_segments,
        warnings=session.warnings,
    )
    session.warnings += _drift_of_before(session.manifest, found, amplitude)
    return _write(session, found, before, amplitude)


def _drift_of_before(old: Manifest, found: Calibration, amplitude: Amplitude) -> list[str]:
    """A line about precisions that stay on offer though their drift was measured under what has changed now."""
    if amplitude != old.amplitude:
        changed = "level"
    elif found.score != old.score:
        changed = "d_min and d_max"
    elif old.threshold is None or found.threshold.threshold.clip != old.threshold.clip:
        changed = "threshold"
    else:
        return []
    judged = {"fp32", *(one.name for one in found.variants)}
    marked = [name for name in old.precisions if changed == "level" and name.startswith("int8")]
    kept = [name for name, offer in old.precisions.items() if name not in (*judged, *marked) and not offer.stale]
    if not kept:
        return []
    return [
        f"the drift of {', '.join(kept)} was measured with another {changed}; calibrate with --precision "
        f"{','.join(kept)} to measure it again"
    ]


def _write(session: _Session, found: Calibration, before: bytes, amplitude: Amplitude) -> Calibration:
    old = session.manifest
    changes = BundleChanges(
        variants=[one.made for one in found.variants if one.made is not None],
        refused={one.name: f"failed the drift gate: {'; '.join(one.reasons)}" for one in found.failed},
        score=found.score if found.score != old.score else None,
        threshold=found.threshold.threshold,
        amplitude=amplitude if amplitude != old.amplitude else None,
        level=found.level,
        sound=found.sound,
        modes=found.modes or None,
        provenance=provenance(found),
    )
    # Where nothing that was asked for passed, what was measured beside it is no reason to touch the bundle.
    asked = replace(changes, level=None, sound=None, modes=None) if found.failed else changes
    if asked.is_empty(old):
        return found
    record = calibration_record(found, _earlier(session.bundle))
    manifest = update_bundle(session.bundle.path, before, changes, record, session.work.step)
    return replace(found, manifest=manifest, written=True)


def _earlier(bundle: Bundle) -> dict[str, Any]:
    """What an earlier calibration found of each precision."""
    raw = stored_record(bundle).get("calibration", {})
    variants = raw.get("variants") if isinstance(raw, dict) else None
    return variants if isinstance(variants, dict) else {}


def _anomaly_files(request: Request, normals: ClipFiles, report: ProgressCallback) -> ClipFiles | None:
    if request.anomalies is None:
        return None
    source = request.anomalies
    root = source if source.is_dir() else source.parent
    found = distinct(offered_files(source, "--anomalies"), root, report)
    for content, path in found.paths.items():
        if content in normals.paths:
            raise InputError(
                f"{path} (anomaly) and {normals.paths[content]} (normal): the same recording under two labels; "
                "remove the wrong one"
            )
    return found


def _amplitude(session: _Session, files: ClipFiles) -> Amplitude:
    if not session.request.refit_amplitude:
        return session.manifest.amplitude
    with session.work.part("level of clips") as report:
        pairs = [(path, content) for content, path in files.paths.items()]
        found = session.cache.amplitude(pairs, report, skip_bad=session.request.skip_bad)
    return found.model_copy(update={"scope": f"{len(pairs)} normal clips given to calibrate"})


def _sounds(session: _Session, normals: ClipSet) -> list[ClipSound]:
    """Level and spectrum of each clip."""
    cache, found = session.cache, []
    with session.work.part("levels of clips") as report:
        for done, clip in enumerate(normals.clips, start=1):
            rate = cache.settings.sample_rate
            levels = clip_levels(read_clip(clip.path, cache.settings, cache.channel), rate)
            found.append(clip_sound(normals.features(clip), levels, cache.settings, normals.amplitude))
            report(done, len(normals.clips))
    return found


def _modes(
    session: _Session,
    score: ScoreSettings,
    normals: ClipSet,
    fp32_outputs: Sequence[SegmentOutputs],
    outputs: Fp32Outputs,
    sounds: Sequence[ClipSound],
) -> dict[str, ModeProfile]:
    """Sound, distances and threshold of each mode that the names of the clips say; by name.

    The threshold of a mode is found as that of the bundle would be from its clips alone.
    """
    names = [mode_of(clip.path) for clip in normals.clips]
    profiles = mode_profiles({name: [s for s, n in zip(sounds, names, strict=True) if n == name] for name in {*names}})
    missing = sorted({name for name in names if name is not None} - set(profiles))
    if missing:
        session.warnings.append(f"mode {', '.join(missing)}: less than a minute of sound, so it is no mode of its own")
    found = {}
    for mode, profile in profiles.items():
        rows = [index for index, name in enumerate(names) if name == mode]
        clips = replace(normals, clips=tuple(normals.clips[index] for index in rows))
        of_mode = [fp32_outputs[index] for index in rows]
        own = refit_constants(score, of_mode)

        def live(recordings: Sequence[Sequence[CalibrationClip]], mode: str = mode) -> list[SegmentOutputs]:
            with session.work.part(f"live scores of mode {mode}") as report:
                return outputs.live(recordings, report)

        request = replace(session.request.threshold, keep=False)
        threshold = find_threshold(request, None, own, clips, of_mode, live, session.manifest.segments).threshold
        found[mode] = ModeProfile(sound=profile, threshold=threshold, d_min=own.d_min, d_max=own.d_max)
    return found


def _level(session: _Session, normals: ClipSet, sounds: Sequence[ClipSound]) -> LevelRange | None:
    """The level range of the clips; None if they are too short together, or if the range was set by hand."""
    old = session.manifest.level
    if old is not None and not old.measured:
        session.warnings.append("the level range of the bundle was set by hand and stays")
        return None
    levels = [one.levels for one in sounds]
    margin = ON_SITE_DB if session.request.files is None else TRAINING_DB
    found = expected_levels(levels, sum(normals.seconds(clip) for clip in normals.clips), margin)
    if found is not None and (odd := [c for c, one in zip(normals.clips, levels, strict=True) if outside(one, found)]):
        lie = "1 clip lies" if len(odd) == 1 else f"{len(odd)} clips lie"
        session.warnings.append(f"{lie} outside the level range ({found.found_by}): {named(odd)}; listen to them")
    return found


def _clip_set(session: _Session, files: ClipFiles, amplitude: Amplitude, label: str) -> ClipSet:
    request = session.request
    with session.work.part(label) as report:
        clip_set, left_out = prepare_clip_set(
            files, session.cache, amplitude, session.manifest.segments, report, skip_bad=request.skip_bad
        )
    session.warnings += [f"left out: {line}" for line in left_out]
    return clip_set


def _fp32_scorer(session: _Session, amplitude: Amplitude) -> Scorer:
    if "fp32" not in session.manifest.precisions:
        raise InputError(
            f"{session.bundle.path}: has no fp32 encoder, the reference of all others; export it again with fp32"
        )
    scorer, _ = session.bundle.open_scorer(precision="fp32", engine="onnxruntime")
    return with_amplitude(scorer, amplitude)


def _score(
    session: _Session, fp32_outputs: Sequence[SegmentOutputs], faults: Sequence[SegmentOutputs]
) -> ScoreSettings:
    """New constants where they were asked for, or where a new amplitude moved every distance."""
    request = session.request
    if not (request.refit_distance or request.refit_amplitude):
        return session.manifest.score
    return refit_constants(session.manifest.score, fp32_outputs, anomalies=faults)


def _threshold(
    session: _Session, score: ScoreSettings, normals: ClipSet, fp32_outputs: list[SegmentOutputs], outputs: Fp32Outputs
) -> ThresholdResult:
    def live(recordings: Sequence[Sequence[CalibrationClip]]) -> list[SegmentOutputs]:
        with session.work.part("live scores of recordings") as report:
            return outputs.live(recordings, report)

    request = session.request
    rescaled = request.refit_distance or request.refit_amplitude
    old = None if rescaled else session.manifest.threshold
    found = find_threshold(request.threshold, old, score, normals, fp32_outputs, live, session.manifest.segments)
    if found.method == KEPT and found.threshold.warning:
        session.warnings.append(
            f"the threshold is kept and rests on {found.threshold.clips} clips; --false-positive-rate or "
            f"--alarms-per-day take a new one from those given"
        )
    elif found.threshold.warning:
        session.warnings.append(found.threshold.warning)
    return found
