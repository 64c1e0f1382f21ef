"""Area `tensorrt`: its library, its Python module, their versions against JetPack's, and libnvdla_compiler.so."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeasd.runtime.doctor.python import Environment, wanted_version
from edgeasd.runtime.doctor.result import CheckResult
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.system.board import is_jetson, is_live, jetpack, l4t_release, list_names, locate

AREA = "tensorrt"
INSTALL = "sudo apt update && sudo apt install nvidia-jetpack"

_LIBRARY_FOLDERS = (
    *("usr/lib/aarch64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib"),
    *("usr/local/lib", "usr/local/tensorrt/lib", "opt/tensorrt/lib"),
)
_DLA_FOLDERS = (*(f"usr/lib/aarch64-linux-gnu{below}" for below in ("/nvidia", "/tegra", "")), "usr/lib")
_DLA = "libnvdla_compiler.so"
_DLA_INSTALL = "sudo apt install nvidia-l4t-dla-compiler && sudo ldconfig"


def check(root: Path, environment: Environment | None = None) -> list[CheckResult]:
    """Results `library`, `module` and `dla_compiler`. Below another root than / nothing is imported."""
    return [_library(root), _module(root, environment), _dla_compiler(root)]


def installed_library(root: Path) -> tuple[str, str] | None:
    """Folder and version of the newest libnvinfer.so.X.Y.Z, or None. The version is in the file's name."""
    pattern = re.compile(r"libnvinfer\.so\.(\d{1,3}\.\d{1,3}(?:\.\d{1,4}){0,2})", re.ASCII)
    files = [(folder, pattern.fullmatch(name)) for folder in _LIBRARY_FOLDERS for name in list_names(root, folder)]
    found = [(f"/{folder}", match[1]) for folder, match in files if match]
    return max(found, key=lambda pair: library.numbers(pair[1]), default=None)


def system_modules(root: Path) -> dict[str, tuple[int, int]]:
    """Folders `tensorrt` among the packages of system Pythons, each with the Python it is for."""
    found = {}
    for top in ("usr/lib", "usr/local/lib"):
        for name in list_names(root, top):
            match = re.fullmatch(r"python3\.(\d{1,2})", name)
            folder = f"{top}/{name}/dist-packages/tensorrt"
            if match and locate(root, f"{folder}/__init__.py"):
                found[f"/{folder}"] = (3, int(match[1]))
    return found


def _versus_jetpack(root: Path, version: str) -> tuple[str, str, str | None]:
    """State, words and command for a version of TensorRT on this board."""
    known = jetpack(l4t_release(root))
    if library.numbers(version)[:2] < library.OLDEST:
        return "problem", "too old: edgeasd needs 10.3 or later", INSTALL if is_jetson(root) else None
    if known is None:
        return "ok", "", None
    if library.numbers(version)[:2] == library.numbers(known.tensorrt):
        return "ok", f"as JetPack {known.version} brings it", None
    return "warning", f"JetPack {known.version} brings {known.tensorrt}", INSTALL


def _library(root: Path) -> CheckResult:
    why = "TensorRT is the fast way to the GPU. Without it edgeasd scores on the CPU."
    found = installed_library(root)
    if found is None:
        state, command = ("problem", INSTALL) if is_jetson(root) else ("absent", None)
        return CheckResult(AREA, "library", state, "no libnvinfer.so among the libraries of the system", why, command)
    folder, version = found
    state, words, command = _versus_jetpack(root, version)
    if state == "warning":
        why = "Parts of two releases do not fit together; what was tested with JetPack is its own TensorRT."
    return CheckResult(
        AREA, "library", state, f"TensorRT {version} in {folder}" + (f"; {words}" if words else ""), why, command
    )


def _module(root: Path, environment: Environment | None) -> CheckResult:
    why = "`edgeasd build` and the engine tensorrt work through this module."
    modules = system_modules(root)
    listed = ", ".join(f"{folder} for Python {major}.{minor}" for folder, (major, minor) in modules.items())
    if is_live(root):
        return _loaded(root, environment, listed, why)
    if not modules:
        state, command = ("problem", INSTALL) if is_jetson(root) else ("absent", None)
        return CheckResult(AREA, "module", state, "no Python module tensorrt for the system Python", why, command)
    if environment is not None and not environment.sees_system:
        return CheckResult(AREA, "module", "absent", f"{listed}; hidden from {environment.place} (see python)", why)
    wanted = (environment.version if environment else None) or wanted_version(root)
    if wanted and wanted not in modules.values():
        found = f"{listed}; Python {wanted[0]}.{wanted[1]} cannot import it"
        return CheckResult(AREA, "module", "problem", found, why, "use the system Python")
    return CheckResult(AREA, "module", "ok", f"{listed}; whether it loads only the machine itself can tell", why)


def _loaded(root: Path, environment: Environment | None, listed: str, why: str) -> CheckResult:
    jetson = is_jetson(root)
    try:
        module = library.load()
    except DeviceError as error:
        reason = str(error).partition("; ")[0].removeprefix("TensorRT: ")
        if listed and environment is not None and not environment.sees_system:
            return CheckResult(AREA, "module", "absent", f"{listed}; hidden from {environment.place} (see python)", why)
        command = INSTALL if jetson and not listed and _DLA not in reason else None
        if _DLA in reason:
            why += f" It cannot load without {_DLA}: see dla_compiler."
        return CheckResult(AREA, "module", "problem" if jetson or listed else "absent", reason, why, command)
    except Exception as error:
        reason = f"importing tensorrt fails ({type(error).__name__}: {error})"
        return CheckResult(AREA, "module", "problem", reason, why, INSTALL if jetson else None)
    version = library.version(module)
    state, words, command = _versus_jetpack(root, version)
    found = f"TensorRT {version} from {os.path.dirname(str(module.__file__))}" + (f"; {words}" if words else "")
    return CheckResult(AREA, "module", state, found, why, command)


def _dla_compiler(root: Path) -> CheckResult:
    why = f"TensorRT of JetPack 6 does not load without {_DLA}, even on a board that has no DLA."
    release, known = l4t_release(root), jetpack(l4t_release(root))
    for folder in _DLA_FOLDERS:
        place = locate(root, f"{folder}/{_DLA}")
        if place is None:
            continue
        if place.stat().st_size == 0:
            why += " In a container this is the empty file over which the host's is mounted: the host lacks it."
            return CheckResult(AREA, "dla_compiler", "problem", f"/{folder}/{_DLA} is empty", why, _DLA_INSTALL)
        return CheckResult(AREA, "dla_compiler", "ok", f"/{folder}/{_DLA}", why)
    if release is not None and release.startswith("36."):
        return CheckResult(AREA, "dla_compiler", "problem", f"{_DLA} is missing", why, _DLA_INSTALL)
    found = f"not there, and JetPack {known.version} does without it" if known else "not there"
    return CheckResult(AREA, "dla_compiler", "absent", found, why)
