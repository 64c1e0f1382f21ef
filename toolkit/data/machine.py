"""One machine type for training and evaluation: splits, amplitudes, features."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from edgeasd.runtime.audio.reader import OutOfScale
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.health.clip import is_usable
from edgeasd.runtime.system.files import one_name
from edgeasd.toolkit.data.cache import FeatureCache
from edgeasd.toolkit.data.clips import (
    SKIP,
    BadFile,
    Clip,
    content_hash,
    content_hashes,
    plain_id,
    refuse_bad,
    select_clips,
)
from edgeasd.toolkit.data.ground_truth import label_clips, read_ground_truth
from edgeasd.toolkit.data.layouts import clips_and_unfit
from edgeasd.toolkit.data.outliers import OUTLIERS, SELF, given_outliers, own_outliers
from edgeasd.toolkit.data.split import Copy, Split, copies_across, split_clips, without
from edgeasd.toolkit.progress import ProgressCallback, no_progress

_DATA_SETS = (frozenset({"fan", "pump", "slider", "valve"}), frozenset({"ToyCar", "ToyConveyor"}))
"""MIMII and ToyADMOS: machines recorded alike. Outliers come from the same data set (paper, IV-A)."""

_LOWEST_RATE = 1000
"""What claims less than this many Hz is not resampled, but refused."""

SHORT = "shorter than a segment"
_DOUBTFUL_SHARE = 0.2
"""If more of the normals of an ID are clipped, offset or full of holes, that is how the machine is heard."""
_NAMED = 10

Stage = Callable[[str], AbstractContextManager[ProgressCallback]]
"""Opens a progress report for a named stage of work."""


def _no_stage(_: str) -> AbstractContextManager[ProgressCallback]:
    return nullcontext(no_progress)


@dataclass(frozen=True)
class MachineSplit:
    """The clips of one model: one ID against the rest."""

    normals: list[Clip]
    outliers: list[Clip]
    holdout_normals: list[Clip]
    holdout_outliers: list[Clip]
    test: list[Clip]


@dataclass(frozen=True)
class Unhealthy:
    """Normal clips whose sound is not to be trusted, with their health states."""

    left_out: list[tuple[Clip, tuple[str, ...]]]
    """Neither trained on nor held out."""
    kept: list[tuple[Clip, tuple[str, ...]]]
    """Doubtful, as are so many of their ID that it is the way the machine was recorded."""

    def describe(self) -> list[str]:
        """Lines for the user: how many and why, and the first of them by name."""
        lines = []
        for clips, what in (
            (self.left_out, "left out of training for their sound"),
            (self.kept, "have doubtful sound and are kept, as many of their ID are so; correct the recording"),
        ):
            if not clips:
                continue
            counts = Counter(state for _, states in clips for state in states)
            named = "; ".join(f"{clip.path}: {', '.join(states)}" for clip, states in clips[:_NAMED])
            more = f"; and {len(clips) - _NAMED} more, `edgeasd data scan --deep` lists them" * (len(clips) > _NAMED)
            causes = ", ".join(f"{state} {count}" for state, count in counts.most_common())
            lines.append(f"{len(clips)} normal clips {what} ({causes}): {named}{more}")
        return lines


@dataclass
class MachineData:
    """A machine type of a data set with its neighbours, content hashes, amplitudes and feature cache."""

    root: Path
    machine: str
    splits: dict[str, dict[str, Split]]
    """Machine type -> ID -> split; `machine` itself and the types it takes outliers from."""
    hashes: dict[Path, str]
    amplitudes: dict[str, Amplitude]
    cache: FeatureCache
    bad: list[BadFile] = field(default_factory=list)
    unhealthy: Unhealthy = field(default_factory=lambda: Unhealthy([], []))
    copies: list[Copy] = field(default_factory=list)
    """Training clips that are copies of test clips of the machine type, and so do not train."""
    outliers: str | None = None
    """The folder that lent outliers, or SELF; None for those in the data."""
    short: list[Clip] = field(default_factory=list)
    """Clips that were left out of training because they do not fill a segment."""

    @property
    def ids(self) -> list[str]:
        """IDs of the machine type."""
        return list(self.splits[self.machine])

    @property
    def amplitude(self) -> Amplitude:
        """Amplitude of the machine type."""
        return self.amplitudes[self.machine]

    def split_for(self, id: str) -> MachineSplit:
        """The clips of the model of `id` by role. Raises InputError if the ID is not there."""
        own = self.splits[self.machine]
        if id not in own:
            raise InputError(f"{self.machine}: no ID {id!r} in the data; pass one of: {', '.join(own)}")
        others = [
            split
            for machine, splits in self.splits.items()
            for other, split in splits.items()
            if (machine, other) != (self.machine, id)
        ]
        return MachineSplit(
            normals=own[id].train,
            outliers=[clip for split in others for clip in split.train],
            holdout_normals=own[id].holdout,
            holdout_outliers=[clip for split in others for clip in split.holdout],
            test=own[id].test,
        )

    def trainable(self, id: str, *, alone: bool = False) -> MachineSplit:
        """`split_for`, after a check that there is something to train on; `alone` needs no outliers. Raises InputError."""
        split = self.split_for(id)
        if not split.normals:
            raise InputError(
                f"{self.machine} ID {id}: 0 normal training clips in {self.root}; record some with the machine "
                f"running well into {self.machine}/{id}/normal/, or choose another --id"
            )
        if not split.outliers and not alone:
            raise InputError(
                f"{self.machine} ID {id}: 0 outlier clips in {self.root}; the method needs normal clips of other "
                "IDs or other machines recorded alike, so add at least one more machine"
            )
        return split

    def features(self, clip: Clip) -> Float32Array:
        """Log-mel (T, n_mels) of a clip with its own machine type's amplitude, memory-mapped."""
        return self.cache.features(clip.path, self.hashes[clip.path], self.amplitudes[clip.machine])

    def prepare(self, clips: Iterable[Clip], report: ProgressCallback = no_progress) -> None:
        """Fill the feature cache for `clips`; InputError names clips that cannot be used."""
        wanted = list(clips)
        done = 0
        for machine, amplitude in self.amplitudes.items():
            of_machine = [(clip.path, self.hashes[clip.path]) for clip in wanted if clip.machine == machine]
            before = done
            self.cache.prepare(of_machine, amplitude, lambda n, _, before=before: report(before + n, len(wanted)))  # type: ignore[misc]
            done += len(of_machine)

    def fingerprint(self, split: MachineSplit) -> str:
        """16 hexadecimal digits that change with the content of any training clip or its role."""
        lines = [
            f"{role}:{self.hashes[clip.path]}"
            for role in ("normals", "outliers", "holdout_normals", "holdout_outliers")
            for clip in getattr(split, role)
        ]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def recorded_alike(clips: Sequence[Clip], machine: str) -> list[Clip]:
    """The clips that bear on a model of `machine`: its own, and those of the types that lend it outliers."""
    neighbours = next((group for group in _DATA_SETS if machine in group), None)
    return [clip for clip in clips if clip.machine == machine or neighbours is None or clip.machine in neighbours]


def load_machine(
    root: Path,
    machine: str,
    *,
    cache_folder: Path,
    seed: int,
    holdout_fraction: float,
    test_fraction: float,
    id: str | None = None,
    id_attribute: str | None = None,
    settings: FeatureSettings | None = None,
    follow_recordings: bool = False,
    as_recorded: bool = False,
    channel: int | None = None,
    ground_truth: Path | None = None,
    skip_bad: bool = False,
    keep_unhealthy: bool = False,
    segment_frames: int | None = None,
    outliers: str | None = None,
    bad_remedy: str = SKIP,
    stage: Stage = _no_stage,
) -> MachineData:
    """Find, hash, check and split the clips of `machine` and of the types that lend it outliers.

    `channel`, counted from 0, is the one used of clips with several; `ground_truth` is a folder of
    lists that label the machine's unlabelled test clips. `as_recorded` leaves samples at the level they have, as
    pretrained encoders take them, in place of the mean and deviation of each machine type. Every file is decoded once
    (its amplitude statistics are cached by content). With `follow_recordings`, clips of a lower rate than `settings`
    asks for are resampled, and `.cache.settings` says so (see `recorded_rate_of`). Raises InputError that names files
    that cannot be used, whose name or place does not fit included, unless `skip_bad`; those are then in `.bad`.
    `outliers` is a folder with other sound, or SELF for what is made of the machine's normals. Normals whose sound is not to be trusted are left out unless `keep_unhealthy`; see `.unhealthy`. With `segment_frames`,
    clips that do not fill so many frames are left out as well. Clips that only judge a model stay.
    """
    machine = one_name(machine)
    found, unfit = clips_and_unfit(root, id_attribute=id_attribute)
    if not skip_bad:
        refuse_bad(unfit, len(found) + len(unfit), bad_remedy)
    select_clips(found, machine=machine, id=id)  # refuses, before hours of reading, what is not there
    if ground_truth is not None:
        found = label_clips(found, machine, read_ground_truth(ground_truth, machine), ground_truth)
    clips = recorded_alike(found, machine)
    with stage("hashing clips") as report:
        hashes, unreadable = content_hashes([c.path for c in clips], progress=report, skip_bad=True)
    features = settings or FeatureSettings()
    if follow_recordings:
        recorded = recorded_rate_of([c.path for c in clips if c.path in hashes], features.sample_rate)
        features = FeatureSettings.model_validate({**features.model_dump(), "recorded_rate": recorded})
    if outliers not in (None, SELF):
        given = given_outliers(
            Path(outliers), [clip for clip in clips if clip.machine == machine], features, cache_folder
        )
        hashes |= {clip.path: content_hash(clip.path) for clip in given}
        clips = [*clips, *given]
    cache = FeatureCache(cache_folder, features, channel)
    with stage("reading clips") as report:
        bad = list(unreadable)
        of_other_scale: list[Clip] = []
        _measure(cache, [c for c in clips if c.path in hashes], hashes, bad, of_other_scale, report)
    if not skip_bad:
        refuse_bad(bad, len(clips), bad_remedy)
    refused = {path for path, _ in bad} | {clip.path for clip in of_other_scale}
    normals_before = clips
    clips = [clip for clip in clips if clip.path not in refused]
    unhealthy = Unhealthy([(clip, ("out_of_scale",)) for clip in of_other_scale], [])
    short: list[Clip] = []
    if segment_frames is not None:
        short = _short_clips(clips, features, segment_frames)
        unhealthy.left_out.extend((clip, (SHORT,)) for clip in short)
        _refuse_none_left(normals_before, {clip.path for clip in short}, machine, id and plain_id(id), unhealthy)
        clips = [clip for clip in clips if clip not in short]
    if not keep_unhealthy:
        _find_unhealthy(clips, {c.path: cache.clip_states(c.path, hashes[c.path]) for c in clips}, unhealthy)
        refused = {clip.path for clip, _ in unhealthy.left_out}
        _refuse_none_left(normals_before, refused, machine, None if id is None else plain_id(id), unhealthy)
        clips = [clip for clip in clips if clip.path not in refused]
    splits = {}
    for kind in sorted({clip.machine for clip in clips}):
        splits[kind] = split_clips(
            [clip for clip in clips if clip.machine == kind],
            seed=seed,
            hashes=hashes,
            holdout_fraction=holdout_fraction,
            test_fraction=0.0 if kind == OUTLIERS else test_fraction,
        )
    if outliers == SELF:
        with stage("making outliers") as report:
            splits[OUTLIERS] = own_outliers(splits[machine], hashes, features, channel, cache_folder, seed, report)
    copies = copies_across(clips, splits.get(machine, {}), hashes)
    judging = frozenset(hashes[path] for _, path in copies)
    splits = {kind: split if kind == machine else without(split, judging, hashes) for kind, split in splits.items()}
    amplitudes = {}
    for kind in splits:
        normals = [(clip.path, hashes[clip.path]) for split in splits[kind].values() for clip in split.train]
        if normals:
            measured = cache.amplitude(normals)  # refuses silence
            amplitudes[kind] = Amplitude() if as_recorded else measured
    if outliers == SELF and machine in amplitudes:
        amplitudes[OUTLIERS] = amplitudes[machine]  # they are the machine's own sound
    if machine not in amplitudes:
        raise InputError(f"{machine}: 0 normal training clips in {root}; record some with the machine running well")
    splits = {kind: split for kind, split in splits.items() if kind in amplitudes}
    return MachineData(
        Path(root), machine, splits, hashes, amplitudes, cache, unfit + bad, unhealthy, copies, outliers, short
    )


def _short_clips(clips: list[Clip], features: FeatureSettings, segment_frames: int) -> list[Clip]:
    """Clips for training that do not fill a segment."""
    needed = features.sample_count(segment_frames) / features.sample_rate
    found = []
    for clip in clips:
        if clip.split != "test":
            sound = soundfile.info(clip.path)
            # Whole samples of a resampled clip: one fewer is no shorter clip.
            if sound.frames + 1 < needed * sound.samplerate:
                found.append(clip)
    return found


def _find_unhealthy(clips: list[Clip], states: Mapping[Path, tuple[str, ...]], found: Unhealthy) -> None:
    """Add clips that cannot be used to `found`, and doubtful ones that are the exception among normals of their ID."""
    of_id: defaultdict[tuple[str, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.label == "normal" and clip.split != "test":
            of_id[clip.machine, clip.id].append(clip)
    for normals in of_id.values():
        found.left_out.extend((clip, states[clip.path]) for clip in normals if not is_usable(states[clip.path]))
        usable = [clip for clip in normals if is_usable(states[clip.path])]
        doubtful = [(clip, states[clip.path]) for clip in usable if states[clip.path]]
        rare = len(doubtful) <= _DOUBTFUL_SHARE * len(usable)
        (found.left_out if rare else found.kept).extend(doubtful)


def _refuse_none_left(clips: list[Clip], refused: set[Path], machine: str, id: str | None, found: Unhealthy) -> None:
    normals = [
        clip
        for clip in clips
        if clip.machine == machine and clip.label == "normal" and clip.split != "test" and id in (None, clip.id)
    ]
    if normals and all(clip.path in refused for clip in normals):
        raise InputError(
            f"{machine}{f' ID {id}' if id else ''}: none of its {len(normals)} normal clips is fit to be learned from: "
            f"{'; '.join(found.describe())}; record them again, or pass --keep-unhealthy, or --tile for short ones"
        )


def recorded_rate_of(paths: Iterable[Path], sample_rate: int) -> int | None:
    """The rate in Hz that most of the files have, if it is below `sample_rate`; otherwise None.

    One rate for all clips: a few that hold more than the rest would be told apart by that alone.
    """
    rates: Counter[int] = Counter()
    for path in paths:
        try:
            rates[soundfile.info(path).samplerate] += 1
        except (soundfile.SoundFileError, OSError):
            continue  # is named when its samples are read
    if not rates:
        return None
    commonest = rates.most_common(1)[0][0]
    return commonest if _LOWEST_RATE <= commonest < sample_rate else None


def _measure(
    cache: FeatureCache,
    clips: list[Clip],
    hashes: dict[Path, str],
    bad: list[BadFile],
    of_other_scale: list[Clip],
    report: ProgressCallback,
) -> None:
    """Decode every clip once. Those that cannot be used go to `bad`, normals on another scale to `of_other_scale`."""
    for done, clip in enumerate(clips, start=1):
        try:
            cache.clip_statistics(clip.path, hashes[clip.path])
            cache.clip_states(clip.path, hashes[clip.path])
        except OutOfScale as error:
            if clip.label == "normal" and clip.split != "test":
                of_other_scale.append(clip)
            else:
                bad.append((clip.path, str(error)))
        except InputError as error:
            bad.append((clip.path, str(error)))
        report(done, len(clips))
