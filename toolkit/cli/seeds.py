"""edgeasd seeds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeasd.toolkit.cli._options import AsJson, Update
from edgeasd.toolkit.cli._output import print_table


def seeds(
    folders: Annotated[
        list[Path], typer.Argument(help="Workspaces, run folders or evaluation.json files, one for each seed.")
    ],
    update: Update = None,
    as_json: AsJson = False,
) -> None:
    """Mean and spread of evaluated models over their seeds, per machine ID.

    Each seed is trained and evaluated in a workspace of its own. Refuses trainings that differ in more than
    their seed, and evaluations of different test clips.

    Example: edgeasd seeds seed0 seed1 seed2
    """
    from edgeasd.toolkit.evaluation.stored import by_id, evaluations_in, over_seeds, seed_of

    found = [one for folder in folders for one in evaluations_in(folder, update)]
    rows: list[dict[str, Any]] = []
    for (machine, id), group in by_id(found).items():
        spreads = over_seeds([one.content for one in group], [one.path for one in group])
        rows.append(
            {
                "machine": machine,
                "id": id,
                "seeds": [seed_of(one) for one in group],
                "files": [str(one.path) for one in group],
                "figures": {way: {name: asdict(one) for name, one in of.items()} for way, of in spreads.items()},
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    print("% over seeds: mean ± sample standard deviation [lowest, highest]")
    for row in rows:
        print(f"{row['machine']} ID {row['id']}: {len(row['seeds'])} seeds ({', '.join(map(str, row['seeds']))})")
        if not row["figures"]:
            print("  AUC undefined in every way of scoring: the test clips are all of one kind")
            continue
        names = list(dict.fromkeys(name for figures in row["figures"].values() for name in figures))
        cells = [
            (way, *(_cell(figures[name]) if name in figures else "-" for name in names))
            for way, figures in row["figures"].items()
        ]
        print_table(("", *names), cells, fold=names)


def _cell(figure: dict[str, Any]) -> str:
    spread = "no spread of one" if figure["std"] is None else f"± {100 * figure['std']:.1f}"
    return f"{100 * figure['mean']:.1f} {spread} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
