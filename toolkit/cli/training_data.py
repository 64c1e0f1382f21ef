"""Loading a machine's data with progress, for train, evaluate and demo alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.data.split import describe_copies
from edgeasd.toolkit.presets import Preset
from edgeasd.toolkit.progress import progress

if TYPE_CHECKING:
    from edgeasd.toolkit.evaluation.trained import Trained
    from edgeasd.toolkit.runs import Run


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
        print_error(f"left out: {reason}")
    if loaded.copies:
        print_error(describe_copies(loaded.copies))
    return loaded


def load_for_run(
    run: Run,
    preset: Preset,
    root: Path,
    cache: Path,
    *,
    id: str | None = None,
    id_attribute: str | None = None,
    channel: int | None = None,
    ground_truth: Path | None = None,
    skip_bad: bool = False,
) -> MachineData:
    """`load_for` as the model of `run` was trained: its split, its amplitude and, unless named, its channel."""
    loaded = load_for(
        root,
        run.machine,
        preset,
        int(run.facts["seed"]),
        cache,
        id=id,
        id_attribute=id_attribute,
        channel=run.channel if channel is None else channel,
        ground_truth=ground_truth,
        skip_bad=skip_bad,
    )
    return with_amplitude_of(run, loaded)


def with_amplitude_of(run: Run, loaded: MachineData) -> MachineData:
    """The model must hear with the amplitude it was trained with, whatever has joined the folder since."""
    return replace(loaded, amplitudes={**loaded.amplitudes, run.machine: run.amplitude})


class RunLoader:
    """Loads a machine's data once for all runs that split it alike."""

    def __init__(self, root: Path, cache: Path, channel: int | None, **options: Any) -> None:
        """`options` are those of `load_for_run` that are the same for every run."""
        self._root, self._cache, self._channel, self._options = root, cache, channel, options
        self._loaded: dict[tuple[object, ...], MachineData] = {}

    def __call__(self, trained: Trained) -> MachineData:
        run, preset = trained.run, trained.preset
        channel = run.channel if self._channel is None else self._channel
        key = (run.machine, int(run.facts["seed"]), preset.holdout_fraction, preset.test_fraction, channel)
        if key not in self._loaded:
            self._loaded[key] = load_for_run(run, preset, self._root, self._cache, channel=channel, **self._options)
        return with_amplitude_of(run, self._loaded[key])
