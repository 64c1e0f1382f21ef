"""edgeasd doctor."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.toolkit.cli._options import AsJson
from edgeasd.toolkit.cli._output import print_styled

if TYPE_CHECKING:
    from edgeasd.runtime.doctor import CheckResult

DEVICE_NOT_AVAILABLE = 3


def doctor(
    root: Annotated[
        Path, typer.Option(help="Look at a mounted image or a copy of system files below this folder.", metavar="DIR")
    ] = Path("/"),
    venv: Annotated[
        str | None,
        typer.Option(help="With --root: the virtual environment in it that will run edgeasd.", metavar="DIR"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Look also at what the service of this site.toml keeps in its data folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything around edgeasd that it depends on.

    Board and JetPack, Python, TensorRT, GPU, power, memory, ONNX Runtime, sound, permissions, storage and time. What
    could be better comes with the reason and the command that mends it. Changes nothing. Exit code 3 if
    something is a problem, 0 otherwise: what this machine lacks and does not need is no problem.

    Example: edgeasd doctor
    """
    import edgeasd
    from edgeasd.runtime.doctor import examine, worst
    from edgeasd.toolkit.progress import progress

    # A provider that builds an engine first may take a minute or two.
    with progress("doctor") as report:
        findings = examine(root, venv, report)
    if config is not None:
        from edgeasd.runtime.config import read_config
        from edgeasd.runtime.doctor.service import check_service

        findings += check_service(read_config(config).data)
    if as_json:
        fields = ("area", "name", "state", "found", "why", "command")
        listed = [{field: getattr(found, field) for field in fields} for found in findings]
        facts = {"type": "doctor", "version": 1, "edgeasd": edgeasd.__version__, "root": str(root)}
        print(json.dumps({**facts, "worst": worst(findings), "findings": listed}, indent=2))
    else:
        print_findings(findings, root)
    if worst(findings) == "problem":
        raise typer.Exit(DEVICE_NOT_AVAILABLE)


_INDENT = " " * 4
_NARROWEST = 60
_PIPE_WIDTH = 110
_STYLES = {"ok": "green", "hint": "cyan", "warning": "yellow", "problem": "bold red"}


def print_findings(findings: Sequence[CheckResult], root: Path) -> None:
    """Print a table of all findings, and below it those to act on, the worst first."""
    import edgeasd
    from edgeasd.runtime.doctor import STATES
    from edgeasd.runtime.system.board import is_live

    width = max(_NARROWEST, shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns)
    place = "this machine" if is_live(root) else f"the files below {root}, and nothing of this machine"
    print(f"edgeasd {edgeasd.__version__} looks at {place}")
    longest = max((len(found.name) for found in findings), default=0)
    area = None
    for found in findings:
        if found.area != area:
            area = found.area
            print(area)
        _print_state(_wrapped(f"  {found.state:<8} {found.name:<{longest}}  ", found.found, width), found.state)
    to_act_on = [found for found in findings if STATES.index(found.state) >= STATES.index("hint")]
    for found in sorted(to_act_on, key=lambda found: -STATES.index(found.state)):
        subject = f"{found.area} {found.name}: {found.found}"
        print()
        _print_state(_wrapped(f"{found.state}: ", subject, width, _INDENT), found.state)
        print(_wrapped(_INDENT, found.why, width))
        if found.command:
            # Never broken into lines: it is there to be copied.
            print(f"{_INDENT}$ {found.command}")
    print()
    print(_summary(findings))


def _print_state(text: str, state: str) -> None:
    """Print lines that begin with a state, which has its colour."""
    from rich.text import Text

    line = Text(text)
    line.stylize(_STYLES.get(state, ""), 0, text.index(state) + len(state))
    print_styled(line)


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
