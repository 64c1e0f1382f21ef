"""Tables of commands on terminals of several widths and in pipes."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from edgeasd.toolkit.cli._output import print_table

pytestmark = pytest.mark.core

HEADINGS = ("machine", "AUC %", "what was found by whom")
ROWS = [("valve [red]", "97.5", "a sentence that is longer than what is left of eighty columns, so that it is folded")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_each_row_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HEADINGS, ROWS, right=("AUC %",), fold=HEADINGS[2:])
    heading, row = capsys.readouterr().out.splitlines()
    assert heading == "  machine      AUC %  what was found by whom"
    assert row == f"  valve [red]   97.5  {ROWS[0][2]}"


@pytest.mark.parametrize(("columns", "rows"), [(80, 3), (120, 2)])
def test_a_terminal_folds_what_may_fold(monkeypatch: pytest.MonkeyPatch, columns: int, rows: int) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    with contextlib.redirect_stdout(Terminal()) as terminal:
        print_table(HEADINGS, ROWS, right=("AUC %",), fold=HEADINGS[2:])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert (len(lines), all(len(line) <= columns for line in lines)) == (rows, True)
    assert lines[1].startswith("  valve [red]   97.5  a sentence")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.getvalue())
