"""What an export keeps of a calibrated bundle that it replaces: what still holds for the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeasd.calibration.fit.deploy import HELD_OUT
from edgeasd.export.bundle_update import CALIBRATION, ORDER, stored_record
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle, hash_file
from edgeasd.runtime.bundle.manifest import FileEntry, Manifest, dump_manifest
from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.system.files import write_bytes, write_json

_MEASURED = ("level", "sound", "modes")
"""Fields of the manifest that are measured on given recordings and say nothing of weights."""


@dataclass(frozen=True)
class KeptCalibration:
    """Lines for the user: what was kept, and what was not with the reason; both empty if nothing was calibrated."""

    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def keep_calibration(
    old_path: Path, folder: Path, precisions: Sequence[str], *, has_given_clips: bool = False
) -> KeptCalibration:
    """Bring what `edgeasd calibrate` found for the bundle `old_path` into the new bundle in `folder`, if it holds.

    It holds while encoder, features, amplitude and segments are those of the old bundle, by hash and by value. Constants
    and threshold also need the same head and α, and that no clips were given to take them from; precisions that
    calibration made need no more. `precisions` are those that the export wrote itself. Raises nothing for an old
    bundle that cannot be read: then nothing is kept.
    """
    try:
        with Bundle(old_path) as opened:
            old, record = opened.manifest, stored_record(opened)
    except EdgeasdError:
        return KeptCalibration()
    if not {"calibration", "refits"} & set(old.provenance):
        return KeptCalibration()
    with Bundle(folder) as written:
        new = written.manifest
    found = [name for name in old.precisions if name not in precisions]
    what = [*(["threshold"] if old.threshold is not None else []), *found]
    if (reason := _difference(old, new)) is not None:
        return KeptCalibration(dropped=(f"{', '.join(what)}: {reason}; run `edgeasd calibrate` again",))
    kept, dropped = [], []
    changes: dict[str, object] = {"provenance": {**old.provenance, **new.provenance}}
    constants = "clips were given to take them from" if has_given_clips else None
    if constants is None and (old.score.alpha, old.score.method) != (new.score.alpha, new.score.method):
        constants = f"α was {old.score.alpha:g} and is {new.score.alpha:g}"
    if constants is None and old.files["head.onnx"].sha256 != new.files["head.onnx"].sha256:
        constants = "the head is another than the one they were found with"
    if constants is None:
        stored = {name: value for name in _MEASURED if (value := getattr(old, name, None)) is not None}
        changes |= {"score": old.score, "threshold": old.threshold, "status": old.status, **stored}
        if old.threshold is not None and HELD_OUT in old.threshold.found_by and old.score == new.score:
            # An earlier export's own, which calibration left as it was.
            changes |= {"threshold": new.threshold, "status": new.status}
        elif old.threshold is not None:
            kept.append(f"threshold {old.threshold.clip:.4f} ({old.threshold.found_by})")
    else:
        dropped.append(f"constants and threshold: {constants}")
    offers = dict(new.precisions)
    for name in found:
        if _linked(old_path, folder, old.precisions[name].file, old):
            offers[name] = old.precisions[name]
            kept.append(name)
        else:
            dropped.append(f"{name}: its file is damaged; run `edgeasd calibrate` again")
    if constants is None and old.score != new.score:
        # Tolerances of distances are in units of the constants.
        offers |= {name: old.precisions[name] for name in new.precisions if name in old.precisions}
    ordered = sorted(offers, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    changes["precisions"] = {name: offers[name] for name in ordered}
    with Bundle(folder) as written:
        write_json(folder / CALIBRATION, {**record, **stored_record(written)} if constants else record)
    _write(folder, new.model_copy(update=changes))
    return KeptCalibration(tuple(kept), tuple(dropped))


def _difference(old: Manifest, new: Manifest) -> str | None:
    """Why nothing that was calibrated holds any more; None if it does."""
    if (old.machine.type, old.machine.id) != (new.machine.type, new.machine.id):
        return "the old bundle is of another machine"
    if "fp32" not in old.precisions:
        return "the old bundle has no fp32 encoder"
    files = [manifest.files[manifest.precisions["fp32"].file].sha256 for manifest in (old, new)]
    if files[0] != files[1]:
        return "the weights are others than those it was found with"
    for name in ("features", "amplitude", "segments"):
        if getattr(old, name) != getattr(new, name):
            return f"the {name} {'is' if name == 'amplitude' else 'are'} not what it was found with"
    return None


def _linked(old_path: Path, folder: Path, file: str, old: Manifest) -> bool:
    """Copy a file of the old bundle if it is whole."""
    source = old_path / file
    if not source.is_file() or hash_file(source) != old.files[file].sha256:
        return False
    shutil.copy2(source, folder / file)
    return True


def _write(folder: Path, manifest: Manifest) -> None:
    names = {*manifest.files, CALIBRATION, *(offer.file for offer in manifest.precisions.values())}
    files = {
        name: FileEntry(sha256=hash_file(folder / name), size=(folder / name).stat().st_size) for name in sorted(names)
    }
    write_bytes(folder / MANIFEST, dump_manifest(manifest.model_copy(update={"files": files})))
    with Bundle(folder) as made:
        made.verify_files()
        for name, offer in made.manifest.precisions.items():
            if not offer.stale:
                scorer, _ = made.open_scorer(precision=name, engine="onnxruntime")
                scorer.close()
