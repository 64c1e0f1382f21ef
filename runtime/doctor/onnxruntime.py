"""Area `onnxruntime`: its version, and an inference on every provider it lists.

The inference runs a tiny convolution. The core install has no onnx package, so its few fields are encoded here: field
numbers from https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3, the wire format from
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from edgeasd.runtime.doctor.result import CheckResult, not_asked
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.system.board import is_live

AREA = "onnxruntime"
_REMOTE = {"AzureExecutionProvider"}
"""Sends its input to a remote service. It is in every build and computes nothing here."""
_SECONDS = 120
"""The TensorRT provider builds an engine first, which takes long on a slow board."""
_TOLERANCE = 1.0
"""For sums up to 2,835, which are exact in float32. A provider in half precision may round; a broken one is far off."""
_SELF_TEST = "import sys\nfrom edgeasd.runtime.doctor.onnxruntime import self_test\nprint(self_test(sys.argv[1]))"
_WHY = "ONNX Runtime is the engine where there is no TensorRT. A provider that is listed need not work: the proof is an inference."

OPSET, IR_VERSION = 19, 10
SIDE, KERNEL = 8, 3
_FLOAT = 1
_BYTES = 2
"""Wire type of strings, bytes and messages."""


def check(root: Path) -> list[CheckResult]:
    """Results `version` and one for each provider, by its name. Below another root than / nothing is tried."""
    if not is_live(root):
        return [not_asked(AREA, "version", _WHY)]
    import onnxruntime as ort

    version = CheckResult(AREA, "version", "ok", f"ONNX Runtime {ort.__version__}", _WHY)
    return [version, *(_provider(name) for name in ort.get_available_providers())]


def self_test(provider: str) -> float:
    """Run the tiny model on `provider` alone; returns the largest deviation from numpy.

    Raises RuntimeError if another provider would compute, and as ONNX Runtime.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        # Without this, a node that the provider cannot run goes to the CPU and passes there.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(tiny_model(), options, providers=[provider], enable_fallback=0)
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"it is listed, but {session.get_providers()[0]} was loaded in its place")
    x = np.arange(SIDE * SIDE, dtype=np.float32).reshape(1, 1, SIDE, SIDE)
    return float(np.abs(session.run(None, {"x": x})[0] - expected(x)).max())


def _provider(name: str) -> CheckResult:
    if name in _REMOTE:
        return CheckResult(
            AREA, name, "absent", "not tried: it calls a remote service, and edgeasd never uses it", _WHY
        )
    failure = failure_of(name)
    if failure is None:
        return CheckResult(AREA, name, "ok", "a convolution ran on it and was right", _WHY)
    if name == "CPUExecutionProvider":
        return CheckResult(AREA, name, "problem", failure, _WHY, "pip install --force-reinstall onnxruntime")
    why = _WHY + " Nothing uses this one unless --accelerator asks for it."
    return CheckResult(AREA, name, "warning", f"listed, and does not work: {failure}", why)


def failure_of(name: str) -> str | None:
    """Why the self-test fails on a provider, or None. In a process of its own, which a broken provider may kill."""
    try:
        # In /: `python -c` imports from the current folder first, and that may contain a folder `edgeasd`.
        done = subprocess.run(
            [sys.executable, "-c", _SELF_TEST, name],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} s"
    except OSError as error:
        return f"{sys.executable}: {error.strerror}"
    if done.returncode < 0:
        return f"the process died of {signal.Signals(-done.returncode).name}"
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if done.returncode:
        return lines[-1] if lines else f"exit code {done.returncode}"
    try:
        deviation = float(done.stdout.split()[-1])
    except (ValueError, IndexError):
        return "no figure in its answer"
    return None if deviation <= _TOLERANCE else f"wrong by {deviation:g}, of sums up to 2,835"


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _parts(field: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _value(name: bytes, shape: tuple[int, ...]) -> bytes:
    """The content of a ValueInfoProto: a name, and a float tensor of that shape."""
    dimensions = b"".join(_parts(1, _number(1, size)) for size in shape)
    return _parts(1, name) + _parts(2, _parts(1, _number(1, _FLOAT), _parts(2, dimensions)))


def weights() -> Float32Array:
    """The kernel (1, 1, 3, 3): small whole numbers, so that every provider computes the same."""
    return np.arange(1, 10, dtype=np.float32).reshape(1, 1, KERNEL, KERNEL)


def tiny_model() -> bytes:
    """An ONNX file: a convolution without padding of x (1, 1, 8, 8) float32 to y (1, 1, 6, 6)."""
    kernel = weights()
    tensor = b"".join(_number(1, size) for size in kernel.shape) + _number(2, _FLOAT)
    tensor += _parts(8, b"w") + _parts(9, kernel.astype("<f4").tobytes())
    node = _parts(1, b"x") + _parts(1, b"w") + _parts(2, b"y") + _parts(4, b"Conv")
    out = SIDE - KERNEL + 1
    graph = _parts(1, node) + _parts(2, b"tiny") + _parts(5, tensor)
    graph += _parts(11, _value(b"x", (1, 1, SIDE, SIDE))) + _parts(12, _value(b"y", (1, 1, out, out)))
    return _number(1, IR_VERSION) + _parts(7, graph) + _parts(8, _number(2, OPSET))


def expected(x: Float32Array) -> Float32Array:
    """The output (1, 1, 6, 6) of `tiny_model` for x (1, 1, 8, 8), computed by numpy."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (KERNEL, KERNEL), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weights()).astype(np.float32)
