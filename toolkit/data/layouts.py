"""The layouts of a data set's folders: which there are, and the clips that each holds.

- field: <root>/<machine>/<id>/{normal,anomaly}/*.{wav,flac}, no split, no domains. MIMII's own folders have the
  same shape (`fan/id_00/abnormal/00000001.wav`) and are read as well.
- DCASE sections: see dcase.py.

Folders that data sets put around the machines' folders are looked into:

    6_dB_fan/fan/id_00/abnormal/00000000.wav     MIMII: one folder for each noise level and machine
    dev_data/fan/train/normal_id_00_00000000.wav DCASE: development here, evaluation in eval_data
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.files import one_name
from edgeasd.toolkit.data.clips import REPAIR, BadFile, Clip, Label, plain_id, refuse_bad
from edgeasd.toolkit.data.dcase import SectionLayout
from edgeasd.toolkit.data.tree import audio_files, visible_folders

_OF_DCASE = frozenset({"dev_data", "eval_data", "raw"})
_OF_MIMII = re.compile(r"(?P<level>-?[0-9]+)_?dB(?:_.+)?", re.IGNORECASE)
_LABEL_FOLDERS: dict[str, Label] = {"normal": "normal", "anomaly": "anomaly", "abnormal": "anomaly"}
_Entry = tuple[Path, "str | None", "MachineFolder | None"]
"""A folder that may be a machine's, the noise level above it, and its content if that is known."""


def is_wrapper(name: str) -> bool:
    """Whether a folder of this name may hold machines' folders instead of being one."""
    return name in _OF_DCASE or noise_level(name) is not None


def noise_level(name: str) -> str | None:
    """`6_dB_fan` and `6dB` give "6 dB", the level of machine over factory noise; other names give None."""
    match = _OF_MIMII.fullmatch(name)
    return f"{int(match['level'])} dB" if match else None


class PlainLayout:
    """Reads the field layout; an ID is the name of its folder, without a leading `id_`."""

    name = "plain"
    form = "<machine>/<id>/{normal,anomaly}/*.{wav,flac}"

    def matches(self, names: Sequence[PurePath]) -> bool:
        """Whether any audio file, named relative to the machine's folder, lies in a label folder."""
        return any(len(name.parts) == 3 and name.parts[1] in _LABEL_FOLDERS for name in names)

    def read(self, folder: Path, name: PurePath, id_attribute: str | None) -> Clip:
        """The clip at `folder / name`, where `folder` is the machine's.

        Raises InputError for a file outside the label folders, and for an `id_attribute`: names
        in this layout are free, so there is none to take.
        """
        path = folder / name
        if id_attribute is not None:
            raise InputError(f"{path}: the plain layout names no attribute {id_attribute!r}; drop id_attribute")
        if len(name.parts) != 3 or name.parts[1] not in _LABEL_FOLDERS:
            raise InputError(f"{path}: lies outside {self.form}; move it into a normal or anomaly folder")
        id_folder, label_folder, _ = name.parts
        return Clip(path, one_name(folder.name), plain_id(id_folder), _LABEL_FOLDERS[label_folder])


class Layout(Protocol):
    """How one family of data sets names its files; reads names only, never the sound."""

    @property
    def name(self) -> str:
        """One word for reports."""

    @property
    def form(self) -> str:
        """The expected path, for error messages."""

    def matches(self, names: Sequence[PurePath]) -> bool:
        """Whether the audio files of a machine's folder, named relative to it, are in this layout."""

    def read(self, folder: Path, name: PurePath, id_attribute: str | None) -> Clip | None:
        """The clip at `folder / name`, None for a file the layout sets aside.

        Raises InputError for a name that is not in this layout.
        """


LAYOUTS: tuple[Layout, ...] = (PlainLayout(), SectionLayout())


@dataclass(frozen=True)
class MachineFolder:
    """The audio files of one folder below the root; `layout` is None if no layout is recognised."""

    path: Path
    layout: Layout | None
    names: tuple[PurePath, ...]
    """Relative to `path`, in order."""
    level: str | None = None
    """Noise level of MIMII ("6 dB") if a folder around this one names it."""

    @property
    def layout_name(self) -> str | None:
        """For reports: `plain`, `dcase`, or `mimii 6 dB`."""
        if self.layout is None:
            return None
        return self.layout.name if self.level is None else f"mimii {self.level}"

    def read(self, id_attribute: str | None = None) -> tuple[list[Clip], list[BadFile]]:
        """(clips in order, files whose place or name does not fit the layout).

        Raises InputError when two ID folders mean the same ID.
        """
        clips: list[Clip] = []
        bad: list[BadFile] = []
        if self.layout is not None:
            for name in self.names:
                try:
                    clip = self.layout.read(self.path, name, id_attribute)
                    if clip is not None:
                        clips.append(clip)
                except InputError as error:
                    bad.append((self.path / name, str(error)))
        self._refuse_shared_ids(clips)
        return sorted(clips, key=lambda clip: (clip.id, clip.path.as_posix())), bad

    def _refuse_shared_ids(self, clips: Sequence[Clip]) -> None:
        folders: defaultdict[str, set[str]] = defaultdict(set)
        for clip in clips:
            if clip.split is None:
                folders[clip.id].add(clip.path.relative_to(self.path).parts[0])
        for id, names in sorted(folders.items()):
            if len(names) > 1:
                both = " and ".join(sorted(names))
                raise InputError(f"{self.path}: the folders {both} both mean ID {id}; merge or rename one")


def machine_folders(root: Path, machine: str | None = None) -> list[MachineFolder]:
    """Every folder below `root` that holds audio files, or the one called `machine`, in order of name.

    Raises InputError for a missing root, a link that leaves it, an unknown machine (with those
    present), and a folder that is in two layouts at once.
    """
    root = Path(root)
    if not root.is_dir():
        kind = "not a folder" if root.exists() else "no such folder"
        raise InputError(f"{root}: {kind}; pass the folder that holds the machines' folders")
    found = _below(root, root, None)
    if machine is not None:
        present = ", ".join(dict.fromkeys(path.name for path, _, _ in found)) or "no folders at all"
        found = [entry for entry in found if one_name(entry[0].name) == one_name(machine)]
        if not found:
            raise InputError(f"{root}: no machine {machine!r}; present: {present}")
    inspected = [known or _inspect(path, root, level) for path, level, known in found]
    return [folder for folder in inspected if folder.names]


def _below(folder: Path, root: Path, level: str | None) -> list[_Entry]:
    """The machines' folders in `folder`, those inside folders around them included."""
    found: list[_Entry] = []
    for path in visible_folders(folder, root):
        inspected = _inspect(path, root, level) if is_wrapper(path.name) else None
        if inspected is None or inspected.layout is not None:
            found.append((path, level, inspected))
            continue
        found += _below(path, root, noise_level(path.name) or level)
        beside = tuple(name for name in inspected.names if len(name.parts) == 1)
        if beside:
            found.append((path, level, MachineFolder(path, None, beside)))
    return found


def find_clips(root: Path, *, machine: str | None = None, id_attribute: str | None = None) -> list[Clip]:
    """`clips_and_unfit`, with one InputError that names files whose name or place does not fit."""
    clips, bad = clips_and_unfit(root, machine=machine, id_attribute=id_attribute)
    refuse_bad(bad, len(clips) + len(bad), REPAIR)
    return clips


def clips_and_unfit(
    root: Path, *, machine: str | None = None, id_attribute: str | None = None
) -> tuple[list[Clip], list[BadFile]]:
    """Every clip below `root`, or of one machine type, sorted by machine, ID and path; and files that are none.

    Each machine's folder is in the field layout or the DCASE section layout, below the root or in a folder
    around it; folders in neither layout are left out, and `scan` lists them. `id_attribute` is what an ID is in
    the section layout: "section" or an attribute's name; by default the table in `dcase`. No sound is read. Raises InputError if nothing is recognised, and for several
    noise levels of MIMII at once.
    """
    root = Path(root)
    found = machine_folders(root, machine)
    recognised = [folder for folder in found if folder.layout is not None]
    if not recognised:
        raise _nothing_recognised(root, machine)
    _refuse_mixed_levels(root, recognised)
    clips: list[Clip] = []
    bad: list[BadFile] = []
    for folder in recognised:
        of_folder, unfit = folder.read(id_attribute)
        clips += of_folder
        bad += unfit
    return sorted(clips, key=lambda clip: (clip.machine, clip.id, clip.path.as_posix())), bad


def _refuse_mixed_levels(root: Path, folders: Sequence[MachineFolder]) -> None:
    levels = {folder.level: folder.path.parent for folder in folders if folder.level is not None}
    if len(levels) > 1:
        listed = ", ".join(f"{level} ({path})" for level, path in levels.items())
        raise InputError(
            f"{root}: {len(levels)} noise levels: {listed}; they are the same machines in other noise, "
            "so move each level to a root of its own and pass one of them"
        )


def _inspect(folder: Path, root: Path, level: str | None = None) -> MachineFolder:
    names = tuple(path.relative_to(folder) for path in audio_files(folder, root))
    matching = [layout for layout in LAYOUTS if layout.matches(names)]
    if len(matching) > 1:
        forms = " and ".join(layout.form for layout in matching)
        raise InputError(f"{folder}: mixes the layouts {forms}; move one of them to a root of its own")
    return MachineFolder(folder, matching[0] if matching else None, names, level)


def _nothing_recognised(root: Path, machine: str | None) -> InputError:
    forms = " or ".join(layout.form for layout in LAYOUTS)
    if (missing := _missing_folder(root)) is not None:
        return InputError(f"{missing}; expected {LAYOUTS[0].form}")
    if machine is None and _inspect(root, root).layout is not None:
        remedy = f"this looks like one machine's folder: pass its parent, {root.resolve().parent}"
    else:
        remedy = f"expected {forms}"
    return InputError(f"{root / machine if machine else root}: no clips in a known layout; {remedy}")


def _missing_folder(root: Path) -> str | None:
    """Which level of the folders is missing, with the move that adds it; None if the tree is not of that kind."""
    labels = {"normal", "anomaly", "abnormal"}
    names = [path.relative_to(root) for path in audio_files(root, root)]
    for parts in (name.parts for name in names):
        if len(parts) == 2 and parts[0] in labels:
            return (
                f"{root}: the folders of machine type and ID are missing above {parts[0]}/; "
                f"move it to {root / 'MACHINE' / '00' / parts[0]}"
            )
        # A folder that is called as an ID has its machine's folder above it: the root is one machine's.
        if len(parts) == 3 and parts[1] in labels and not parts[0].removeprefix("id_").isdecimal():
            return (
                f"{root / parts[0]}: the ID folder is missing above {parts[1]}/; "
                f"move it to {root / parts[0] / '00' / parts[1]}"
            )
    if names and all(len(name.parts) == 3 and name.parts[1].isdecimal() for name in names):
        place = root / names[0].parent
        return f"{place}: the folder normal/ is missing; move its clips to {place / 'normal'}"
    return None
