"""The dataset inventory: machine types and IDs that an experiment can judge, found by names before any work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import REPAIR, Clip, content_hashes, plain_id, refuse_bad
from edgeasd.toolkit.data.ground_truth import label_clips, read_ground_truth
from edgeasd.toolkit.data.machine import recorded_alike
from edgeasd.toolkit.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class JudgeableMachine:
    """A machine type with the IDs an experiment can judge."""

    machine: str
    ids: list[str]
    left_out: dict[str, str]
    """ID -> why it cannot be judged."""
    clips: list[Clip]
    """All that bear on the machine type, labelled as far as labels are known."""

    def listing(self, root: Path) -> str:
        """16 hexadecimal digits that change with the name, size or label of a clip."""
        lines = [f"{clip.path.relative_to(root).as_posix()} {_size(clip.path)} {clip.label}" for clip in self.clips]
        return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def anomalies(self, id: str) -> list[Path]:
        """The test anomalies of an ID."""
        return [c.path for c in self.clips if (c.machine, c.id, c.label) == (self.machine, id, "anomaly")]


def find_machine(
    clips: Sequence[Clip], machine: str, ids: Sequence[str] | None, ground_truth: Path | None
) -> JudgeableMachine:
    """The IDs of `machine` that can be trained and judged; with `ids` exactly those.

    Raises InputError for a machine or an ID that is not there or, asked for by name, cannot be judged, and
    where none can.
    """
    present = sorted({clip.machine for clip in clips})
    if machine not in present:
        raise InputError(f"--machine {machine}: not in the data; pass one of: {', '.join(present) or 'none present'}")
    if ground_truth is not None and any(c.machine == machine and c.label == "unknown" for c in clips):
        clips = label_clips(clips, machine, read_ground_truth(ground_truth, machine), ground_truth)
    bearing = recorded_alike(clips, machine)
    of_ids: dict[str, list[Clip]] = {}
    for clip in bearing:
        if clip.machine == machine:
            of_ids.setdefault(clip.id, []).append(clip)
    left_out = {id: why for id, of_id in sorted(of_ids.items()) if (why := _unfit(of_id))}
    if ids is None:
        fit = [id for id in sorted(of_ids) if id not in left_out]
        if not fit:
            listed = "; ".join(f"ID {id}: {why}" for id, why in left_out.items())
            raise InputError(f"{machine}: no ID can be judged ({listed}); an AUC needs both kinds of test clip")
        return JudgeableMachine(machine, fit, left_out, bearing)
    wanted = list(dict.fromkeys(plain_id(id) for id in ids))
    for id in wanted:
        if id not in of_ids:
            raise InputError(f"{machine}: no ID {id!r} in the data; pass one of: {', '.join(sorted(of_ids))}")
        if id in left_out:
            raise InputError(f"{machine} ID {id}: {left_out[id]}; the AUC is undefined, choose another --id")
    return JudgeableMachine(machine, wanted, {}, bearing)


def _unfit(clips: Sequence[Clip]) -> str | None:
    """Why an ID cannot be trained and judged, by labels and folders alone."""
    train = sum(clip.label == "normal" and clip.split != "test" for clip in clips)
    own_split = any(clip.split is not None for clip in clips)
    normals = sum(clip.label == "normal" and (clip.split == "test" or not own_split) for clip in clips)
    anomalies = sum(clip.label == "anomaly" for clip in clips)
    unknown = sum(clip.label == "unknown" for clip in clips)
    if not train or (not own_split and train < 2):
        return f"{train} normal training clips"
    if not normals or not anomalies:
        hint = f", {unknown} without a label (see --ground-truth)" if unknown else ""
        return f"{normals if own_split else 'some'} normal and {anomalies} anomalous test clips{hint}"
    return None


def check_most(found: Sequence[JudgeableMachine], most: int, report: ProgressCallback = no_progress) -> None:
    """Every ID must have more different anomalies than are set apart, or none are left to judge by.

    Raises one InputError that names every ID with its count.
    """
    wanted = [(one, id, one.anomalies(id)) for one in found for id in one.ids]
    total, done, short = sum(len(paths) for _, _, paths in wanted), 0, []
    for one, id, paths in wanted:
        hashes, bad = content_hashes(paths, progress=lambda n, _, done=done: report(done + n, total), skip_bad=True)  # type: ignore[misc]
        refuse_bad(bad, len(paths), REPAIR)
        done += len(paths)
        if len(set(hashes.values())) <= most:
            short.append(f"{one.machine} ID {id} has {len(set(hashes.values()))}")
    if short:
        raise InputError(
            f"{most} anomalies are to be set apart for training and at least one must be left to judge by; "
            f"{', '.join(short)}; ask for fewer with --most or --counts"
        )


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a dangling link; reading it will say so
        return -1
