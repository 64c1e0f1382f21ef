"""`edgeasd export --front-end`: the clips it is measured on, and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeasd.runtime.errors import InputError

if TYPE_CHECKING:
    from edgeasd.runtime.bundle.manifest import FrontEnd
    from edgeasd.runtime.features.logmel import Float32Array
    from edgeasd.toolkit.evaluation.trained import TrainedModel

MOST_CLIPS = 10
"""Each costs twenty segments of the encoder."""


def read_sounds(trained: TrainedModel, folder: Path, channel: int | None) -> list[Float32Array]:
    """Samples of at most MOST_CLIPS clips of `folder`, evenly over its sorted names.

    InputError for an empty folder, and one that names clips that cannot be used or is shorter than a segment.
    """
    import numpy as np

    from edgeasd.toolkit.cli.score import expand
    from edgeasd.toolkit.data.cache import read_clip
    from edgeasd.toolkit.data.clips import refuse_bad

    if not folder.is_dir():
        raise InputError(f"--front-end {folder}: not a folder; name one with clips of this machine")
    paths, run = list(expand([folder])), trained.run
    chosen = [
        paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(MOST_CLIPS, len(paths))).round().astype(int))
    ]
    heard, need = run.channel if channel is None else channel, run.features.sample_count(run.segments.frames)
    sounds, bad = [], []
    for path in chosen:
        try:
            sound = read_clip(path, run.features.sample_rate, heard)
            if sound.size < need:
                raise InputError(f"{path}: {sound.size} samples, a segment takes {need}")
            sounds.append(sound)
        except InputError as error:
            bad.append((path, str(error) if str(path) in str(error) else f"{path}: {error}"))
    refuse_bad(bad, len(chosen), "repair them or leave them out of the folder")
    return sounds


def written_front_end(bundle: Path) -> FrontEnd | None:
    """What the manifest of a bundle says of its front end."""
    from edgeasd.runtime.bundle.bundle import Bundle

    with Bundle(bundle) as opened:
        return opened.manifest.front_end


def print_front_end(front_end: FrontEnd | None) -> None:
    """How far it is from the features of the runtime, where there is one."""
    if front_end is not None:
        print(
            f"  {front_end.file} against the features of the runtime on {front_end.clips} clips: "
            f"|Δ log10| up to {front_end.logmel:.1e}, |Δs| up to {front_end.score:.1e}; "
            "`run --front-end graph` uses it"
        )
