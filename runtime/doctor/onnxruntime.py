"""Area `onnxruntime`: its version, and each of its providers proved by an inference."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from edgeasd.runtime.doctor.finding import Finding, not_asked
from edgeasd.runtime.doctor.tiny_model import SIDE, expected, tiny_model
from edgeasd.runtime.system_files import is_live

AREA = "onnxruntime"
_REMOTE = {"AzureExecutionProvider"}
"""Sends its input to a service elsewhere. It is in every build and computes nothing here."""
_SECONDS = 120
"""The TensorRT provider builds an engine first, which takes a slow board a while."""
_TOLERANCE = 1.0
"""Of sums up to 2,835 that float32 holds exactly. A provider in half precision may round, a broken one is far off."""
_PROOF = "import sys\nfrom edgeasd.runtime.doctor.onnxruntime import prove\nprint(prove(sys.argv[1]))"
_WHY = "ONNX Runtime is the engine where there is no TensorRT. A provider that is listed need not work: the proof is an inference."


def check(root: Path) -> list[Finding]:
    """Finding `version` and one for each provider, by its name; below another root than / nothing is tried."""
    if not is_live(root):
        return [not_asked(AREA, "version", _WHY)]
    import onnxruntime as ort

    version = Finding(AREA, "version", "ok", f"ONNX Runtime {ort.__version__}", _WHY)
    return [version, *(_provider(name) for name in ort.get_available_providers())]


def prove(provider: str) -> float:
    """Run the tiny model on `provider` and nothing else; the largest deviation from numpy.

    Raises RuntimeError where another provider would have computed, and what ONNX Runtime raises.
    """
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        # Without this a node that the provider cannot run goes to the CPU, and the proof proves that.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(tiny_model(), options, providers=[provider], enable_fallback=0)
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"it is listed, but {session.get_providers()[0]} was loaded in its place")
    x = np.arange(SIDE * SIDE, dtype=np.float32).reshape(1, 1, SIDE, SIDE)
    return float(np.abs(session.run(None, {"x": x})[0] - expected(x)).max())


def _provider(name: str) -> Finding:
    if name in _REMOTE:
        return Finding(AREA, name, "absent", "not tried: it calls a remote service, and edgeasd never uses it", _WHY)
    failure = attempt(name)
    if failure is None:
        return Finding(AREA, name, "ok", "a convolution ran on it and was right", _WHY)
    if name == "CPUExecutionProvider":
        return Finding(AREA, name, "problem", failure, _WHY, "pip install --force-reinstall onnxruntime")
    why = _WHY + " Nothing uses this one unless --accelerator asks for it."
    return Finding(AREA, name, "warning", f"listed, and does not work: {failure}", why)


def attempt(name: str) -> str | None:
    """Why the proof failed, or None. In a process of its own, because a broken provider may take its process along."""
    try:
        # Not in the current folder: `python -c` imports from there first, and a folder `edgeasd` may be in it.
        done = subprocess.run(
            [sys.executable, "-c", _PROOF, name],
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
