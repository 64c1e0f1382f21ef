"""The field layout: <root>/<machine>/<id>/{normal,anomaly}/*.{wav,flac}, no split, no domains.

MIMII's own folders have the same shape (`fan/id_00/abnormal/00000001.wav`) and are read as well,
also inside the folders its archives unpack to (see `wrappers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip, Label, plain_id

_LABEL_FOLDERS: dict[str, Label] = {"normal": "normal", "anomaly": "anomaly", "abnormal": "anomaly"}


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
        return Clip(path, folder.name, plain_id(id_folder), _LABEL_FOLDERS[label_folder])
