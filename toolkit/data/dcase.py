"""The section layout of DCASE Task 2, 2020 to 2026: everything about a clip is in its file name.

    <machine>/train/section_00_source_train_normal_0001_car_B1_spd_31V_mic_1.flac    since 2021
    <machine>/test/section_00_test_0001.wav, section_00_0001.wav                     unlabelled evaluation
    <machine>/test/anomaly_id_00_00000001.wav                                        2020
    <machine>/target_test/section_00_target_test_normal_0001_strength_1_ambient.wav  2021

After the index come attributes, key and value in turn. A last key without a value has the value "",
and `noAttribute` (machines whose attributes are not disclosed) means none. What lies in
`<machine>/supplemental/` (2025: clean machine sound or noise alone) is no clip of a machine at work,
and `<machine>/test_rename/` holds copies of `test/` that the official baseline makes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import cast

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.files import one_name
from edgeasd.toolkit.data.clips import Clip, Domain, Label, SplitName

_SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "test": "test",
    "source_test": "test",
    "target_test": "test",
}

_SET_ASIDE = ("supplemental", "test_rename")

_SECTION_NAME = re.compile(
    r"section_(?P<section>[0-9]+)"
    r"(?:_(?P<domain>source|target))?"
    r"(?:_(?P<split>train|test))?"
    r"(?:_(?P<label>normal|anomaly))?"
    r"_(?P<index>[0-9]+)"
    r"(?:_(?P<attributes>.+))?"
)
_NAME_OF_2020 = re.compile(r"(?:(?P<label>normal|anomaly)_)?id_(?P<section>[0-9]+)_(?P<index>[0-9]+)")

SECTION = "section"
"""The `id_attribute` that asks for the section itself as the ID."""

MACHINE_ID_ATTRIBUTE = {"ToyCar": "car"}
"""Machine types whose ID is an attribute rather than the section, for names that carry it."""


class SectionLayout:
    """Reads the section layout; the ID is the section, or an attribute if the table or the caller names one."""

    name = "dcase"
    form = "<machine>/{train,test}/section_00_source_train_normal_0001[_key_value...].{wav,flac}"

    def matches(self, names: Sequence[PurePath]) -> bool:
        """Whether any audio file, named relative to the machine's folder, lies directly in a split folder."""
        return any(len(name.parts) == 2 and name.parts[0] in _SPLIT_FOLDERS for name in names)

    def read(self, folder: Path, name: PurePath, id_attribute: str | None) -> Clip | None:
        """The clip at `folder / name`, where `folder` is the machine's; None for what is set aside.

        `id_attribute` is "section" or an attribute every name must carry; None follows
        MACHINE_ID_ATTRIBUTE. Raises InputError for a name of another form, a name that
        contradicts its folder, and a name without the attribute asked for.
        """
        path = folder / name
        if name.parts[0] in _SET_ASIDE:
            return None
        if len(name.parts) != 2 or name.parts[0] not in _SPLIT_FOLDERS:
            raise InputError(f"{path}: lies outside {self.form}; move it into train or test, or out of the data root")
        fields = _fields(path)
        split = _SPLIT_FOLDERS[name.parts[0]]
        if fields["split"] not in (None, split):
            raise InputError(f"{path}: the name says {fields['split']}, the folder {split}; move or rename it")
        attributes = parse_attributes(fields["attributes"])
        return Clip(
            path=path,
            machine=one_name(folder.name),
            id=_clip_id(path, folder.name, str(fields["section"]), dict(attributes), id_attribute),
            label=cast(Label, fields["label"] or "unknown"),
            split=split,
            domain=cast("Domain | None", fields["domain"]),
            attributes=attributes,
        )


def parse_attributes(text: str | None) -> tuple[tuple[str, str], ...]:
    """`car_B1_spd_31V` gives (("car", "B1"), ("spd", "31V")); None and `noAttribute` give ()."""
    if not text or text == "noAttribute":
        return ()
    words = text.split("_")
    if len(words) % 2:
        words.append("")
    return tuple(zip(words[::2], words[1::2], strict=True))


def _fields(path: Path) -> dict[str, str | None]:
    match = _SECTION_NAME.fullmatch(path.stem) or _NAME_OF_2020.fullmatch(path.stem)
    if match is None:
        raise InputError(
            f"{path}: the name is not of the form section_00_source_train_normal_0001[_key_value...] "
            "or normal_id_00_00000001; rename it or move it out of the data root"
        )
    return {"split": None, "domain": None, "attributes": None, **match.groupdict()}


def _clip_id(path: Path, machine: str, section: str, attributes: dict[str, str], wanted: str | None) -> str:
    if wanted == SECTION:
        return section
    if wanted is None:
        return attributes.get(MACHINE_ID_ATTRIBUTE.get(machine, SECTION)) or section
    if not attributes.get(wanted):
        present = ", ".join(key for key, value in attributes.items() if value) or "no attributes"
        raise InputError(
            f"{path}: the name carries no attribute {wanted!r} to use as the ID (it has {present}); "
            f"choose one of these or {SECTION!r}"
        )
    return attributes[wanted]
