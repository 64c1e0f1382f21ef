"""Labelled validation clips: they choose α, and neither train nor judge the model it is chosen for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip, Label
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.data.offered import offered_hashes, path_lines
from edgeasd.toolkit.data.tree import audio_files

_LABELS: tuple[Label, Label] = ("normal", "anomaly")


@dataclass(frozen=True)
class ValidationClips:
    """Distinct recordings with a label each."""

    clips: list[Clip]
    contents: list[str]
    """SHA-256 of each, in the same order."""

    def count(self, label: Label) -> int:
        """How many have that label."""
        return sum(clip.label == label for clip in self.clips)


def validation_clips(
    data: MachineData, id: str, source: Path, known_anomalies: Collection[str] = ()
) -> ValidationClips:
    """The validation clips in `source` for the model of `id`; `data` learns their hashes.

    `source` is a folder with normal/ and anomaly/, or a text file with one path a line, relative to the list or
    to the data root, whose labels are in the data set. Copies of one recording count once. Raises InputError for a
    source that is neither, a clip without a label, one that has two labels, one that trains the model (a normal,
    an outlier, or one of `known_anomalies`, by content), and where a class has no clip.
    """
    labelled = _of_folder(source) if source.is_dir() else None
    paths = _listed(source, data.root) if labelled is None else list(labelled)
    hashes = offered_hashes(paths, source, "--clips")
    known = _known(data)
    if labelled is None:
        labelled = {path: _told(path, known.get(hashes[path]), data, id) for path in paths}
    data.hashes.update(hashes)
    _refuse_training_clips(data, id, labelled, known_anomalies)
    for path, label in labelled.items():
        known_label = known[hashes[path]].label if hashes[path] in known else "unknown"
        if known_label not in (label, "unknown"):
            raise InputError(f"{path}: is {label} here and {known_label} in {data.root}; remove the wrong one")
    distinct: dict[str, Clip] = {}
    for path, label in labelled.items():
        first = distinct.setdefault(hashes[path], Clip(path, data.machine, id, label))
        if first.label != label:
            raise InputError(
                f"{first.path} ({first.label}) and {path} ({label}): the same recording under two labels; "
                "remove the wrong one"
            )
    found = ValidationClips(list(distinct.values()), list(distinct))
    for label in _LABELS:
        if not found.count(label):
            raise InputError(
                f"--clips {source}: 0 {label} clips of {len(found.clips)}; α is chosen on both kinds, add some"
            )
    return found


def _of_folder(source: Path) -> dict[Path, Label]:
    missing = [label for label in _LABELS if not (source / label).is_dir()]
    if missing:
        raise InputError(
            f"--clips {source}: has no folder {missing[0]}/; name a folder with normal/ and anomaly/, or a list of paths"
        )
    return {path: label for label in _LABELS for path in sorted(audio_files(source / label, source))}


def _listed(source: Path, root: Path) -> list[Path]:
    return [_found(line, source, root) for line in path_lines(source, "--clips")]


def _found(line: str, source: Path, root: Path) -> Path:
    beside = source.parent / line
    return beside if beside.exists() else root / line


def _known(data: MachineData) -> dict[str, Clip]:
    """What the data set says of every content of the machine type."""
    return {
        data.hashes[clip.path]: clip
        for split in data.splits[data.machine].values()
        for clip in (*split.train, *split.holdout, *split.test)
    }


def _told(path: Path, clip: Clip | None, data: MachineData, id: str) -> Label:
    if clip is None:
        raise InputError(
            f"{path}: not a clip of {data.machine} in {data.root}, so it has no label; list clips of the data root, "
            "or name a folder with normal/ and anomaly/"
        )
    if clip.id != id:
        raise InputError(f"{path}: is of {data.machine} ID {clip.id}, α is chosen for ID {id}; leave it out")
    if clip.label == "unknown":
        raise InputError(f"{path}: has no label; pass --ground-truth with the published ones, or leave it out")
    return clip.label


def _refuse_training_clips(
    data: MachineData, id: str, labelled: Mapping[Path, Label], known_anomalies: Collection[str]
) -> None:
    split = data.split_for(id)
    training = {data.hashes[clip.path]: "a training normal" for clip in split.normals}
    training |= {data.hashes[clip.path]: "an outlier in training" for clip in split.outliers}
    training |= dict.fromkeys(known_anomalies, "a known anomaly that the model was updated with")
    for path in labelled:
        use = training.get(data.hashes[path])
        if use is not None:
            raise InputError(
                f"{path}: the same recording is {use}; α is chosen on clips the model has not seen, leave it out"
            )
