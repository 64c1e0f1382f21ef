"""`edgeasd doctor`: checks everything that edgeasd depends on. One module for each area."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from edgeasd.runtime.doctor.python import current_environment, read_environment
from edgeasd.runtime.doctor.result import STATES, CheckResult, worst
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.board import is_live, locate

__all__ = ["AREAS", "STATES", "CheckResult", "examine", "worst"]

AREAS = (
    *("board", "python", "tensorrt", "gpu", "power", "memory", "onnxruntime"),
    *("sound", "permissions", "storage", "time"),
)
"""In the order of the report. The module of an area has its name and a function `check(root)`."""

_OF_THE_ENVIRONMENT = ("python", "tensorrt")
_TOP_FOLDERS = ("etc", "proc", "sys", "usr")


def examine(
    root: Path = Path("/"), venv: str | None = None, report: Callable[[int, int, str], None] | None = None
) -> list[CheckResult]:
    """The results of all checks of the machine whose files are below `root`, area by area.

    With another root than / nothing of the running machine is used. `venv` is the virtual environment below `root` that
    will run edgeasd. `report` is called with (areas done, areas, next area). Raises InputError for a root without system
    files and for a `venv` that is no virtual environment.
    """
    if not root.is_dir():
        raise InputError(f"--root {root}: no such folder; name the folder that holds etc, proc and sys")
    if not any(locate(root, name) for name in _TOP_FOLDERS):
        raise InputError(f"--root {root}: none of {', '.join(_TOP_FOLDERS)} is in it; name the folder that holds them")
    if venv is not None and is_live(root):
        raise InputError(f"--venv {venv}: goes with --root; without it the environment in use is checked")
    environment = current_environment() if is_live(root) else read_environment(root, venv) if venv is not None else None
    results: list[CheckResult] = []
    for done, area in enumerate(AREAS):
        if report is not None:
            report(done, len(AREAS), area)
        module = importlib.import_module(f"{__name__}.{area}")
        try:
            found = module.check(root, environment) if area in _OF_THE_ENVIRONMENT else module.check(root)
        except Exception as error:
            # A defect in one area must not hide the results of the others.
            reason = f"{type(error).__name__}: {error}"
            why = "This is a defect of edgeasd. Please report it with this line."
            found = [CheckResult(area, "check", "problem", f"the check itself failed ({reason})", why)]
        results += found
    if report is not None:
        report(len(AREAS), len(AREAS), "")
    return results
