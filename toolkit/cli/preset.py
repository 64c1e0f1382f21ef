"""edgeasd preset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.toolkit.cli._options import AsJson
from edgeasd.toolkit.cli._output import print_table

if TYPE_CHECKING:
    from edgeasd.toolkit.presets import Preset

app = typer.Typer(
    help="Look at presets: every value that decides a training.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_presets(as_json: AsJson = False) -> None:
    """List the presets.

    Example: edgeasd preset list
    """
    from edgeasd.toolkit.presets import PRESETS, load_preset

    presets = [load_preset(name) for name in PRESETS]
    if as_json:
        print(json.dumps([one.name for one in presets]))
        return
    rows = [(one.name, one.backbone, one.method, str(one.iterations)) for one in presets]
    print_table(("preset", "backbone", "loss", "iterations"), rows, right=("iterations",), indent=0)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="quick or paper.")],
    as_json: AsJson = False,
) -> None:
    """Print every field of a preset with its value and meaning, and α of the paper's Table I.

    Each field can be changed for one training with `train --set FIELD=VALUE`.

    Example: edgeasd preset show quick
    """
    from edgeasd.toolkit.presets import load_preset

    preset = load_preset(name)
    if as_json:
        print(json.dumps(_as_json(preset), indent=2, ensure_ascii=False))
    else:
        _print(preset)


def _as_json(preset: Preset) -> dict[str, Any]:
    from edgeasd.toolkit.presets import table_one
    from edgeasd.toolkit.presets.settings import field_meanings, field_values

    meanings = field_meanings()
    fields = {name: {"value": value, "meaning": meanings[name]} for name, value in field_values(preset).items()}
    return {"preset": preset.name, "fields": fields, "table_1_alpha": table_one()}


def _print(preset: Preset) -> None:
    from edgeasd.toolkit.presets import table_one
    from edgeasd.toolkit.presets.settings import field_meanings, field_values

    meanings = field_meanings()
    rows = [
        (name, str(value).lower() if isinstance(value, bool) else str(value), meanings[name])
        for name, value in field_values(preset).items()
    ]
    print_table(("field", "value", "meaning"), rows, fold=("meaning",), indent=0)
    print("\nα of equation 5 in the paper's Table I, which `evaluate` takes for paper d′ with any preset:")
    table = table_one()
    machines = list(dict.fromkeys(machine for cells in table.values() for machine in cells))
    cells = [(method, *(str(of.get(machine, "-")) for machine in machines)) for method, of in table.items()]
    print_table(("method", *machines), cells, right=machines, indent=0)
