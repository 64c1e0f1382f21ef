"""Copies of one recording among training and test clips: found, named, and kept from training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.split import Split

_NAMED = 5

Copy = tuple[Path, Path]
"""(a training clip of the data set, the test clip with the same bytes)."""


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
