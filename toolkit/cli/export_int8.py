"""`export --precision int8`: the bundle is written first, then calibrated with normal clips of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli.calibrating import report_path, resumable, write_report

if TYPE_CHECKING:
    from edgeasd.toolkit.calibrate.record import Calibration
    from edgeasd.toolkit.calibrate.request import Request
    from edgeasd.toolkit.evaluation.trained import TrainedModel

INT8 = ("int8", "int8-cpu")
_OTHERWISE = "name a folder of normal clips with --clips, or export without INT8 and add it with `edgeasd calibrate`"


def int8_request(
    trained: TrainedModel, kinds: list[str], clips: Path | None, cache: Path, channel: int | None
) -> Request:
    """What to calibrate with: the folder --clips, or the normal clips that training held out.

    Raises InputError before anything is exported: for clips that are not there any more, and for too few.
    """
    from edgeasd.calibration.fit.clips import split_clips
    from edgeasd.toolkit.calibrate.clips import normal_files
    from edgeasd.toolkit.calibrate.request import Request, parse_precisions
    from edgeasd.toolkit.progress import no_progress

    folder, files = (clips, None) if clips is not None else _held_out(trained, cache)
    found = normal_files(folder, no_progress, files)
    try:
        split_clips(list(found.paths))
    except InputError as error:
        origin = f"--clips {folder}" if files is None else f"{trained.run.machine} ID {trained.run.id}, held out"
        raise InputError(f"--precision {','.join(kinds)}: {origin}: {error}; {_OTHERWISE}") from None
    return Request(clips=folder, files=files, precisions=parse_precisions(",".join(kinds)), channel=channel)


def _held_out(trained: TrainedModel, cache: Path) -> tuple[Path, tuple[Path, ...]]:
    """The data root of the training and the normals it kept out, which no weight has seen."""
    from edgeasd.toolkit.cli.training_data import load_for_run

    run = trained.run
    root = Path(str(run.facts.get("data_root", "")))
    if not root.is_dir():
        raise InputError(
            f"--precision int8: INT8 needs normal clips, and {root}, where {run.machine} ID {run.id} was trained "
            f"from, is not there; {_OTHERWISE}"
        )
    data = load_for_run(run, trained.preset, root, cache)
    split = data.split_for(run.id)
    if data.fingerprint(split) != run.facts.get("data_fingerprint"):
        raise InputError(
            f"--precision int8: {root} has changed since {run.machine} ID {run.id} was trained, so what was held out "
            f"cannot be told; {_OTHERWISE}"
        )
    return root, tuple(clip.path for clip in split.holdout_normals)


def add_int8(target: Path, request: Request, cache: Path, workspace: Path) -> Calibration:
    """Calibrate the bundle that was just written; its report lies beside it."""
    from edgeasd.toolkit.calibrate.session import calibrate_bundle

    with resumable(target, f"with `edgeasd calibrate --resume --bundle {target}`, which has the options") as work:
        found = calibrate_bundle(target, request, cache, workspace, work)
    write_report(found, report_path(target))
    return found
