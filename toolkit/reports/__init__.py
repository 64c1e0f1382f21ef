"""Reports: one HTML file that holds all it shows. A content security policy forbids it any request."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

DASH = "–"
"""In place of a figure that there is none of."""


@dataclass(frozen=True)
class Table:
    """A table whose first column heads its rows; the last `totals` rows are set apart."""

    caption: str
    headings: Sequence[object]
    rows: Sequence[Sequence[object]]
    totals: int = 0


@dataclass(frozen=True)
class Figure:
    """A plot with what is to be said of it. `keys` are colours of the page (normal, anomaly, …) and their meanings."""

    svg: Markup
    caption: str
    keys: Sequence[tuple[str, str]] = ()


def check_packages() -> None:
    """Raise ModuleNotFoundError, before hours of work, if a report cannot be made here."""
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401


def render(template: str, **values: Any) -> bytes:
    """A template of this package as a whole page in UTF-8."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values).encode()


def _printable(value: object) -> object:
    """Text with one mark in place of each character that does not print.

    File names may hold control characters, bytes that are not UTF-8 (surrogates) and marks that reverse the
    direction of writing.
    """
    if hasattr(value, "__html__"):
        return value
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def data_uri(media_type: str, content: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
