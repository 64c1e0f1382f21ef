"""A whole Debian with a systemd of its own, in a container on a throw-away copy of a root folder.

The root is made by debootstrap (a minute and a half, from Debian's mirror), or is the folder that EDGEASD_BOX_ROOT
names, which is only read: `debootstrap --variant=minbase --include=PACKAGES bookworm FOLDER`, with PACKAGES below.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = (
    "systemd,systemd-sysv,dbus,udev,libpam-systemd,sudo,logrotate,procps,python3-venv,alsa-utils,libasound2-plugins"
)
PAGE = (REPOSITORY / "docs/how-to/install-linux.md").read_text("utf-8")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Done = subprocess.CompletedProcess[str]


def _host(*command: object, seconds: float = 60) -> Done:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)


class Box:
    """The container. It has no network, and what it writes is gone at the end."""

    def __init__(self, root: Path, scratch: Path, carried: Path) -> None:
        self._root, self._scratch, self._carried = root, scratch, carried
        self._place = scratch / "box"
        self._process: subprocess.Popen[str] | None = None
        for name in ("box", "upper", "work"):
            (scratch / name).mkdir()
        # Whatever the mode of the scratch folder, the root of a system is open to all its users.
        (scratch / "upper").chmod(0o755)
        # debootstrap leaves the name of this machine, and sudo complains of a host that it cannot look up.
        (scratch / "upper/etc").mkdir()
        (scratch / "upper/etc/hostname").write_text("box\n", "utf-8")
        (scratch / "upper/etc/hosts").write_text("127.0.0.1 localhost box\n", "utf-8")
        layers = f"lowerdir={root},upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
        done = _host("mount", "-t", "overlay", "box", "-o", layers, self._place)
        if done.returncode:
            pytest.skip(f"NO BOX: no overlay can be mounted here: {done.stderr.strip()}")

    def boot(self) -> None:
        """Power on; returns when systemd has started everything. Skips where this machine cannot boot one."""
        command = ["systemd-nspawn", "--quiet", "--boot", f"--directory={self._place}", "--register=no", "--keep-unit"]
        command += ["--private-network", "--console=pipe", "--hostname=box", f"--bind-ro={self._carried}:/root/carried"]
        with (self._scratch / "console").open("a") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, text=True, start_new_session=True
            )
        try:
            self.until(lambda: self("systemctl is-system-running").stdout.strip() in ("running", "degraded"), 60)
        except AssertionError:
            said = (self._scratch / "console").read_text("utf-8", "replace")[-500:]
            self.cut_power()
            pytest.skip(f"NO BOX: systemd does not boot in a container here: {said}")

    def cut_power(self) -> None:
        """Everything in it is gone at once, systemd first."""
        if self._process is None:
            return
        for pid in (self._init(), str(self._process.pid)):
            if pid:
                os.kill(int(pid), signal.SIGKILL)
        self._process.wait(20)
        self._process = None

    def close(self) -> None:
        """Off, and nothing of it left mounted or on the disk."""
        self.cut_power()
        # The dead container's mounts go with its last process, which may take a moment.
        self.until(lambda: _host("umount", self._place).returncode == 0, 20)
        shutil.rmtree(self._scratch)

    def _init(self) -> str:
        pid = "none" if self._process is None else self._process.pid
        try:
            return Path(f"/proc/{pid}/task/{pid}/children").read_text().partition(" ")[0]
        except OSError:
            return ""

    def __call__(self, line: str, seconds: float = 60) -> Done:
        """A line of shell in the box, as root, where the files of the page lie."""
        if not (init := self._init()):
            return Done([line], 255, "", "the box is off")
        enter = ["nsenter", f"--target={init}", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        clean = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"]
        script = f"cd /root/carried 2>/dev/null; {line}"
        return _host(*enter, *clean, "bash", "-c", script, seconds=seconds)

    def ok(self, line: str, seconds: float = 60) -> str:
        """What a line says that must succeed."""
        done = self(line, seconds)
        assert done.returncode == 0, f"{line}: {done.stderr}{done.stdout}"
        return done.stdout

    def page(self, line: str, seconds: float = 60) -> str:
        """As `ok`, for a line of docs/how-to/install-linux.md: what is not on the page is not typed."""
        assert line in PAGE, f"not on the page: {line}"
        return self.ok(line, seconds)

    def edgeasd(self, arguments: str, user: str = "edgeasd") -> Done:
        """A command of edgeasd as `user`."""
        return self(f"sudo -u {user} /opt/edgeasd/venv/bin/edgeasd {arguments}")

    def show(self, name: str, unit: str = "edgeasd") -> str:
        """A property of a unit."""
        return self.ok(f"systemctl show {shlex.quote(unit)} --property={name} --value").strip()

    def journal(self, unit: str = "edgeasd") -> str:
        """What the unit has said since the power is on."""
        return self.ok(f"journalctl -b -u {shlex.quote(unit)} --no-pager --output=cat")

    def until(self, holds: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait for `holds`."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.2)


def _need_a_box() -> None:
    if os.geteuid() != 0:
        pytest.skip("NO BOX: only root can boot a container; run these tests as root")
    for program, package in (("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            pytest.skip(f"NO BOX: no {program} here; apt install {package}")


@pytest.fixture(scope="session")
def box_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root folder of a Debian, only read."""
    _need_a_box()
    if given := os.environ.get("EDGEASD_BOX_ROOT"):
        yield Path(given)
        return
    if shutil.which("debootstrap") is None:
        pytest.skip("NO BOX: no debootstrap here (apt install debootstrap), and EDGEASD_BOX_ROOT names no root")
    root = tmp_path_factory.mktemp("debian") / "root"
    done = _host("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root, seconds=400)
    if done.returncode:
        shutil.rmtree(root, ignore_errors=True)
        pytest.skip(f"NO BOX: debootstrap: {(done.stderr or done.stdout).strip()[-300:]}")
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def carried(box_root: Path, tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Iterator[Path]:
    """What an integrator copies to a box without network: wheels, the files of the page, a bundle."""
    python = os.readlink(box_root / "usr/bin/python3")
    if python != f"python{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"NO BOX: it has {python}, so this Python cannot fetch wheels for it")
    folder = tmp_path_factory.mktemp("carried")
    (line,) = re.findall(r"^venv/bin/pip wheel (.*)$", PAGE, re.MULTILINE)
    words = shlex.split(line.replace("--wheel-dir wheels", f"--wheel-dir {folder / 'wheels'}"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"NO BOX: the wheels cannot be had: {done.stderr.strip()[-300:]}")
    shutil.copytree(REPOSITORY / "docs/install", folder / "docs/install")
    shutil.copytree(small_bundle, folder / "pump-id_01")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def bare_box(box_root: Path, carried: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box that is on, and has nothing of edgeasd."""
    box = Box(box_root, tmp_path_factory.mktemp("box"), carried)
    try:
        box.boot()
        yield box
    finally:
        box.close()
