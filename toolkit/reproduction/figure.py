"""Figure 2 as SVG: AUC against the number of known anomalies, a panel for each machine type, a line for each method."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from typing import Any

from edgeasd.toolkit.reproduction.table import Cell

_LOOKS: dict[str, dict[str, Any]] = {
    "bce": {"color": "#0072b2", "marker": "o", "linestyle": "-"},
    "dsad": {"color": "#e69f00", "marker": "s", "linestyle": (0, (4, 2))},
    "ddcsad": {"color": "#009e73", "marker": "^", "linestyle": (0, (1, 2))},
    "bce+dsad": {"color": "#cc3311", "marker": "D", "linestyle": (0, (5, 2, 1, 2))},
    "bce+ddcsad": {"color": "#6a3d9a", "marker": "o", "linestyle": "-"},
}
"""Colour (told apart by most colour-blind readers), mark and dashes of each method."""
_ACROSS, _PANEL_INCHES = 3, (3.4, 2.6)
_APART = 0.06
"""Between the methods at one count, in doublings, so that their bars do not cover each other."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeasd",
    "font.size": 9,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
}


def figure_two(title: str, cells: Sequence[Cell]) -> str:
    """The picture as a file of its own. Cells without an AUC leave a gap in their line."""
    import matplotlib
    from matplotlib.figure import Figure

    machines = list(dict.fromkeys(cell.machine for cell in cells))
    methods = list(dict.fromkeys(cell.method for cell in cells))
    across = max(1, min(_ACROSS, len(machines)))
    down = math.ceil(len(machines) / across)
    written = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_PANEL_INCHES[0] * across, _PANEL_INCHES[1] * down + 0.4), layout="constrained")
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for machine, axes in zip(machines, panels, strict=False):
            _draw_panel(axes, machine, [cell for cell in cells if cell.machine == machine], methods, _lowest(cells))
        for axes in panels[len(machines) :]:
            axes.set_axis_off()
        lines, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside upper left", ncols=2 * across, frameon=False)
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = f"<title>{html.escape(title)}</title><desc>{html.escape(_description(cells))}</desc>"
    head, root, rest = written.getvalue().partition("<svg")
    return head + root + rest.replace(">", f' role="img">\n{text}', 1)


def _draw_panel(axes: Any, machine: str, cells: Sequence[Cell], methods: Sequence[str], low: float) -> None:
    counts = sorted({cell.count for cell in cells})
    for number, method in enumerate(methods):
        own = sorted((cell for cell in cells if cell.method == method), key=lambda cell: cell.count)
        shift = _APART * (number - (len(methods) - 1) / 2)
        drawn = axes.errorbar(
            [_position(cell.count) + shift for cell in own],
            [math.nan if cell.auc is None else 100 * cell.auc for cell in own],
            [100 * (cell.half_width or 0.0) for cell in own],
            label=method,
            elinewidth=0.8,
            **_LOOKS[method],
        )
        drawn.lines[0].set_gid(f"{machine} {method}")
    axes.set_title(machine, parse_math=False, weight="bold", size=10)
    axes.set_xticks([_position(count) for count in counts], [str(count) for count in counts])
    axes.set(xlabel="known anomalies", ylabel="AUC %", ylim=(100 * low, 100))


def _position(count: int) -> float:
    """On a logarithmic axis, where 0 stands in the place of 1/2."""
    return 0.0 if count == 0 else 1.0 + math.log2(count)


def _lowest(cells: Sequence[Cell]) -> float:
    """Where the AUC axis begins: 10 points below the lowest bar at the most, on a round number."""
    lows = [cell.auc - (cell.half_width or 0.0) for cell in cells if cell.auc is not None]
    lowest = max(0.0, min(lows, default=0.5))
    return min(0.9, math.floor(10 * lowest) / 10)


def _description(cells: Sequence[Cell]) -> str:
    figures = [
        f"{cell.machine}, {cell.method}, n = {cell.count}: {100 * cell.auc:.1f}"
        for cell in cells
        if cell.auc is not None
    ]
    listed = "; ".join(figures) or "No figures yet"
    return f"AUC in % against the number n of known anomalies, with 95 % intervals. {listed}."
