"""What commands print for people: tables on standard output, plain text if it is piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_UNLIMITED = 10_000
"""Columns of a pipe or file: a program that reads a table must not find its cells folded."""


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    title: str = "",
    right: Sequence[str] = (),
    fold: Sequence[str] = (),
    indent: int = 2,
) -> None:
    """Print rows under headings. Columns named in `right` are numbers; only those in `fold` may break into lines."""
    from rich.table import Table
    from rich.text import Text

    if title:
        print_styled(Text(title, "bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_header=any(headings))
    for heading in headings:
        table.add_column(
            Text(heading), justify="right" if heading in right else "left", no_wrap=heading not in fold, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    print_styled(table, indent=indent)


def print_styled(content: RenderableType, *, indent: int = 0) -> None:
    """Print a renderable of rich: with styles on a terminal, plain elsewhere and with NO_COLOR. Text is never folded."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    with console.capture() as captured:
        if isinstance(content, Text):
            console.print(content, soft_wrap=True)
        else:
            console.print(Padding(content, (0, 0, 0, indent), expand=False))
    # Cells of the last column are padded to its width.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
