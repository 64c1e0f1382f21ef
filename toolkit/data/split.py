"""The split of one machine type into training, hold-out and test clips, by content and a seed; copies across it."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip

_NAMED = 5
Copy = tuple[Path, Path]
"""(a training clip of the data set, the test clip with the same bytes)."""


@dataclass(frozen=True)
class Split:
    """The clips of one ID by role; `train` and `holdout` hold normals only.

    Each list is in order of content, then path, so that a seed means the same batches wherever
    the data set lies.
    """

    train: list[Clip]
    holdout: list[Clip]
    test: list[Clip]


def split_clips(
    clips: Sequence[Clip],
    *,
    seed: int,
    hashes: Mapping[Path, str],
    holdout_fraction: float = 0.15,
    test_fraction: float = 0.2,
) -> dict[str, Split]:
    """The split of one machine type, {ID: Split}, IDs in order.

    Test: what the layout calls test, everything that is not normal, and, where the layout has no
    split, `test_fraction` of the normals. Hold-out: `holdout_fraction` of the remaining normals.
    Fractions count distinct contents; a fraction above 0 takes at least one of two and never
    all. An ID may come out without training clips.

    Raises InputError when one content is labelled both normal and anomaly, ValueError for
    fractions outside [0, 1), more than one machine type or a clip without a hash.
    """
    _check(clips, hashes, holdout_fraction, test_fraction)
    by_id: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda c: (hashes[c.path], c.path.as_posix())):
        by_id[clip.id].append(clip)

    judging = {hashes[clip.path] for clip in clips if clip.split == "test" or clip.label != "normal"}
    drawn_for_test: set[str] = set()
    for of_id in by_id.values():
        free = {hashes[c.path] for c in of_id if c.split is None} - judging
        drawn_for_test |= _draw(free, test_fraction, seed, "test")
    judging |= drawn_for_test

    held_out: set[str] = set()
    for of_id in by_id.values():
        held_out |= _draw({hashes[c.path] for c in of_id} - judging, holdout_fraction, seed, "holdout")

    splits = {}
    for id, of_id in sorted(by_id.items()):
        rest = [c for c in of_id if hashes[c.path] not in judging]
        splits[id] = Split(
            train=[c for c in rest if hashes[c.path] not in held_out],
            holdout=[c for c in rest if hashes[c.path] in held_out],
            test=[c for c in of_id if hashes[c.path] in judging],
        )
    return splits


def share(count: int, fraction: float) -> int:
    """round(fraction * count), halves up; at least 1 of 2 or more, and never all of them."""
    if fraction <= 0 or count < 2:
        return 0
    return min(max(math.floor(fraction * count + 0.5), 1), count - 1)


def _draw(contents: Iterable[str], fraction: float, seed: int, purpose: str) -> set[str]:
    def rank(content: str) -> str:
        return hashlib.sha256(f"{seed}:{purpose}:{content}".encode()).hexdigest()

    ranked = sorted(contents, key=rank)
    return set(ranked[: share(len(ranked), fraction)])


def _check(clips: Sequence[Clip], hashes: Mapping[Path, str], *fractions: float) -> None:
    if not all(0 <= fraction < 1 for fraction in fractions):
        raise ValueError(f"fractions {fractions}: expected 0 <= fraction < 1")
    machines = sorted({clip.machine for clip in clips})
    if len(machines) > 1:
        raise ValueError(f"machines {machines}: split one machine type at a time")
    seen: dict[str, Clip] = {}
    for clip in clips:
        if clip.path not in hashes:
            raise ValueError(f"{clip.path}: no content hash given")
        if clip.label == "unknown":
            continue
        first = seen.setdefault(hashes[clip.path], clip)
        if first.label != clip.label:
            raise InputError(
                f"{first.path} ({first.label}) and {clip.path} ({clip.label}): the same recording "
                "under two labels; remove the wrong one"
            )


def copies_across(clips: Sequence[Clip], splits: Mapping[str, Split], hashes: Mapping[Path, str]) -> list[Copy]:
    """Clips that lie where training clips lie and equal a test clip of `splits` (one machine type), by path.

    Copies within one machine type without a split of its own take the same side and are none of these.
    """
    judging: defaultdict[str, list[Clip]] = defaultdict(list)
    for split in splits.values():
        for clip in split.test:
            judging[hashes[clip.path]].append(clip)
    found = []
    for clip in sorted(clips, key=lambda c: c.path.as_posix()):
        if clip.label != "normal" or clip.split == "test":
            continue
        for judge in judging.get(hashes[clip.path], ()):
            if (judge.machine, judge.split) != (clip.machine, clip.split):
                found.append((clip.path, judge.path))
                break
    return found


def without(splits: Mapping[str, Split], contents: frozenset[str], hashes: Mapping[Path, str]) -> dict[str, Split]:
    """`splits` of a machine type that lends outliers, with `contents` neither trained on nor held out."""

    def rest(clips: list[Clip]) -> list[Clip]:
        return [clip for clip in clips if hashes[clip.path] not in contents]

    return {id: replace(split, train=rest(split.train), holdout=rest(split.holdout)) for id, split in splits.items()}


def describe_copies(copies: Sequence[Copy]) -> str:
    """One line for the user that names the first few."""
    named = ", ".join(f"{trained} = {judging}" for trained, judging in copies[:_NAMED])
    more = f" and {len(copies) - _NAMED} more" if len(copies) > _NAMED else ""
    return f"{len(copies)} training clips are copies of test clips and are not trained on: {named}{more}"
