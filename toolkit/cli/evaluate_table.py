"""What `edgeasd evaluate` prints for people: a table, and a line for everything a table has no room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeasd.toolkit.evaluation.alpha import CHOSEN
from edgeasd.toolkit.evaluation.evaluate import Evaluation
from edgeasd.toolkit.evaluation.figures import Figures

HEADINGS = {"deploy": "deploy d′", "paper": "paper d′", "bundle": "bundle", "baseline": "Mahalanobis"}
"""Ways of scoring, in the order of the columns."""


def print_table(
    found: Sequence[Evaluation], means: Mapping[str, Mapping[str, Any]], together: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print evaluations of one machine type, their means, and the figures over all their clips `together`."""
    names = [name for name in HEADINGS if any(name in one.figures for one in found)]
    print(f"{found[0].machine}: AUC % [95 % interval] / pAUC(0.1) %, normal against anomalous test clips")
    _row("ID", "clips", [HEADINGS[name] for name in names])
    for one in found:
        _row(one.id, f"{one.normals}/{one.anomalies}", [_cell(one.figures.get(name)) for name in names])
    if len(found) > 1:
        _row("mean", "", [_mean_cell(means.get(name)) for name in names])
        _row("pooled", "", [_pooled_cell(together.get(name)) for name in names])
    for one in found:
        for line in _remarks(one):
            print(f"ID {one.id}: {line}")
    if len(found) > 1:
        first = next((together[name] for name in HEADINGS if name in together), {})
        for line in _domain_line(first):
            print(f"pooled: {line}")


def _row(first: str, second: str, cells: Sequence[str]) -> None:
    print("  ".join([f"{first:<6}", f"{second:>9}", *(f"{cell:<28}" for cell in cells)]).rstrip())


def _cell(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    if figures.auc is None or figures.interval is None or figures.pauc is None:
        return str(figures.facts["undefined"])
    low, high = figures.interval
    return f"{100 * figures.auc:5.1f} [{100 * low:.1f}, {100 * high:.1f}] / {100 * figures.pauc:5.1f}"


def _mean_cell(mean: Mapping[str, Any] | None) -> str:
    if mean is None:
        return "undefined"
    return f"{100 * mean['auc']:5.1f} / {100 * mean['pauc_0.1']:5.1f} ({mean['ids']} IDs)"


def _pooled_cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None or figures["auc"] is None:
        return "undefined"
    low, high = figures["interval95"]
    return f"{100 * figures['auc']:5.1f} [{100 * low:.1f}, {100 * high:.1f}] / {100 * figures['pauc_0.1']:5.1f}"


def _domain_line(facts: Mapping[str, Any]) -> list[str]:
    domains = facts.get("domains", {}).get("2022-2026", {})
    parts = [
        f"{key.removeprefix('auc_')} AUC {100 * domains[key]:.1f}"
        for key in ("auc_source", "auc_target")
        if key in domains
    ]
    return [f"{', '.join(parts)}, pAUC over both {100 * domains['pauc']:.1f} (%; DCASE 2022 to 2026)"] if parts else []


def _remarks(one: Evaluation) -> list[str]:
    lines = []
    if one.known_anomalies:
        lines.append(f"updated with {one.known_anomalies} known anomalies; none that were offered is in the test")
    judged = next((one.figures[name] for name in HEADINGS if name in one.figures), None)
    source = "" if judged is None else str(judged.facts.get("alpha_source", ""))
    if judged is not None and source.startswith(CHOSEN):
        lines.append(f"α {judged.facts['alpha']:g} was {source}; none of them is in the test")
    lines += [] if judged is None else _domain_line(judged.facts)
    for name, figures in one.figures.items():
        lines += _comparison(HEADINGS[name], figures.facts)
    return lines


def _comparison(name: str, facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if "pairs" in facts:
        lines.append(
            f"{name} against checkpoint: {facts['pairs_in_another_order']} of {facts['pairs']} pairs in "
            f"another order, {facts['of_these_tied_within_1e-4']} of them tied within 1e-4; "
            f"largest score difference {facts['largest_score_difference']:.1e}"
        )
    elif "deploy_minus_this" in facts:
        test = facts["deploy_minus_this"]
        low, high = test["interval"]
        p = "undefined" if test["p"] is None else f"{test['p']:.3f}"
        lines.append(
            f"deploy d′ minus {name} on the same clips: {100 * test['difference']:+.1f} points "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], p = {p} (DeLong)"
        )
    return lines
