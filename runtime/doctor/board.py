"""Area `board`: model, operating system, L4T and the JetPack it belongs to."""

from __future__ import annotations

import re
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult
from edgeasd.runtime.system.board import board_model, is_jetson, jetpack, l4t_release, read_text

AREA = "board"
_SOURCES = "/etc/apt/sources.list.d/nvidia-l4t-apt-source.list"


def check(root: Path) -> list[CheckResult]:
    """Results `model`, `system` and `jetpack`."""
    return [_model(root), _system(root), _jetpack(root)]


def _model(root: Path) -> CheckResult:
    why = "A TensorRT engine runs only on the kind of board that built it."
    dmi = " ".join(
        filter(None, (read_text(root, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")))
    )
    model = board_model(root) or dmi.strip()
    return CheckResult(AREA, "model", "ok" if model else "absent", model or "the machine does not say what it is", why)


def _system(root: Path) -> CheckResult:
    why = "The system decides which Python and which libraries can be installed."
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(root, "etc/os-release") or "", re.MULTILINE)
    return CheckResult(AREA, "system", "ok" if found else "absent", found[1] if found else "no /etc/os-release", why)


def _jetpack(root: Path) -> CheckResult:
    release = l4t_release(root)
    why = "JetPack decides which TensorRT, CUDA and Python belong together."
    if release is None and not is_jetson(root):
        return CheckResult(AREA, "jetpack", "absent", "not a Jetson: no /etc/nv_tegra_release", why)
    if release is None:
        found = "a Jetson without /etc/nv_tegra_release: its L4T release is unknown"
        why += " In a container this file of the host must be mounted: docker run -v with the path on both sides."
        return CheckResult(AREA, "jetpack", "warning", found, why)
    known = jetpack(release)
    if known is None:
        why += " edgeasd was written for JetPack 6.1, 6.2 and 7.2, and can compare nothing here."
        return CheckResult(AREA, "jetpack", "hint", f"L4T {release}, which this version of edgeasd does not know", why)
    found = (
        f"JetPack {known.version} (L4T {release}): TensorRT {known.tensorrt}, CUDA {known.cuda}, Python {known.python}"
    )
    if known.version == "6.0":
        why += " edgeasd needs TensorRT 10.3 or later, which JetPack 6.1 and 6.2 bring."
        command = f"sudo sed -i s/r36.3/r36.4/ {_SOURCES} && sudo apt update && sudo apt dist-upgrade"
        return CheckResult(AREA, "jetpack", "problem", found, why, command)
    return CheckResult(AREA, "jetpack", "ok", found, why)
