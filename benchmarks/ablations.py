"""What the paper leaves open, tried out: the quick preset with one thing changed at a time, over IDs and seeds.

    python benchmarks/ablations.py dcase2023_toycar:ToyCar:B1 hard:valve:00 --workspace ablations/ --seeds 0 1 2

Every model is judged once and its figures kept, so an interrupted run goes on where it was. A difference is
paired: the same ID, seed, test clips and way of scoring; its interval is Student's t over those pairs.
Several processes may share a workspace: --part 1/2 and --part 2/2 take every second model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import parser, report, say, table

VARIANTS: dict[str, dict[str, Any]] = {
    "quick as it is": {},
    "no batch-norm estimation first": {"estimate_norms_first": False},
    "64 outliers in c_n": {"centroid_outliers": 64},
    "centroids every 10 iterations": {"least_epoch_iterations": 10},
    "centroids never moved": {"least_epoch_iterations": 300},
    "D = 16": {"embedding_size": 16},
    "D = 256": {"embedding_size": 256},
}
BASE = "quick as it is"
SCALES = ("deploy", "paper")


@dataclass(frozen=True)
class Model:
    """One model to train and judge."""

    root: Path
    machine: str
    id: str
    seed: int
    variant: str

    @property
    def unit(self) -> str:
        """What a pair has in common."""
        return f"{self.machine} {self.id} seed {self.seed}"

    def folder(self, workspace: Path) -> Path:
        """Where its run and its figures are."""
        plain = "".join(c if c.isalnum() else "-" for c in self.variant)
        return workspace / f"{self.machine}-{self.id}" / plain / f"seed-{self.seed}"


def judge(model: Model, workspace: Path) -> dict[str, Any]:
    """Train and evaluate one model, or read what an earlier call found."""
    import json

    from edgeasd.runtime.system.files import write_json
    from edgeasd.toolkit.data.machine import load_machine
    from edgeasd.toolkit.evaluation.evaluate import evaluate
    from edgeasd.toolkit.evaluation.trained import load_trained_model
    from edgeasd.toolkit.presets import load_preset
    from edgeasd.toolkit.progress import no_progress
    from edgeasd.toolkit.training.fabric import open_fabric
    from edgeasd.toolkit.training.session import train_one

    folder = model.folder(workspace)
    kept = folder / "evaluation.json"
    if not kept.is_file():
        preset = load_preset("quick").changed(**VARIANTS[model.variant])
        data = load_machine(
            model.root,
            model.machine,
            cache_folder=workspace / "cache",
            seed=model.seed,
            holdout_fraction=preset.holdout_fraction,
            test_fraction=preset.test_fraction,
        )
        fabric, never = open_fabric("cpu"), lambda: False
        run = train_one(
            data, model.id, preset, model.seed, folder, fabric, overwrite=True, report=no_progress, should_stop=never
        )
        write_json(kept, evaluate(load_trained_model(run), data, baseline=model.variant == BASE).to_json())
    found: dict[str, Any] = json.loads(kept.read_text("utf-8"))["figures"]
    return found


def interval(differences: Sequence[float]) -> str:
    """Mean and 95 % interval (Student's t over the pairs)."""
    from scipy.stats import t

    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}"
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def summary(figures: dict[str, dict[str, dict[str, Any]]], group: str) -> tuple[str, dict[str, Any]]:
    """One table for a group of units: mean figures of each variant, and its difference from the base."""
    rows, numbers = [], {}
    for variant, of_units in figures.items():
        row: list[object] = [variant]
        for scale in SCALES:
            values = {unit: 100 * found[scale]["auc"] for unit, found in of_units.items() if scale in found}
            base = {unit: 100 * found[scale]["auc"] for unit, found in figures[BASE].items() if scale in found}
            pairs = [values[unit] - base[unit] for unit in values if unit in base]
            row.append(f"{statistics.fmean(values.values()):.1f}" if values else "-")
            row.append("" if variant == BASE or not pairs else interval(pairs))
            numbers[f"{variant} / {scale}"] = {"auc": values}
        rows.append([*row, len(of_units)])
    header = ["variant", *(text for scale in SCALES for text in (f"AUC % ({scale} d′)", "difference")), "models"]
    return f"{group}\n\n{table(header, rows)}", numbers


def scale_difference(figures: dict[str, dict[str, dict[str, Any]]]) -> str:
    """deploy minus paper, over all models of all variants."""
    both = [found for of_units in figures.values() for found in of_units.values() if "deploy" in found]
    return interval([100 * (found["deploy"]["auc"] - found["paper"]["auc"]) for found in both])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("units", nargs="+", help="ROOT:MACHINE:ID")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--workspace", type=Path, required=True)
    options.add_argument("--part", default="1/1", help="K/N: every Nth model, from the Kth on; no table for N > 1")
    arguments = options.parse_args()
    part, parts = (int(number) for number in arguments.part.split("/"))
    named = [(Path(root), machine, id) for root, machine, id in (unit.rsplit(":", 2) for unit in arguments.units)]
    models = [Model(*unit, seed, variant) for seed in arguments.seeds for variant in VARIANTS for unit in named]
    figures: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for number, model in enumerate(models):
        if number % parts != part - 1:
            continue
        say(f"{number + 1} of {len(models)}: {model.unit}, {model.variant}")
        found = judge(model, arguments.workspace)
        figures.setdefault(model.root.name, {}).setdefault(model.variant, {})[model.unit] = found
    if parts > 1:
        return
    texts, numbers = [], {}
    for group, of_variants in figures.items():
        text, numbers[group] = summary(of_variants, group)
        texts.append(f"{text}\n\ndeploy minus paper scale, all models: {scale_difference(of_variants)} points")
    report(numbers, "\n\n".join(texts), as_json=arguments.json)


if __name__ == "__main__":
    main()
