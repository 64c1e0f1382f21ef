"""Plots as inline SVG, and log-mel as PNG, by matplotlib. Plots take the colours of the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from markupsafe import Markup

_COLOURS = {
    "normal": "#1f6fb1",
    "accent": "#1f6fb2",
    "anomaly": "#c8501e",
    "mark": "#6a4c93",
    "faint": "#5b6875",
    "rule": "#d5dbe1",
}
"""Colours of the style sheet, each of them once: in the SVG they become its variables."""
_INCHES = (4.2, 3.0)
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeasd",
    "font.size": 9,
    "axes.edgecolor": _COLOURS["rule"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _COLOURS["rule"],
    "xtick.color": _COLOURS["rule"],
    "ytick.color": _COLOURS["rule"],
    "xtick.labelcolor": _COLOURS["faint"],
    "ytick.labelcolor": _COLOURS["faint"],
    "ytick.major.size": 0,
}
WIDEST = 1000
"""Columns of a log-mel picture."""


class Plot:
    """One set of axes over `x_range` and `y_range`; what is drawn later lies on top.

    Colours are names of the style sheet: normal, anomaly, accent, mark.
    """

    def __init__(
        self,
        title: str,
        description: str,
        x_label: str,
        y_label: str,
        x_range: tuple[float, float],
        y_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        import matplotlib
        from matplotlib.figure import Figure

        self._title, self._description = title, description
        with matplotlib.rc_context(_STYLE):
            self._figure = Figure(figsize=_INCHES, layout="constrained")
            self._axes: Any = self._figure.add_subplot()
            self._axes.set(xlabel=x_label, ylabel=y_label, xlim=_with_width(x_range), ylim=_with_width(y_range))

    def line(self, x: ArrayLike, y: ArrayLike, colour: str) -> None:
        """A line through the points, (n,) each."""
        self._axes.plot(x, y, color=_COLOURS[colour], linewidth=1.5, clip_on=False)

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str) -> None:
        """The area between two lines over the same x, (n,) each."""
        self._axes.fill_between(x, low, high, color=_COLOURS[colour], alpha=0.18, linewidth=0)

    def bars(self, edges: ArrayLike, heights: ArrayLike, colour: str) -> None:
        """A histogram: bin edges (n + 1,), heights (n,)."""
        sides = np.asarray(edges, float)
        self._axes.bar(
            sides[:-1], heights, 0.94 * np.diff(sides), align="edge", color=_COLOURS[colour], alpha=0.55, linewidth=0
        )
        self._axes.yaxis.get_major_locator().set_params(integer=True)

    def points(self, x: ArrayLike, y: ArrayLike, colour: str) -> None:
        """A dot for each pair, (n,) each."""
        self._axes.plot(x, y, "o", color=_COLOURS[colour], markersize=4, alpha=0.6, markeredgewidth=0)

    def vertical(self, x: float, label: str) -> None:
        """A dashed upright with a word beside it; nothing if it lies outside the axes."""
        low, high = self._axes.get_xlim()
        if not low <= x <= high:
            return
        in_left_half = x < (low + high) / 2
        self._axes.axvline(x, color=_COLOURS["mark"], linestyle=(0, (4, 3)), linewidth=1.2)
        self._axes.annotate(
            label,
            (x, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4 if in_left_half else -4, -3),
            textcoords="offset points",
            ha="left" if in_left_half else "right",
            va="top",
        )

    def reference(self, x: ArrayLike, y: ArrayLike) -> None:
        """A dotted line to compare with."""
        self._axes.plot(x, y, color=_COLOURS["faint"], linestyle=(0, (1.5, 3)), linewidth=1)

    def svg(self) -> Markup:
        """The element, with title and description for readers who cannot see it."""
        from markupsafe import Markup

        inside = re.sub(r"(?s)^.*?<svg[^>]*>|</svg>\s*$", "", _savefig(self._figure))
        # Rules of its own would hold for the whole page, and names of groups would stand in it more than once.
        inside = re.sub(r"(?s)<style.*?</style>|<metadata>.*?</metadata>", "", inside)
        inside = re.sub(r'<g id="[^"]*"', "<g", inside).replace("xlink:href", "href")
        inside = re.sub(r"font(?:-size|-family)?: [^;\"]*(?:; )?", "", inside)
        inside = re.sub(r"\s*\n\s*", " ", inside)
        for name, value in _COLOURS.items():
            inside = inside.replace(value, f"var(--{name})")
        width, height = (72 * inches for inches in _INCHES)
        head = Markup('<svg viewBox="0 0 {:g} {:g}" role="img"><title>{}</title><desc>{}</desc>')
        return head.format(width, height, self._title, self._description) + Markup(inside) + Markup("</svg>")


def _savefig(figure: Any) -> str:
    import matplotlib

    written = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        figure.savefig(written, format="svg", transparent=True, metadata=no_metadata)
    return written.getvalue()


def shared_edges(*groups: Sequence[float], bins: int = 24) -> np.ndarray:
    """Bin edges (bins + 1,) over all values of several groups."""
    values = np.concatenate([np.asarray(group, float) for group in groups])
    low, high = _with_width((float(values.min()), float(values.max())))
    return np.linspace(low, high, bins + 1)


def _with_width(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if high - low > 1e-12 * max(abs(low), abs(high), 1e-300):
        return low, high
    margin = abs(low) / 2 or 0.5
    return low - margin, high + margin


def logmel_png(features: NDArray[np.float32], low: float, high: float) -> bytes:
    """A log-mel (T, n_mels) as a picture, time to the right, frequency upward; `low` to `high` span the colours."""
    from matplotlib import colormaps
    from PIL import Image

    scaled = np.clip((_narrowed(np.asarray(features, np.float64)) - low) / max(high - low, 1e-9), 0, 1)
    picture = Image.fromarray((scaled.T[::-1] * 255).round().astype(np.uint8))
    # Evenly lighter from quiet to loud, so that it also reads in grey.
    picture.putpalette((255 * colormaps["inferno"](np.arange(256))[:, :3]).round().astype(np.uint8).tobytes())
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return written.getvalue()


def _narrowed(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most WIDEST frames: of neighbours the loudest, so that a click in a long clip stays visible."""
    step = -(-len(features) // WIDEST)
    if step <= 1:
        return features
    return np.maximum.reduceat(features, np.arange(0, len(features), step), axis=0)
