"""Where training runs and in which precision: Lightning Fabric on what the user names."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from edgeasd.runtime.errors import DeviceError, InputError

TRAINING_PRECISIONS = ("auto", "fp32", "bf16")


def open_fabric(accelerator: str, precision: str = "auto") -> Fabric:
    """Fabric on "cpu", "cuda" or "cuda:K", training in "fp32" or with "bf16" autocast.

    An accelerator of "auto" is the first GPU there is, else the CPU. A precision of "auto" is bfloat16 on
    a GPU that has it, float32 elsewhere: on CPUs it pays on some only. Raises DeviceError for what is not
    there, InputError for an unknown precision.
    """
    if precision not in TRAINING_PRECISIONS:
        raise InputError(f"--training-precision {precision}: unknown; use one of {', '.join(TRAINING_PRECISIONS)}")
    kind, _, index = accelerator.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise DeviceError(f"--accelerator {accelerator}: unknown; use auto, cpu, cuda or cuda:0")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise DeviceError(f"--accelerator {accelerator}: torch sees {count} CUDA GPUs; use --accelerator cpu")
        # float32 means float32 (TF32 has 10 bits of mantissa), and a seed means the same run.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        able = torch.cuda.is_bf16_supported()
        if precision == "bf16" and not able:
            raise DeviceError(f"--training-precision bf16: {accelerator} has no bfloat16; use fp32")
        mixed = able and precision != "fp32"
        return Fabric(accelerator="cuda", devices=[int(index or 0)], precision="bf16-mixed" if mixed else "32-true")
    return Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")
