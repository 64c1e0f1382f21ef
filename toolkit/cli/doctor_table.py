"""What `edgeasd doctor` prints for people: every finding by area, then the worst with reason and command."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import edgeasd
from edgeasd.runtime.doctor import STATES, CheckResult
from edgeasd.runtime.system.board import is_live

_INDENT = " " * 4
_NARROWEST = 60


def print_findings(findings: Sequence[CheckResult], root: Path) -> None:
    """Print a table of all findings, and below it those to act on, the worst first."""
    width = max(_NARROWEST, shutil.get_terminal_size((110, 24)).columns)
    place = "this machine" if is_live(root) else f"the files below {root}, and nothing of this machine"
    _say(f"edgeasd {edgeasd.__version__} looks at {place}")
    longest = max((len(found.name) for found in findings), default=0)
    area = None
    for found in findings:
        if found.area != area:
            area = found.area
            _say(area)
        head = f"  {found.state:<8} {found.name:<{longest}}  "
        _say(_wrapped(head, found.found, width))
    to_act_on = [found for found in findings if STATES.index(found.state) >= STATES.index("hint")]
    for found in sorted(to_act_on, key=lambda found: -STATES.index(found.state)):
        _say()
        _say(_wrapped(f"{found.state}: ", f"{found.area} {found.name}: {found.found}", width, _INDENT))
        _say(_wrapped(_INDENT, found.why, width))
        if found.command:
            # Never broken into lines: it is there to be copied.
            _say(f"{_INDENT}$ {found.command}")
    _say()
    _say(_summary(findings))


def _wrapped(head: str, text: str, width: int, indent: str | None = None) -> str:
    below = " " * len(head) if indent is None else indent
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=below, break_on_hyphens=False)


def _summary(findings: Sequence[CheckResult]) -> str:
    counts = Counter(found.state for found in findings)
    parts = [
        f"{counts[state]} {state}{'s' if counts[state] != 1 else ''}"
        for state in ("problem", "warning", "hint")
        if counts[state]
    ]
    return ", ".join(parts) if parts else "nothing to mend"


def _say(line: str = "") -> None:
    """Print a line; a letter that standard output has no code for becomes a question mark and not a traceback."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))
