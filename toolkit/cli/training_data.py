"""Loading a machine's data with progress, for train, evaluate and demo alike."""

from __future__ import annotations

from pathlib import Path

from edgeasd.toolkit.cli.guard import complain
from edgeasd.toolkit.data.copies import describe_copies
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.progress import progress


def load_for(
    root: Path,
    machine: str,
    preset: Preset,
    seed: int,
    cache: Path,
    *,
    id: str | None = None,
    id_attribute: str | None = None,
    channel: int | None = None,
    ground_truth: Path | None = None,
    skip_bad: bool = False,
) -> MachineData:
    """`load_machine` with the fractions of `preset`; names every file it leaves out, and copies of test clips."""
    loaded = load_machine(
        root,
        machine,
        cache_folder=cache,
        seed=seed,
        holdout_fraction=preset.holdout_fraction,
        test_fraction=preset.test_fraction,
        id=id,
        id_attribute=id_attribute,
        channel=channel,
        ground_truth=ground_truth,
        skip_bad=skip_bad,
        stage=progress,
    )
    for _, reason in loaded.bad:
        complain(f"left out: {reason}")
    if loaded.copies:
        complain(describe_copies(loaded.copies))
    return loaded
