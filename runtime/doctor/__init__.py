"""`edgeasd doctor`: a look at everything around edgeasd that it depends on. One module for each area."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from edgeasd.runtime.doctor.python import described, running
from edgeasd.runtime.doctor.result import STATES, CheckResult, worst
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.board import is_live, locate

__all__ = ["AREAS", "STATES", "CheckResult", "examine", "worst"]

AREAS = (
    *("board", "python", "tensorrt", "gpu", "power", "memory", "onnxruntime"),
    *("sound", "permissions", "storage", "time"),
)
"""In the order of the report. The module of an area has its name, and a `check(root)`."""

_OF_THE_ENVIRONMENT = ("python", "tensorrt")
_TOP_FOLDERS = ("etc", "proc", "sys", "usr")


def _say_nothing(done: int, total: int, text: str) -> None:
    """A report that says nothing."""


def examine(
    root: Path = Path("/"), venv: str | None = None, report: Callable[[int, int, str], None] = _say_nothing
) -> list[CheckResult]:
    """Every finding about the machine whose files are below `root`, area by area.

    With another root than / nothing of the running machine is asked: neither its libraries nor its users.
    `venv` is the virtual environment in `root` that will run edgeasd; the running machine has its own. `report`
    is called with areas done, all areas and the next one. Raises InputError for a root that is no folder or
    holds no system files, and for a `venv` that is none.
    """
    if not root.is_dir():
        raise InputError(f"--root {root}: no such folder; name the folder that holds etc, proc and sys")
    if not any(locate(root, name) for name in _TOP_FOLDERS):
        raise InputError(f"--root {root}: none of {', '.join(_TOP_FOLDERS)} is in it; name the folder that holds them")
    if venv is not None and is_live(root):
        raise InputError(f"--venv {venv}: goes with --root; without it the environment in use is looked at")
    environment = running() if is_live(root) else described(root, venv) if venv is not None else None
    findings: list[CheckResult] = []
    for done, area in enumerate(AREAS):
        report(done, len(AREAS), area)
        module = importlib.import_module(f"{__name__}.{area}")
        try:
            found = module.check(root, environment) if area in _OF_THE_ENVIRONMENT else module.check(root)
        except Exception as error:
            # One area that meets what nobody foresaw must not hide what the others have found.
            reason = f"{type(error).__name__}: {error}"
            why = "This is a defect of edgeasd. Please report it with this line."
            found = [CheckResult(area, "check", "problem", f"the check itself failed ({reason})", why)]
        findings += found
    report(len(AREAS), len(AREAS), "")
    return findings
