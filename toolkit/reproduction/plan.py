"""An experiment as a list of jobs: each is one model, trained or updated and judged, in a folder of its own.

    reproduce/<machine>/id_<id>/<method>/seed-<S>/         the model without known anomalies, a run as of `train`
        table2.json, fig2.json                             its results; both come from one training
        n04/                                               its update with 4 known anomalies, and fig2.json of that

A job is done when its result file is there. The settings are stored in the result; a result or a begun run with
other settings is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.lock import try_lock
from edgeasd.toolkit.evaluation.stored import check_evaluation
from edgeasd.toolkit.presets import Preset

FORMAT = 1
What = Literal["table2", "fig2"]
EXPERIMENTS: tuple[What, ...] = ("table2", "fig2")
LOCK_SECONDS = 60.0
"""A killed command's worker notices within a step, and a step of ResNet38 on a CPU takes half a minute."""


class DataSource(BaseModel):
    """Where the clips of one machine type lie, how they are read, and what they were when the plan was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    cache: Path
    id_attribute: str | None = None
    channel: int | None = None
    ground_truth: Path | None = None
    listing: str
    """Changes with the name, size or label of any clip that bears on the machine type."""


class ModelJob(BaseModel):
    """One model: `count` is 0 for a training, else the number of known anomalies of an update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: What
    machine: str
    id: str
    seed: int
    count: int
    most: int
    """Known anomalies set apart for all counts, and so missing from the test; 0 where the experiment has none."""
    preset: Preset
    """Of the training; an update applies `for_finetuning` to it."""
    data: DataSource
    base: Path
    """Folder of the training run."""

    @property
    def method(self) -> str:
        """One of the five."""
        return self.preset.method

    @property
    def name(self) -> str:
        """For people and as a key: `valve 00 bce seed 0`, with `n 4` for an update."""
        update = f" n {self.count}" if self.count else ""
        return f"{self.machine} {self.id} {self.method} seed {self.seed}{update}"

    @property
    def needs(self) -> str | None:
        """The name of the job that must be done first."""
        return self.name.rpartition(" n ")[0] if self.count else None

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        return self.base / f"n{self.count:02d}" if self.count else self.base

    @property
    def result_path(self) -> Path:
        """The file that says the job is done."""
        return self.folder / f"{self.what}.json"

    @property
    def training_preset(self) -> Preset:
        """The preset that the run of this job keeps."""
        return self.preset.for_finetuning() if self.count else self.preset

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        return {
            "preset": self.preset.model_dump(mode="json"),
            "seed": self.seed,
            "known_anomalies": self.count,
            "anomalies_set_apart": self.most,
            "channel": self.data.channel,
            "id_attribute": self.data.id_attribute,
            "clips": self.data.listing,
        }

    def result(self) -> dict[str, Any] | None:
        """The stored result, None if there is none yet.

        Raises InputError for one that is damaged or was made with other settings, and for a run in the
        job's folder that was.
        """
        if self.result_path.is_file():
            stored = _read(self.result_path)
            if stored.get("format") != FORMAT or not isinstance(stored.get("settings"), dict):
                raise InputError(f"{self.result_path}: not a result of this edgeasd; delete it to make it again")
            if wrong := check_evaluation(stored.get("evaluation")):
                raise InputError(f"{self.result_path}: evaluation {wrong}; delete it to make it again")
            self._compare(stored["settings"], self.settings(), self.result_path)
            return stored
        if (self.folder / "run.json").is_file():
            facts = _read(self.folder / "run.json")
            preset = self.training_preset.model_dump()
            now = {"preset": preset, "seed": self.seed, "channel": self.data.channel}
            self._compare({name: facts.get(name) for name in now}, now, self.folder / "run.json")
        return None

    def _compare(self, before: dict[str, Any], now: dict[str, Any], place: Path) -> None:
        changed = list(_differences(before, now))
        if changed:
            raise InputError(
                f"{place}: was made with other settings ({'; '.join(changed)}); give the same, "
                f"another --workspace, or delete {self.folder}"
            )


def expand(
    what: What,
    machines: Sequence[tuple[str, Sequence[str], DataSource]],
    presets: Sequence[Preset],
    seeds: Sequence[int],
    counts: Sequence[int],
    most: int,
    workspace: Path,
) -> list[ModelJob]:
    """Every job of an experiment; `presets` has one for each method, `counts` those of Figure 2 beside 0.

    Jobs of one machine and seed are neighbours, since they share what is read and hashed.
    """
    jobs = []
    for machine, ids, data in machines:
        for seed in seeds:
            for id in ids:
                for preset in presets:
                    base = workspace / "reproduce" / machine / f"id_{id}" / preset.method / f"seed-{seed}"
                    jobs += [
                        ModelJob(
                            what=what,
                            machine=machine,
                            id=id,
                            seed=seed,
                            count=count,
                            most=most,
                            preset=preset,
                            data=data,
                            base=base,
                        )
                        for count in sorted({0, *counts})
                    ]
    return jobs


def _differences(before: dict[str, Any], now: dict[str, Any], within: str = "") -> Iterator[str]:
    for name, value in now.items():
        old = before.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            yield from _differences(old, value, f"{within}{name}.")
        elif old != value:
            yield f"{within}{name} {old!r}, now {value!r}"


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it to make it again") from None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: not a result of this edgeasd; delete it to make it again")
    return stored


@dataclass(frozen=True)
class JobEnd:
    """How an attempt at a job ended."""

    state: Literal["finished", "stopped", "failed"]
    reason: str = ""
    """Of a failure, one line."""
    may_retry: bool = False
    """Whether another attempt may help."""


@contextmanager
def job_lock(
    folder: Path, wait_seconds: float = LOCK_SECONDS, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the folder of a job while the block runs: two processes there would delete each other's checkpoints.

    The lock ends with the process, however it dies. `on_wait` is called while waiting, and may raise. On a file
    system without locks nothing is held. Raises InputError if another process holds the folder after
    `wait_seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as handle:
        deadline = time.monotonic() + wait_seconds
        while not try_lock(handle.fileno()):
            if time.monotonic() >= deadline:
                raise InputError(
                    f"{folder}: another process works on this model; wait until it has ended and give the command "
                    "again, or use another --workspace"
                )
            on_wait()
            time.sleep(0.2)
        yield
