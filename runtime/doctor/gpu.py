"""Area `gpu`: driver, CUDA, and the properties of the GPU."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgeasd.runtime.doctor.result import CheckResult, not_asked
from edgeasd.runtime.engines.tensorrt.cuda import gpu_info
from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.system.board import is_jetson, is_live, jetpack, l4t_release, list_names, locate, read_text

AREA = "gpu"
_DEVICE_WHY = "Name and compute capability decide which engines run here; memory decides which fit."


def check(root: Path) -> list[CheckResult]:
    """Results `driver`, `cuda` and `device`. Below another root than / no GPU is asked."""
    return [_driver(root), _cuda(root), _device(root)]


def driver(root: Path) -> str | None:
    """The driver in the kernel: "NVIDIA 595.78", "nvgpu", or None."""
    found = re.search(
        r"Kernel Module\D{0,40}(\d{3}(?:\.\d{1,4}){1,2})", read_text(root, "proc/driver/nvidia/version") or ""
    )
    if found:
        return f"NVIDIA {found[1]}"
    # The GPU of an Orin has its own driver, nvgpu; no file states its version, which is that of L4T.
    if locate(root, "sys/module/nvgpu") or locate(root, "dev/nvgpu") or locate(root, "dev/nvhost-gpu"):
        return "nvgpu"
    return None


def cuda_version(root: Path) -> str | None:
    """Version of the toolkit below /usr/local/cuda, "12.6.68", or None."""
    try:
        versions: Any = json.loads(read_text(root, "usr/local/cuda/version.json", 65536) or "{}")
        for part in ("cuda_cudart", "cuda"):
            found = versions[part]["version"] if part in versions else None
            if isinstance(found, str) and re.fullmatch(r"\d{1,3}(\.\d{1,4}){1,3}", found):
                return found
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return None


def _driver(root: Path) -> CheckResult:
    why = "Without a driver there is no GPU, and edgeasd scores on the CPU."
    found = driver(root)
    if found:
        return CheckResult(AREA, "driver", "ok", f"{found}, in the kernel", why)
    if not is_live(root) and not list_names(root, "sys/module"):
        return not_asked(AREA, "driver", why)
    if is_jetson(root):
        why += " After an update of the kernel a restart brings it back; else the board must be flashed again."
        return CheckResult(AREA, "driver", "problem", "no NVIDIA driver in the kernel", why, "sudo reboot")
    return CheckResult(AREA, "driver", "absent", "no NVIDIA driver", why)


def _cuda(root: Path) -> CheckResult:
    why = "TensorRT and ONNX Runtime's CUDA provider load CUDA's libraries."
    found, known = cuda_version(root), jetpack(l4t_release(root))
    if found is None:
        state, command = ("warning", "sudo apt install nvidia-jetpack") if is_jetson(root) else ("absent", None)
        return CheckResult(AREA, "cuda", state, "no CUDA below /usr/local/cuda", why, command)
    if known and found.split(".")[0] != known.cuda.split(".")[0]:
        why += f" TensorRT of JetPack {known.version} is made for CUDA {known.cuda}."
        return CheckResult(AREA, "cuda", "warning", f"CUDA {found}; JetPack {known.version} brings {known.cuda}", why)
    return CheckResult(AREA, "cuda", "ok", f"CUDA {found}", why)


def _device(root: Path) -> CheckResult:
    if not is_live(root):
        return not_asked(AREA, "device", _DEVICE_WHY)
    try:
        gpu = gpu_info()
    except (DeviceError, RuntimeError, OSError) as error:
        reason, _, remedy = str(error).partition("; ")
        if driver(root) is None and not is_jetson(root):
            return CheckResult(AREA, "device", "absent", "no GPU that CUDA knows", _DEVICE_WHY)
        command = remedy if remedy.startswith("pip install") else None
        why = _DEVICE_WHY + ("" if command else " A user outside the groups video and render may not open it.")
        return CheckResult(AREA, "device", "problem" if is_jetson(root) else "warning", reason, why, command)
    found = f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory / 2**30:.1f} GiB"
    return CheckResult(AREA, "device", "ok", found, _DEVICE_WHY)
