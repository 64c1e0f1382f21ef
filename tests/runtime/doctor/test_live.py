"""The doctor on the machine that runs the tests: providers are proved, devices asked, and a plain box has no problem."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeasd.runtime.doctor import AREAS, STATES, onnxruntime, permissions, python, storage, tensorrt
from edgeasd.runtime.doctor import onnxruntime as tiny_model
from edgeasd.runtime.doctor import time as clock
from edgeasd.runtime.system.board import is_jetson

pytestmark = pytest.mark.core

FIELDS = {"area": str, "name": str, "state": str, "found": str, "why": str, "command": (str, type(None))}


def doctor(*arguments: object, program: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [program, "-m", "edgeasd", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def complaints(said: str) -> list[str]:
    """What is on standard error besides the progress of a slow box."""
    return [line for line in said.splitlines() if not line.startswith("doctor: ")]


def test_this_box_as_json() -> None:
    done = doctor("--json")
    facts = json.loads(done.stdout)
    assert not complaints(done.stderr)
    assert done.returncode == (3 if facts["worst"] == "problem" else 0)
    assert list(facts) == ["type", "version", "edgeasd", "root", "worst", "findings"]
    assert (facts["type"], facts["version"], facts["root"]) == ("doctor", 1, "/")
    assert list(dict.fromkeys(found["area"] for found in facts["findings"])) == list(AREAS)
    for found in facts["findings"]:
        assert list(found) == list(FIELDS)
        assert all(isinstance(found[field], kind) for field, kind in FIELDS.items())
        assert found["state"] in STATES
    named = {f"{found['area']} {found['name']}": found for found in facts["findings"]}
    assert named["onnxruntime CPUExecutionProvider"]["state"] == "ok"
    assert "not asked" not in done.stdout
    if not is_jetson() and not Path("/proc/driver/nvidia").exists():
        lacking = [f for f in facts["findings"] if f["area"] in ("board", "python", "gpu", "power")]
        assert {found["state"] for found in lacking} <= {"ok", "absent", "warning"}


def test_the_names_of_findings_are_the_same_everywhere(trees: ModuleType, tmp_path: Path) -> None:
    """Machines read names; providers alone differ, and what only a Jetson has."""
    names = {}
    for make in (trees.orin_nano, trees.plain_box):
        root = make(tmp_path / make.__name__)
        facts = json.loads(doctor("--json", "--root", root).stdout)
        names[make.__name__] = [(found["area"], found["name"]) for found in facts["findings"]]
    assert set(names["orin_nano"]) - set(names["plain_box"]) == {("permissions", "gpu")}
    assert names["plain_box"] == [name for name in names["orin_nano"] if name != ("permissions", "gpu")]


def test_a_table_for_people(trees: ModuleType, orin_nano: Path) -> None:
    plain = trees.virtual_environment(orin_nano, "opt/plain", "3.10", sees_system=False)
    done = doctor("--root", orin_nano, "--venv", plain)
    assert (done.returncode, complaints(done.stderr)) == (3, [])
    lines = done.stdout.splitlines()
    assert "nothing of this machine" in lines[0]
    assert [line for line in lines if line in AREAS] == list(AREAS)
    # The worst comes first, with its reason and a command in one piece.
    below = lines[lines.index("", 1) + 1 :]
    assert below[0].startswith("problem: python environment: ")
    assert any(
        line.startswith("    $ /usr/bin/python3 -m venv --system-site-packages ~/edgeasd-venv && ") for line in below
    )
    assert lines[-1] == "1 problem, 1 warning, 3 hints"


def test_it_needs_nothing_heavy() -> None:
    """A device has the core packages only; None in sys.modules makes an import fail as if there were no package."""
    heavy = ("torch", "onnx", "scipy", "sklearn", "matplotlib", "lightning_fabric", "librosa", "tensorrt", "cuda")
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy!r})); sys.argv[1:] = ['doctor', '--json']\n"
    code += "from edgeasd.toolkit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    assert not complaints(done.stderr)
    found = {f"{one['area']} {one['name']}": one for one in json.loads(done.stdout)["findings"]}
    assert found["tensorrt module"]["state"] == ("problem" if is_jetson() else "absent")
    assert "check" not in {name.split()[1] for name in found}


def test_a_terminal_without_the_letters_gets_question_marks(orin_nano: Path) -> None:
    command = [sys.executable, "-m", "edgeasd", "doctor", "--root", str(orin_nano)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert (done.returncode, complaints(done.stderr.decode())) == (0, [])
    assert b"50 ?C at the warmest" in done.stdout


@pytest.mark.parametrize("arguments", [("--root", "/nowhere/at/all"), ("--venv", "opt/x"), ("--root", "/etc/passwd")])
def test_wrong_use_is_one_line(arguments: tuple[str, ...]) -> None:
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edgeasd: --")


def plain_environment(folder: Path) -> Path:
    """The Python of a new virtual environment that sees nothing of the system; it borrows the packages of the tests."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python3*")) / "site-packages"
    (packages / "borrowed.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return folder / "bin" / "python"


def test_inside_a_plain_virtual_environment(tmp_path: Path) -> None:
    done = doctor("--json", program=str(plain_environment(tmp_path / "venv")))
    found = {f"{f['area']} {f['name']}": f for f in json.loads(done.stdout)["findings"]}["python environment"]
    assert found["found"] == f"virtual environment {tmp_path / 'venv'}, made without --system-site-packages"
    assert found["state"] == ("problem" if is_jetson() else "ok")


def test_the_running_environment_is_judged_by_the_board(orin_nano: Path) -> None:
    """What a Jetson's own process would be told, without being on one."""
    plain = python.Environment("/opt/plain", (3, 10), system_python=True, virtual=True, sees_system=False)
    bare = python.Environment("/usr", (3, 10), system_python=True, virtual=False, sees_system=True)
    assert [found.state for found in python.check(orin_nano, plain)] == ["ok", "problem"]
    assert [found.state for found in python.check(orin_nano, bare)] == ["ok", "ok"]
    old = python.Environment("/opt/old", (3, 8), system_python=True, virtual=True, sees_system=True)
    assert python.check(orin_nano, old)[0].state == "problem"


# ONNX Runtime


def test_the_tiny_model_is_what_it_says() -> None:
    assert onnxruntime.self_test("CPUExecutionProvider") == 0.0
    x = np.random.default_rng(0).standard_normal((1, 1, tiny_model.SIDE, tiny_model.SIDE)).astype(np.float32)
    by_hand = sum(x[0, 0, i : i + 6, j : j + 6] * tiny_model.weights()[0, 0, i, j] for i in range(3) for j in range(3))
    assert np.abs(tiny_model.expected(x)[0, 0] - by_hand).max() < 1e-4


def test_the_tiny_model_is_valid_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(tiny_model.tiny_model())
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (10, [("", 19)])


def test_a_provider_that_does_not_work_is_not_proved() -> None:
    import onnxruntime as ort

    for name in {"CUDAExecutionProvider", "TensorrtExecutionProvider"} - set(ort.get_available_providers()):
        assert onnxruntime.failure_of(name) is not None, name
    assert onnxruntime.failure_of("NoSuchProvider") is not None


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.abort()", "the process died of SIGABRT"),
        ("print(700.0)", "wrong by 700, of sums up to 2,835"),
        ("print('nan')", "wrong by nan, of sums up to 2,835"),
        ("import sys; sys.exit('first\\nlibcudnn.so.9: cannot open')", "libcudnn.so.9: cannot open"),
        ("raise SystemExit(5)", "exit code 5"),
        ("print('noise of a library')", "no figure in its answer"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_what_is_said_of_a_broken_provider(monkeypatch: pytest.MonkeyPatch, program: str, said: str) -> None:
    monkeypatch.setattr(onnxruntime, "_SELF_TEST", program)
    monkeypatch.setattr(onnxruntime, "_SECONDS", 1 if "sleep" in program else 30)
    assert onnxruntime.failure_of("CUDAExecutionProvider") == said
    found = onnxruntime._provider("CUDAExecutionProvider")
    assert (found.state, found.found) == ("warning", f"listed, and does not work: {said}")
    assert onnxruntime._provider("CPUExecutionProvider").state == "problem"


# TensorRT, where it is


def fake_tensorrt(folder: Path, text: str) -> None:
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "state", "said"),
    [
        ("__version__ = '10.3.0'\nclass Builder: pass\n", "ok", "TensorRT 10.3.0 from "),
        ("__version__ = '8.6.2'\nclass Builder: pass\n", "absent", "TensorRT 8.6.2: too old"),
        ("x = 1\n", "absent", "a module `tensorrt` without the library in it"),
        (
            "raise ImportError('libnvdla_compiler.so: cannot open shared object file')",
            "absent",
            "not installed (libnvdla",
        ),
        ("raise OSError('libnvinfer.so.10: file too short')", "problem", "importing tensorrt fails (OSError: libnv"),
    ],
)
def test_what_importing_tensorrt_gives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, state: str, said: str
) -> None:
    if is_jetson():
        pytest.skip("a Jetson has a TensorRT of its own")
    fake_tensorrt(tmp_path, text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    found = next(one for one in tensorrt.check(Path("/"), python.current_environment()) if one.name == "module")
    # Not by monkeypatch, which would put the stand-in back at the end.
    sys.modules.pop("tensorrt", None)
    assert found.state == state
    assert found.found.startswith(said)


# Clock, disk and rights


def test_the_kernel_is_asked_about_its_clock() -> None:
    assert clock.is_kernel_clock_synchronised() in (True, False, None)
    assert clock.check(Path("/"))[1].state == "ok"


def test_a_clock_of_1970_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.time, "time", lambda: 12.0)
    assert clock.check(Path("/"))[1].state == "warning"


MOUNTS = """rootfs / rootfs rw 0 0
/dev/nvme0n1p1 / ext4 rw 0 0
/dev/mmcblk1p2 /data ext4 rw 0 0
/dev/sda1 /mnt/usb\\040stick vfat rw 0 0
overlay /var overlay rw 0 0
/dev/mapper/x /home ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "disk"),
    [
        *(("/", "nvme0n1"), ("/data/edgeasd", "mmcblk1"), ("/database", "nvme0n1"), ("/mnt/usb stick/x", "sda")),
        *(("/var/lib", None), ("/home", None), ("/mnt", "nvme0n1")),
    ],
)
def test_the_disk_of_a_folder(place: str, disk: str | None) -> None:
    assert storage.disk_of(MOUNTS, place) == disk


def test_a_closed_sound_device_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = ["dev/snd/pcmC0D0c", "dev/snd/pcmC1D0c"]
    monkeypatch.setattr(permissions.os, "access", lambda path, mode: False)
    found = permissions._access(Path("/"), "sound", "audio", nodes, "")
    assert (found.state, found.command) == ("problem", "sudo usermod -aG audio $USER")
    assert found.found == "this user may not open 2 devices, first /dev/snd/pcmC0D0c"
    monkeypatch.setattr(permissions.os, "access", lambda path, mode: path.endswith("C1D0c"))
    assert permissions._access(Path("/"), "sound", "audio", nodes, "").state == "warning"
    monkeypatch.setattr(permissions.os, "access", lambda path, mode: mode == os.R_OK | os.W_OK)
    assert permissions._access(Path("/"), "sound", "audio", nodes, "").state == "ok"


LAY_OVER = """set -e
mount -t tmpfs none "$1"
mkdir "$1/changes" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/changes,workdir=$1/work" /etc
cp "$2/etc/nv_tegra_release" /etc/
echo laid over
"$3" -m edgeasd doctor --json
"""


def test_a_process_in_a_plain_environment_on_a_faked_jetson(orin_nano: Path, tmp_path: Path) -> None:
    """The whole command on the live machine, in a mount namespace of its own where /etc is that of a Jetson."""
    if is_jetson():
        pytest.skip("this is a Jetson")
    (tmp_path / "over").mkdir()
    program = plain_environment(tmp_path / "venv")
    command = ["unshare", "--mount", "sh", "-c", LAY_OVER, "sh", tmp_path / "over", orin_nano, program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    except FileNotFoundError:
        pytest.skip("NO unshare: the Jetson is not faked")
    said, _, answer = done.stdout.partition("\n")
    if said != "laid over":
        pytest.skip(f"NO RIGHT to mount in a namespace of one's own: the Jetson is not faked ({done.stderr.strip()})")
    assert done.returncode == 3
    found = {f"{one['area']} {one['name']}": one for one in json.loads(answer)["findings"]}
    assert found["board jetpack"]["found"].startswith("JetPack 6.2 (L4T 36.4.3)")
    assert found["python environment"]["state"] == "problem"
    assert " -m venv --system-site-packages " in found["python environment"]["command"]
    assert found["tensorrt dla_compiler"]["state"] == "problem"
    assert not Path("/etc/nv_tegra_release").exists()
