"""Area `python`: the interpreter, and whether its environment sees the packages of the system."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.board import is_jetson, jetpack, l4t_release, list_names, locate, read_text

AREA = "python"
FLAG = "--system-site-packages"
REMEDY = f"/usr/bin/python3 -m venv {FLAG} ~/edgeasd-venv && ~/edgeasd-venv/bin/pip install 'edgeasd[tensorrt]'"

_OLDEST = (3, 10)
_SYSTEM_HOMES = {"/usr", "/usr/bin", "/bin"}


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment: its folder, version, base interpreter, and whether it sees the packages of the system."""

    place: str
    version: tuple[int, int] | None
    system_python: bool
    virtual: bool
    sees_system: bool


def current_environment() -> Environment:
    """The environment of this process."""
    virtual = sys.prefix != sys.base_prefix
    sees = not virtual or _sees_system(read_text(Path("/"), f"{sys.prefix}/pyvenv.cfg") or "")
    return Environment(sys.prefix, sys.version_info[:2], sys.base_prefix in _SYSTEM_HOMES, virtual, sees)


def read_environment(root: Path, venv: str) -> Environment:
    """The virtual environment `venv` below `root`, from its pyvenv.cfg (PEP 405). Raises InputError if it is none."""
    place = locate(root, venv)
    text = read_text(root, f"{venv}/pyvenv.cfg", 65536)
    if place is None or text is None:
        raise InputError(f"--venv {venv}: no pyvenv.cfg there below {root}; name the folder of a virtual environment")
    found = re.search(r"^version(?:_info)?\s*=\s*(\d{1,2})\.(\d{1,3})", text, re.MULTILINE)
    home = re.search(r"^home\s*=\s*(\S+)", text, re.MULTILINE)
    version = (int(found[1]), int(found[2])) if found else None
    system = home is not None and home[1].rstrip("/") in _SYSTEM_HOMES
    return Environment("/" + venv.strip("/"), version, system, True, _sees_system(text))


def _sees_system(text: str) -> bool:
    """Source: https://docs.python.org/3/library/site.html, which compares the lower-case value with "true"."""
    found = re.search(r"^include-system-site-packages\s*=\s*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    return found is not None and found[1].lower() == "true"


def check(root: Path, environment: Environment | None = None) -> list[CheckResult]:
    """Results `interpreter` and `environment`. Without an environment, only of the system Python below `root`."""
    if environment is None:
        return [_system_interpreter(root), _unknown()]
    return [_interpreter(root, environment), _environment(root, environment)]


def wanted_version(root: Path) -> tuple[int, int] | None:
    """The Python of JetPack's TensorRT, or None without a known JetPack."""
    known = jetpack(l4t_release(root))
    if known is None:
        return None
    major, minor = known.python.split(".")
    return int(major), int(minor)


def _system_interpreter(root: Path) -> CheckResult:
    why = "JetPack's TensorRT can be imported by the system Python alone."
    # The link may point to a Python that is missing in a copy of system files; its name has the version.
    names = [name for name in list_names(root, "usr/bin") if re.fullmatch(r"python3\.\d{1,2}", name)]
    if not names:
        return CheckResult(AREA, "interpreter", "absent", "no Python in /usr/bin", why)
    newest = max(names, key=lambda name: int(name.partition(".")[2]))
    return CheckResult(AREA, "interpreter", "ok", f"system Python {newest.removeprefix('python')}", why)


def _unknown() -> CheckResult:
    why = "A virtual environment may hide the packages of the system, TensorRT among them."
    found = "not asked: which environment runs edgeasd there is not known; name it with --venv"
    return CheckResult(AREA, "environment", "absent", found, why)


def _interpreter(root: Path, environment: Environment) -> CheckResult:
    version, wanted = environment.version, wanted_version(root)
    name = "Python " + (".".join(map(str, version)) if version else "of unknown version")
    found = f"{name}, {'the' if environment.system_python else 'not the'} system's"
    if version is not None and version < _OLDEST:
        return CheckResult(AREA, "interpreter", "problem", found, "edgeasd needs Python 3.10 or later.")
    why = "JetPack's TensorRT can be imported by the system Python alone."
    if is_jetson(root) and (not environment.system_python or (wanted and version and version != wanted)):
        want = ".".join(map(str, wanted)) if wanted else "of the system"
        return CheckResult(AREA, "interpreter", "problem", f"{found}; JetPack's is {want}", why, REMEDY)
    return CheckResult(AREA, "interpreter", "ok", found, why)


def _environment(root: Path, environment: Environment) -> CheckResult:
    why = "A virtual environment may hide the packages of the system, TensorRT among them."
    if not environment.virtual:
        found = f"no virtual environment: {environment.place}, with all that the system has"
        return CheckResult(AREA, "environment", "ok", found, why)
    flag = "with" if environment.sees_system else "without"
    found = f"virtual environment {environment.place}, made {flag} {FLAG}"
    if environment.sees_system or not is_jetson(root):
        return CheckResult(AREA, "environment", "ok", found, why)
    why = f"TensorRT comes from JetPack's Debian packages, and this environment cannot see them. It needs {FLAG}."
    return CheckResult(AREA, "environment", "problem", found, why, REMEDY)
