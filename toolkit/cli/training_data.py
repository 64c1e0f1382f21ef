"""Loading a machine's data with progress, for train, evaluate and demo alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeasd.toolkit.cli.guard import complain
from edgeasd.toolkit.data.copies import describe_copies
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.progress import progress

if TYPE_CHECKING:
    from edgeasd.toolkit.evaluation.trained import Trained


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


class RunLoader:
    """Loads a machine's data once for all runs that split it alike."""

    def __init__(
        self,
        root: Path,
        cache: Path,
        id_attribute: str | None,
        channel: int | None,
        ground_truth: Path | None,
        skip_bad: bool,
    ) -> None:
        self._root, self._cache, self._id_attribute, self._skip_bad = root, cache, id_attribute, skip_bad
        self._channel, self._ground_truth = channel, ground_truth
        self._loaded: dict[tuple[object, ...], MachineData] = {}

    def __call__(self, trained: Trained) -> MachineData:
        run, preset, seed = trained.run, trained.preset, int(trained.run.facts["seed"])
        channel = run.channel if self._channel is None else self._channel
        key = (run.machine, seed, preset.holdout_fraction, preset.test_fraction, channel)
        if key not in self._loaded:
            self._loaded[key] = load_for(
                self._root,
                run.machine,
                preset,
                seed,
                self._cache,
                id_attribute=self._id_attribute,
                channel=channel,
                ground_truth=self._ground_truth,
                skip_bad=self._skip_bad,
            )
        loaded = self._loaded[key]
        # The model must hear with the amplitude it was trained with, whatever has joined the folder since.
        return replace(loaded, amplitudes={**loaded.amplitudes, run.machine: run.amplitude})
