"""edgeasd compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.toolkit.cli._options import AsJson
from edgeasd.toolkit.cli._output import print_table

if TYPE_CHECKING:
    from edgeasd.calibration.drift.ranking import PairedComparison

LEVEL = 0.95


def compare(
    a: Annotated[Path, typer.Argument(help="Run folder, update folder or evaluation.json.")],
    b: Annotated[Path, typer.Argument(help="Another one, judged on the same clips.")],
    scoring: Annotated[
        str, typer.Option(help="Way of scoring that both have: deploy, paper, bundle or baseline.")
    ] = "deploy",
    update: Annotated[
        str | None,
        typer.Option(help="In both runs, an update by name, or none for the first model; newest by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which of two evaluated models is better, or that the clips cannot tell.

    DeLong's paired test of the difference of their AUCs over the same test clips, with a 95 % interval.
    Overlapping intervals of two AUCs do not answer this.

    Example: edgeasd compare first/runs/valve/id_00 second/runs/valve/id_00
    """
    from edgeasd.toolkit.evaluation.stored import compare as paired
    from edgeasd.toolkit.evaluation.stored import stored_evaluation

    first, second = stored_evaluation(a, update), stored_evaluation(b, update)
    found = paired(first.content, second.content, scoring)
    better = _better(found)
    if as_json:
        facts = {"a": str(first.path), "b": str(second.path), "scoring": scoring, **found.to_json()}
        print(json.dumps({**facts, "better": better, "verdict": _verdict(found, better)}, indent=2, ensure_ascii=False))
        return
    low, high = found.interval
    p = "undefined" if found.p is None else f"{found.p:.3g}"
    print(f"{first.label}, {scoring}: {found.normals} normal and {found.anomalies} anomalous clips")
    rows = [
        ("a", f"{100 * found.auc_a:.1f}", str(first.path)),
        ("b", f"{100 * found.auc_b:.1f}", str(second.path)),
    ]
    print_table(("", "AUC %", "evaluation"), rows, right=("AUC %",), fold=("evaluation",))
    print(f"  a minus b {100 * found.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], p = {p} (DeLong)")
    print(_verdict(found, better))


def _better(found: PairedComparison) -> str | None:
    if found.p is None or found.p >= 1 - LEVEL:
        return None
    return "a" if found.difference > 0 else "b"


def _verdict(found: PairedComparison, better: str | None) -> str:
    if better is not None:
        return f"{better} is better on these clips: a difference this large is rare if there is none (p < 0.05)"
    if found.p is None:
        return "the clips cannot tell which is better: their scores show no variance to test against"
    if found.difference == 0:
        return "no difference: both have the same AUC on these clips"
    return "the clips cannot tell which is better: the interval holds 0, so more clips are needed"
