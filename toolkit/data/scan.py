"""What a data set holds: machines, IDs, counts, rates, lengths, damage and copies.

A scan reports what training would refuse, so it never stops at a bad file.
"""

from __future__ import annotations

import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeasd.runtime.audio.reader import AudioReader, read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.health.clip import clip_states
from edgeasd.toolkit.data.clips import BadFile, Clip, Progress, content_hash
from edgeasd.toolkit.data.layouts import machine_folders
from edgeasd.toolkit.data.tree import sound_beside_clips

SEGMENT_SECONDS = FeatureSettings().sample_count(256) / FeatureSettings().sample_rate
"""A segment of 256 frames, as all presets but those of pretrained encoders have it."""


@dataclass(frozen=True)
class ClipCount:
    """How many clips of an ID share split, label and domain (None if the layout has none)."""

    split: str | None
    label: str
    domain: str | None
    clips: int


@dataclass(frozen=True)
class Lengths:
    """Shortest, median and longest clip, in seconds."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class IdReport:
    """One machine ID; rates, channels and lengths are of its readable clips, as {value: clips}."""

    machine: str
    id: str
    layout: str
    """`plain`, `dcase`, or `mimii` with its noise level."""
    counts: list[ClipCount]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    seconds: Lengths | None


@dataclass(frozen=True)
class ScanReport:
    """Everything a scan found; paths are text, in the form the root was given."""

    root: str
    deep: bool
    ids: list[IdReport]
    damaged: list[tuple[str, str]]
    """(path, reason) of files that are no audio, empty, cut off, or wrongly named or placed."""
    duplicates: list[list[str]]
    """Groups of files with the same bytes."""
    unrecognised: dict[str, int]
    """Folders in no known layout: {path: audio files in it}."""
    set_aside: dict[str, int]
    """Machines with files their layout does not use: {machine: files}."""
    unhealthy: list[tuple[str, str]]
    """(path, health states) of clips whose sound is not to be trusted; known after a deep scan only."""
    notes: list[tuple[str, str]]
    """(path, note) of clips under a false name, or whose length was never written."""
    short: list[tuple[str, float]]
    """(path, seconds) of clips that do not fill a segment of the paper's settings; training leaves them out."""
    no_clips: dict[str, dict[str, int]]
    """Sound that is no clip as it lies: {folder: {suffix: files}}."""
    imports: list[str]
    """Commands that would make clips of it."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, ready for json.dumps."""
        return asdict(self)


@dataclass(frozen=True)
class Sound:
    """What a readable file holds: rate in Hz, channels, length in seconds."""

    rate: int
    channels: int
    seconds: float
    notes: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    """Health states, of a deep look only."""


def scan(root: Path, *, deep: bool = False, progress: Progress | None = None) -> ScanReport:
    """Read every clip's header, with `deep` every sample too, and every file's bytes for duplicates.

    Raises InputError for a missing root, a link that leaves it, a folder in two layouts, and
    two folders that mean one ID; files, however damaged, only end up in the report.
    """
    found: list[tuple[str, Clip]] = []
    damaged: list[BadFile] = []
    unrecognised: dict[str, int] = {}
    set_aside: dict[str, int] = {}
    for folder in machine_folders(root):
        if folder.layout is None:
            unrecognised[str(folder.path)] = len(folder.names)
            continue
        clips, unfit = folder.read()
        found += [(str(folder.layout_name), clip) for clip in clips]
        damaged += unfit
        if unused := len(folder.names) - len(clips) - len(unfit):
            set_aside[folder.path.name] = set_aside.get(folder.path.name, 0) + unused

    no_clips = {folder: dict(sorted(count.items())) for folder, count in sound_beside_clips(root).items()}
    sounds, hashes, unreadable = _read_all([clip.path for _, clip in found], deep, progress)
    return ScanReport(
        root=str(root),
        deep=deep,
        ids=_id_reports(found, sounds),
        damaged=sorted((str(path), reason) for path, reason in (*damaged, *unreadable)),
        duplicates=_duplicates(hashes),
        unrecognised=unrecognised,
        set_aside=set_aside,
        unhealthy=[(str(path), ", ".join(sound.states)) for path, sound in sounds.items() if sound.states],
        notes=[(str(path), "; ".join(sound.notes)) for path, sound in sounds.items() if sound.notes],
        short=[(str(path), sound.seconds) for path, sound in sounds.items() if sound.seconds < SEGMENT_SECONDS],
        no_clips=no_clips,
        imports=[_import_command(Path(folder), root) for folder in dict.fromkeys((*no_clips, *unrecognised))],
    )


def _import_command(folder: Path, root: Path) -> str:
    """The command that makes clips of what lies in `folder`, with the machine and the ID that its place names."""
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    machine, id = parts[0] if parts else "MACHINE", parts[1] if len(parts) > 1 else "ID"
    label = "anomaly" if parts and parts[-1] in ("anomaly", "abnormal") else "normal"
    words = ["edgeasd", "data", "import", str(folder), "--output", str(root), "--machine", machine, "--id", id]
    return shlex.join([*words, "--label", label])


def inspect_file(path: Path, *, deep: bool = False) -> Sound:
    """Rate, channels and length of one file; raises InputError if it is damaged.

    Shallow, its header is checked against its size by the rules of `AudioReader`; `deep` decodes
    every sample as training would.
    """
    # Any rate and channel count is let through here: a scan reports them, training refuses them.
    reader = AudioReader(path, sample_rate=16_000, channel=None, mix=True, resample=True)
    with closing(reader):
        rate, channels, seconds, notes = reader.sample_rate, reader.channels, reader.seconds, reader.notes
    states = clip_states(read_audio(path, sample_rate=rate, mix=True), rate) if deep else ()
    return Sound(rate, channels, seconds, notes, states)


def _read_all(
    paths: Sequence[Path], deep: bool, progress: Progress | None
) -> tuple[dict[Path, Sound], dict[Path, str], list[BadFile]]:
    sounds: dict[Path, Sound] = {}
    hashes: dict[Path, str] = {}
    bad: list[BadFile] = []
    for done, path in enumerate(paths, start=1):
        try:
            sound, content = inspect_file(path, deep=deep), content_hash(path)
            sounds[path], hashes[path] = sound, content
        except InputError as error:
            bad.append((path, str(error)))
        if progress is not None:
            progress(done, len(paths))
    return sounds, hashes, bad


def _id_reports(found: Sequence[tuple[str, Clip]], sounds: dict[Path, Sound]) -> list[IdReport]:
    groups: defaultdict[tuple[str, str, str], list[Clip]] = defaultdict(list)
    for layout, clip in found:
        groups[clip.machine, clip.id, layout].append(clip)
    reports = []
    for (machine, id, layout), clips in sorted(groups.items()):
        tally = Counter((clip.split, clip.label, clip.domain) for clip in clips)
        readable = [sounds[clip.path] for clip in clips if clip.path in sounds]
        seconds = sorted(sound.seconds for sound in readable)
        reports.append(
            IdReport(
                machine=machine,
                id=id,
                layout=layout,
                counts=[ClipCount(*key, clips=n) for key, n in sorted(tally.items(), key=lambda item: str(item[0]))],
                sample_rates=dict(sorted(Counter(sound.rate for sound in readable).items())),
                channels=dict(sorted(Counter(sound.channels for sound in readable).items())),
                seconds=Lengths(seconds[0], statistics.median(seconds), seconds[-1]) if seconds else None,
            )
        )
    return reports


def _duplicates(hashes: dict[Path, str]) -> list[list[str]]:
    same: defaultdict[str, list[str]] = defaultdict(list)
    for path, content in hashes.items():
        same[content].append(str(path))
    return sorted(sorted(paths) for paths in same.values() if len(paths) > 1)
