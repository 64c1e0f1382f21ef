"""Small trees of system files, written by hand after what Jetsons hold; nobody copied them from hardware.

As a program it writes the trees that docs/how-to/doctor.md shows: python tests/runtime/doctor/doctor_trees.py DIR
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

RELEASE = (
    "# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
)
LIBRARIES = "usr/lib/aarch64-linux-gnu"
GPU = "sys/class/devfreq/17000000.gpu"

USB_STREAM = """USB PnP Sound Device at usb-3610000.usb-2.1, full speed : USB Audio

Playback:
  Status: Stop
  Interface 1
    Altset 1
    Format: S16_LE
    Channels: 2
    Endpoint: 0x01 (1 OUT) (ADAPTIVE)
    Rates: 16000, 48000

Capture:
  Status: Stop
  Interface 2
    Altset 1
    Format: S16_LE
    Channels: 1
    Endpoint: 0x82 (2 IN) (ASYNC)
    Rates: 44100, 48000
"""
CARDS = """ 0 [HDA            ]: tegra-hda - NVIDIA Jetson HDA
                      NVIDIA Jetson HDA at 0x3518000 irq 112
 1 [APE            ]: tegra-ape - NVIDIA Jetson APE
                      Unknown-NotSpecified-NotSpecified
"""
USB_CARD = """ 2 [Device         ]: USB-Audio - USB PnP Sound Device
                      C-Media Electronics Inc. USB PnP Sound Device at usb-3610000.usb-2.1, full speed
"""
PCM = "00-03: HDMI 0 : HDMI 0 : playback 1\n" + "".join(
    f"01-{n:02}: XBAR-ADMAIF{n + 1}-{n} {n} :  : playback 1 : capture 1\n" for n in range(20)
)


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below `root`; returns it."""
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def link(root: Path, path: str, target: str) -> None:
    """A symbolic link as the machine itself would have it, absolute ones included."""
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def power_table(modes: Mapping[int, str], default: int) -> str:
    """An nvpmodel.conf, shortened; its head describes the format in the same words that its sections use."""
    head = "#\n# FORMAT:\n# < PARAM TYPE=PARAM_TYPE NAME=PARAM_NAME >\n# < POWER_MODEL ID=id_num NAME=mode_name >\n#\n"
    head += "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n\n"
    sections = [f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\n\n" for number, name in modes.items()]
    return head + "".join(sections) + f"# mandatory section to configure the default\n< PM_CONFIG DEFAULT={default} >\n"


def common(root: Path, cuda: str, python: str, tensorrt: str) -> None:
    """What every Jetson has."""
    packages = f"usr/lib/python{python}/dist-packages"
    write(
        root,
        {
            "etc/hosts": "127.0.0.1 localhost\n",
            f"{LIBRARIES}/libnvinfer.so.{tensorrt}": b"\x7fELF",
            f"{packages}/tensorrt/__init__.py": "raise SystemExit('imported')\n",
            f"{packages}/tensorrt-{tensorrt}.dist-info/METADATA": "Name: tensorrt\n",
            f"usr/bin/python{python}": b"\x7fELF",
            "usr/bin/arecord": b"\x7fELF",
            f"usr/local/cuda-{cuda[:4]}/version.json": json.dumps({"cuda_cudart": {"name": "CUDA", "version": cuda}}),
            "sys/module/nvgpu/refcnt": "5\n",
            "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
            "proc/asound/cards": CARDS,
            "proc/asound/pcm": PCM,
            f"{GPU}/governor": "nvhost_podgov\n",
            f"{GPU}/min_freq": "306000000\n",
            f"{GPU}/max_freq": "1020000000\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48312\n",
            "sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
            "sys/class/thermal/thermal_zone8/temp": "49812\n",
            "etc/systemd/system/sysinit.target.wants/.keep": "",
        },
    )
    link(root, f"{LIBRARIES}/libnvinfer.so.10", f"libnvinfer.so.{tensorrt}")
    link(root, "usr/bin/python3", f"python{python}")
    link(root, "etc/alternatives/cuda", f"/usr/local/cuda-{cuda[:4]}")
    link(root, "usr/local/cuda", "/etc/alternatives/cuda")
    timesyncd = "/lib/systemd/system/systemd-timesyncd.service"
    link(root, "etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service", timesyncd)


def policies(root: Path, count: int, governor: str, low: int, high: int) -> None:
    """CPU clocks, in kHz."""
    for number in range(count):
        folder = f"sys/devices/system/cpu/cpufreq/policy{4 * number}"
        files = {"scaling_governor": f"{governor}\n", "scaling_driver": "tegra194\n"}
        files |= {"scaling_min_freq": f"{low}\n", "scaling_max_freq": f"{high}\n"}
        write(root, {f"{folder}/{name}": text for name, text in files.items()})


def orin_nano(root: Path) -> Path:
    """An Orin Nano developer kit on JetPack 6.2, on its SD card, with a USB microphone, in the mode of 25 W."""
    common(root, "12.6.68", "3.10", "10.3.0")
    write(
        root,
        {
            "etc/nv_tegra_release": RELEASE.format(major=36, revision="4.3"),
            "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\n',
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
            f"{LIBRARIES}/nvidia/libnvdla_compiler.so": b"\x7fELF",
            "etc/nvpmodel/nvpmodel_p3767_0003_super.conf": power_table(
                {0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}, default=1
            ),
            "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
            "proc/meminfo": "MemTotal:        7802856 kB\nMemFree:          812340 kB\nMemAvailable:    5210112 kB\n",
            "proc/mounts": "proc /proc proc rw 0 0\n/dev/mmcblk0p1 / ext4 rw,relatime 0 0\n",
            "sys/block/mmcblk0/device/type": "SD\n",
            "proc/asound/cards": CARDS + USB_CARD,
            "proc/asound/pcm": PCM + "02-00: USB Audio : USB Audio : playback 1 : capture 1\n",
            "proc/asound/card2/stream0": USB_STREAM,
            "etc/group": "root:x:0:\naudio:x:29:pulse,integrator\nvideo:x:44:integrator\n",
        },
    )
    link(root, "etc/nvpmodel.conf", "/etc/nvpmodel/nvpmodel_p3767_0003_super.conf")
    policies(root, 2, "schedutil", 729600, 1344000)
    return root


def agx_orin(root: Path) -> Path:
    """An AGX Orin on JetPack 7.2, on an NVMe disk, at full power, clocks fixed by jetson_clocks, without a microphone."""
    common(root, "13.2.75", "3.12", "10.16.2")
    write(
        root,
        {
            "etc/nv_tegra_release": RELEASE.format(major=39, revision="2.0"),
            "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\n',
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
            "etc/nvpmodel/nvpmodel_p3701_0000.conf": power_table(
                {0: "MAXN", 1: "MODE_15W", 2: "MODE_30W", 3: "MODE_50W"}, default=2
            ),
            "var/lib/nvpmodel/status": "pmode:0000\n",
            "proc/meminfo": "MemTotal:       64349724 kB\nMemFree:        52123340 kB\nMemAvailable:   58210112 kB\n",
            "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 2681228 0 5\n/swapfile file 8388604 0 -2\n",
            "proc/mounts": "/dev/nvme0n1p1 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n",
            "etc/group": "root:x:0:\naudio:x:29:pulse\nvideo:x:44:integrator\n",
            f"{GPU}/governor": "performance\n",
            f"{GPU}/min_freq": "1300500000\n",
            f"{GPU}/max_freq": "1300500000\n",
        },
    )
    link(root, "etc/nvpmodel.conf", "/etc/nvpmodel/nvpmodel_p3701_0000.conf")
    policies(root, 3, "performance", 2201600, 2201600)
    return root


def plain_box(root: Path) -> Path:
    """A small computer that is no Jetson and lacks all of it."""
    return write(
        root,
        {
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "etc/group": "root:x:0:\naudio:x:29:integrator\n",
            "etc/systemd/system/multi-user.target.wants/chrony.service": "",
            "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n",
            "proc/mounts": "/dev/sda2 / ext4 rw 0 0\n",
            "proc/swaps": "Filename Type Size Used Priority\n/dev/sda3 partition 2097148 0 -2\n",
            "sys/block/sda/removable": "0\n",
            "sys/block/sda/queue/rotational": "0\n",
            "sys/class/dmi/id/sys_vendor": "Acme\n",
            "sys/class/dmi/id/product_name": "Box 3\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_driver": "intel_pstate\n",
            "sys/module/snd/refcnt": "1\n",
            "usr/bin/python3.11": b"\x7fELF",
            "usr/bin/arecord": b"\x7fELF",
        },
    )


def virtual_environment(root: Path, path: str, python: str, sees_system: bool) -> str:
    """A pyvenv.cfg as `python3 -m venv` of that machine writes it; returns `path`."""
    text = f"home = /usr/bin\ninclude-system-site-packages = {str(sees_system).lower()}\nversion = {python}.12\n"
    write(root, {f"{path}/pyvenv.cfg": text})
    return path


if __name__ == "__main__":
    for make in (orin_nano, agx_orin, plain_box):
        made = make(Path(sys.argv[1]) / make.__name__)
        virtual_environment(made, "opt/plain", "3.10", sees_system=False)
        virtual_environment(made, "opt/edgeasd", "3.12" if make is agx_orin else "3.10", sees_system=True)
