"""The doctor on hand-written trees: Orin Nano on JetPack 6.2, AGX Orin on JetPack 7.2, a plain box, and what breaks them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest

from edgeasd.runtime.doctor import AREAS, CheckResult, examine, worst
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core

ByName = Callable[[Iterable[CheckResult]], dict[str, CheckResult]]
NVDLA = "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so"


def test_an_orin_nano_on_jetpack_6_2(orin_nano: Path, trees: ModuleType, by_name: ByName) -> None:
    venv = trees.virtual_environment(orin_nano, "opt/edgeasd", "3.10", sees_system=True)
    found = by_name(examine(orin_nano, venv))
    assert worst(found.values()) == "warning"
    assert found["board jetpack"].found == "JetPack 6.2 (L4T 36.4.3): TensorRT 10.3, CUDA 12.6, Python 3.10"
    assert found["board model"].found == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found["python interpreter"].state == "ok"
    assert found["tensorrt library"].found == (
        "TensorRT 10.3.0 in /usr/lib/aarch64-linux-gnu; as JetPack 6.2 brings it"
    )
    assert found["tensorrt module"].state == "ok"
    assert found["tensorrt dla_compiler"].state == "ok"
    assert found["gpu cuda"].found == "CUDA 12.6.68"
    assert found["power mode"].state == "hint"
    assert found["power mode"].found == "25W, of 0 15W, 1 25W, 2 MAXN_SUPER, 3 7W"
    assert found["power mode"].command == "sudo nvpmodel -m 2"
    assert found["power gpu_clock"].found == "nvhost_podgov, between 306 and 1020 MHz"
    assert found["power temperature"].found == "50 °C at the warmest (tj-thermal)"
    assert found["sound capture"].found.startswith("plughw:CARD=Device,DEV=0 (USB PnP Sound Device), 20 of APE")
    assert (found["sound rates"].state, found["sound rates"].found) == ("hint", "Device: 44100, 48000 Hz")
    assert (found["storage medium"].state, found["storage medium"].found) == ("warning", "SD card (mmcblk0)")
    assert "integrator" in found["permissions sound"].found


def test_an_agx_orin_on_jetpack_7_2(agx_orin: Path, trees: ModuleType, by_name: ByName) -> None:
    venv = trees.virtual_environment(agx_orin, "opt/edgeasd", "3.12", sees_system=True)
    found = by_name(examine(agx_orin, venv))
    # Of TensorRT for JetPack 7.2 nothing loads libnvdla_compiler.so any more, and no package has it.
    assert found["tensorrt dla_compiler"].state == "absent"
    assert found["board jetpack"].found == "JetPack 7.2 (L4T 39.2.0): TensorRT 10.16, CUDA 13.2, Python 3.12"
    assert found["tensorrt library"].state == "ok"
    assert (found["power mode"].state, found["power mode"].command) == ("ok", None)
    assert found["power gpu_clock"].found == "performance, fixed at 1300 MHz"
    assert found["power cpu_clock"].found == "performance, fixed at 2202 MHz"
    assert found["memory swap"].state == "ok"
    assert (found["sound capture"].state, found["storage medium"].state) == ("hint", "ok")
    assert worst(found.values()) == "hint"


def test_a_plain_box_lacks_all_that_and_has_no_problem(plain_box: Path, by_name: ByName) -> None:
    findings = examine(plain_box)
    assert worst(findings) == "ok" or [f for f in findings if f.state not in ("ok", "absent")] == []
    found = by_name(findings)
    assert found["board model"].found == "Acme Box 3"
    for area in ("tensorrt", "gpu"):
        assert {one.state for one in findings if one.area == area} == {"absent"}
    # intel_pstate calls its ordinary scaling powersave.
    assert found["power cpu_clock"].state == "ok"
    assert found["time synchronised"].found.startswith("chrony starts with the system")


def test_a_tree_without_anything_is_not_asked_much(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    findings = examine(tmp_path)
    assert [found for found in findings if found.state not in ("ok", "absent")] == []
    assert {found.area for found in findings} == set(AREAS)


@pytest.mark.parametrize("board", ["orin_nano", "agx_orin"])
def test_a_plain_environment_on_a_jetson_is_told_the_flag(
    board: str, trees: ModuleType, tmp_path: Path, by_name: ByName
) -> None:
    root = getattr(trees, board)(tmp_path / board)
    venv = trees.virtual_environment(root, "opt/plain", "3.10" if board == "orin_nano" else "3.12", sees_system=False)
    found = by_name(examine(root, venv))
    environment = found["python environment"]
    assert environment.state == "problem"
    assert "made without --system-site-packages" in environment.found
    assert "needs --system-site-packages" in environment.why
    assert environment.command
    assert environment.command.startswith("/usr/bin/python3 -m venv --system-site-packages ")
    assert "hidden from /opt/plain" in found["tensorrt module"].found


def test_another_python_than_jetpacks_cannot_import_its_tensorrt(
    orin_nano: Path, trees: ModuleType, by_name: ByName
) -> None:
    found = by_name(examine(orin_nano, trees.virtual_environment(orin_nano, "opt/new", "3.11", sees_system=True)))
    assert found["python interpreter"].state == "problem"
    assert found["tensorrt module"].state == "problem"
    text = "home = /home/user/miniconda3/bin\ninclude-system-site-packages = true\nversion = 3.10.14\n"
    trees.write(orin_nano, {"opt/conda/pyvenv.cfg": text})
    found = by_name(examine(orin_nano, "/opt/conda"))
    assert found["python interpreter"].found == "Python 3.10, not the system's; JetPack's is 3.10"
    assert found["python interpreter"].state == "problem"


def test_no_dla_compiler_is_a_problem_on_jetpack_6(orin_nano: Path, by_name: ByName) -> None:
    (orin_nano / NVDLA).write_bytes(b"")
    empty = by_name(examine(orin_nano))["tensorrt dla_compiler"]
    (orin_nano / NVDLA).unlink()
    missing = by_name(examine(orin_nano))["tensorrt dla_compiler"]
    assert (empty.state, missing.state) == ("problem", "problem")
    assert empty.found == f"/{NVDLA} is empty"
    assert missing.found == "libnvdla_compiler.so is missing"
    assert missing.command == "sudo apt install nvidia-l4t-dla-compiler && sudo ldconfig"


def test_versions_are_held_against_jetpacks(orin_nano: Path, by_name: ByName) -> None:
    libraries = orin_nano / "usr/lib/aarch64-linux-gnu"
    (libraries / "libnvinfer.so.10.7.0").write_bytes(b"")
    newer = by_name(examine(orin_nano))["tensorrt library"]
    assert (newer.state, newer.found.partition("; ")[2]) == ("warning", "JetPack 6.2 brings 10.3")
    for path in libraries.glob("libnvinfer*"):
        path.unlink()
    assert by_name(examine(orin_nano))["tensorrt library"].state == "problem"
    (libraries / "libnvinfer.so.8.6.2").write_bytes(b"")
    old = by_name(examine(orin_nano))["tensorrt library"]
    assert (old.state, old.found.partition("; ")[2]) == ("problem", "too old: edgeasd needs 10.3 or later")
    (orin_nano / "usr/local/cuda-12.6/version.json").write_text('{"cuda": {"version": "11.8.0"}}')
    assert by_name(examine(orin_nano))["gpu cuda"].state == "warning"


@pytest.mark.parametrize(
    ("first", "state"),
    [("R36 (release), REVISION: 3.0,", "problem"), ("R36 (release), REVISION: 9.9,", "hint"), ("", "warning")],
)
def test_other_releases(orin_nano: Path, by_name: ByName, first: str, state: str) -> None:
    (orin_nano / "etc/nv_tegra_release").write_text(f"# {first}" if first else "")
    assert by_name(examine(orin_nano))["board jetpack"].state == state


def test_power_falls_back_on_the_default_of_the_table(orin_nano: Path, by_name: ByName) -> None:
    status = orin_nano / "var/lib/nvpmodel/status"
    status.unlink()
    assert by_name(examine(orin_nano))["power mode"].found.startswith("25W, ")
    status.write_text("pmode:0077\n")
    assert by_name(examine(orin_nano))["power mode"].command == "sudo nvpmodel -q"
    (orin_nano / "etc/nvpmodel.conf").unlink()
    assert by_name(examine(orin_nano))["power mode"].state == "warning"


@pytest.mark.parametrize(
    ("life", "reserve", "state"),
    [
        *(("0x01 0x02", "0x01", "ok"), ("0x08 0x01", "0x01", "warning"), ("0x02 0x02", "0x02", "warning")),
        *(("0x0b 0x01", "0x01", "problem"), ("0x01 0x01", "0x03", "problem"), ("0x00 0x00", "0x01", "absent")),
    ],
)
def test_emmc_wear(orin_nano: Path, trees: ModuleType, by_name: ByName, life: str, reserve: str, state: str) -> None:
    device = "sys/block/mmcblk0/device"
    trees.write(orin_nano, {f"{device}/type": "MMC\n", f"{device}/life_time": life, f"{device}/pre_eol_info": reserve})
    found = by_name(examine(orin_nano))
    assert found["storage medium"].found == "eMMC (mmcblk0)"
    assert found["storage wear"].state == state


def test_little_memory_heat_and_a_slow_governor(orin_nano: Path, trees: ModuleType, by_name: ByName) -> None:
    trees.write(
        orin_nano,
        {
            "proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 400000 kB\n",
            "proc/swaps": "Filename Type Size Used Priority\n/dev/mmcblk0p2 partition 2097148 0 -2\n",
            "sys/class/thermal/thermal_zone3/temp": "97000\n",
            "sys/class/thermal/thermal_zone4/temp": "-256000\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
            "etc/group": "audio:x:29:\n",
        },
    )
    found = by_name(examine(orin_nano))
    assert found["memory memory"].state == "warning"
    assert found["memory swap"].state == "hint"
    assert (found["power temperature"].state, found["power temperature"].found[:5]) == ("problem", "97 °C")
    assert found["power cpu_clock"].state == "warning"
    assert (found["permissions sound"].state, found["permissions gpu"].state) == ("hint", "absent")


def test_nobody_sets_the_clock(orin_nano: Path, by_name: ByName) -> None:
    shutil.rmtree(orin_nano / "etc/systemd/system/sysinit.target.wants")
    found = by_name(examine(orin_nano))["time synchronised"]
    assert found.state == "warning"
    assert found.command


def test_a_limit_of_a_container_counts(plain_box: Path, trees: ModuleType, by_name: ByName) -> None:
    trees.write(plain_box, {"sys/fs/cgroup/memory.max": f"{2**29}\n", "sys/fs/cgroup/memory.current": f"{2**28}\n"})
    memory = by_name(examine(plain_box))["memory memory"]
    assert (memory.state, memory.found) == ("warning", "0.5 GiB by the limit of this container, 0.2 available")


def test_wrong_use_has_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        examine(tmp_path / "nowhere")
    with pytest.raises(InputError, match="none of etc, proc, sys, usr"):
        examine(tmp_path)
    (tmp_path / "usr").mkdir()
    with pytest.raises(InputError, match=r"no pyvenv\.cfg"):
        examine(tmp_path, "opt/none")
    with pytest.raises(InputError, match="goes with --root"):
        examine(Path("/"), "opt/none")
