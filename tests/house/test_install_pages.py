"""What the pages on installing name is there, parses, and holds what they say of it."""

from __future__ import annotations

import getpass
import grp
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from edgeasd.runtime.config import parse_config

pytestmark = pytest.mark.core

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
FILES = DOCS / "install"
NAMES = ("how-to/install-linux.md", "how-to/install-jetson.md", "tutorials/from-microphone-to-alarm.md")
PAGES = {name: (DOCS / name).read_text("utf-8") for name in NAMES}
TEXT = "\n".join(PAGES.values())
TODAY, SITE = "edgeasd@.service", "edgeasd.service"
PROGRAM = r"/opt/edgeasd/[\w.]+/bin/edgeasd"

Settings = dict[str, list[str]]


def run(*command: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    env = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1"}
    return subprocess.run(words, capture_output=True, text=True, env=env, timeout=timeout, check=False)


def need(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"NOT CHECKED: no {program} here")
    return found


@cache
def options(command: str) -> frozenset[str]:
    done = run(sys.executable, "-m", "edgeasd", *command.split(), "--help")
    assert done.returncode == 0, f"edgeasd {command}: {done.stderr}"
    return frozenset(re.findall(r"^\s+(?:-\w, )?(--[a-z0-9-]+)", done.stdout, re.MULTILINE))


def unknown_options(line: str) -> set[str]:
    """Options of `run --device x` that its help does not know; `alarm test` is a command of two words."""
    words = shlex.split(line)
    command = " ".join(words[: 2 if words[0] in ("alarm", "events", "data") else 1])
    return {word.partition("=")[0] for word in words[1:] if word.startswith("--")} - options(command)


def settings(unit: str) -> Settings:
    """Key to values; a unit may say a key several times."""
    found: Settings = {}
    for line in (FILES / unit).read_text("utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


# Pages


def test_install_files_exist_and_are_all_named() -> None:
    named = set(re.findall(r"(?<![\w/])(?:docs/)?install/([\w@.-]+\w)", TEXT))
    assert named == {path.name for path in FILES.iterdir() if path.is_file()}
    constraints = set(re.findall(r"constraints/([\w]+\.txt)", TEXT))
    assert constraints == {path.name for path in (REPOSITORY / "constraints").iterdir()}


def test_every_command_on_the_box_fits_its_help() -> None:
    lines = re.findall(rf"{PROGRAM} ([a-z][^\n|;&]*?)(?: 2>&1.*)?$", TEXT, re.MULTILINE)
    assert {line.split()[0] for line in lines} >= {"doctor", "verify", "build", "run", "alarm"}
    assert {line: wrong for line in lines if (wrong := unknown_options(line))} == {}


def test_what_was_never_tried_is_said() -> None:
    assert "Nothing on this page was tried on a Jetson." in PAGES["how-to/install-jetson.md"]
    assert "NEVER TRIED ON A JETSON" in (FILES / "jetson-gpu.conf").read_text("utf-8")
    assert "No step was tried on a real box, a real microphone or real ARM." in PAGES["how-to/install-linux.md"]


# Units


def test_the_unit_of_today_starts_a_command_that_exists() -> None:
    (line,) = settings(TODAY)["ExecStart"]
    started = re.fullmatch(rf"{PROGRAM} (run .*)", line)
    assert started
    assert not unknown_options(started[1])
    example = dict(
        line.split("=", 1)
        for line in (FILES / "pump1.env").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    )
    assert set(example) == {"EDGEASD_DEVICE", "EDGEASD_BUNDLE", "EDGEASD_OPTIONS"}
    assert not unknown_options("run " + example["EDGEASD_OPTIONS"])
    assert example["EDGEASD_DEVICE"].removeprefix("plughw:CARD=") in names_given()


def test_the_unit_of_a_site_starts_what_run_can_do() -> None:
    (line,), (check, hangup) = settings(SITE)["ExecStart"], settings(SITE)["ExecReload"]
    started, checked = (re.fullmatch(rf"{PROGRAM} (run .*)", one) for one in (line, check))
    assert started
    assert checked
    assert not unknown_options(started[1])
    assert not unknown_options(checked[1])
    # A reload checks the file of the running service, and before it is told to read it.
    assert checked[1] == f"{started[1]} --check"
    assert hangup == "/bin/kill -HUP $MAINPID"


def test_example_site_loads_and_uses_the_unit_folders() -> None:
    text = (FILES / "site.toml").read_bytes()
    site = parse_config(text, Path("/etc/edgeasd/site.toml"))
    assert str(site.data) == f"/var/lib/{settings(SITE)['StateDirectory'][0]}"
    assert [one.device.removeprefix("plughw:CARD=") for one in site.streams.values() if one.device] == names_given()[:1]


def test_both_units_restrict_the_same() -> None:
    own = {"Description", "After", "Type", "NotifyAccess", "TimeoutStartSec", "WatchdogSec", "EnvironmentFile"}
    own |= {"ExecStart", "ExecReload", "TasksMax", "PrivateNetwork", "RestrictAddressFamilies", "IPAddressDeny"}
    today, site = ({k: v for k, v in settings(unit).items() if k not in own} for unit in (TODAY, SITE))
    assert today == site
    assert today["Restart"] == ["always"]
    assert today["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize(
    ("unit", "dropins", "rating"),
    [(TODAY, [], 0.5), (TODAY, ["jetson-gpu.conf"], 0.8), (SITE, [], 1.4), (SITE, ["jetson-gpu.conf"], 1.6)],
    ids=["today", "today on a Jetson", "site", "site on a Jetson"],
)
def test_systemd_takes_the_unit_and_rates_it_as_the_page_says(
    tmp_path: Path, unit: str, dropins: list[str], rating: float
) -> None:
    analyze = need("systemd-analyze")
    path = tmp_path / unit.replace("@", "@pump1")
    # The program is not installed where this runs, and systemd looks for it.
    path.write_text(re.sub(PROGRAM, "/bin/true", (FILES / unit).read_text("utf-8")), "utf-8")
    for name in dropins:
        (folder := tmp_path / f"{path.name}.d").mkdir(exist_ok=True)
        shutil.copy(FILES / name, folder)
    done = run(analyze, "verify", "--man=no", path)
    assert done.returncode == 0, done.stderr
    assert not re.search(rf"{re.escape(path.name)}|\.conf:", done.stderr), done.stderr
    rated = run(analyze, "security", "--offline=true", path)
    if (found := re.search(r"exposure level[^\n]*: ([\d.]+)", rated.stdout)) is None:
        pytest.skip(f"NOT RATED: this systemd-analyze cannot rate a file ({rated.stderr.strip()[:100]})")
    assert float(found[1]) <= rating + 0.2, rated.stdout
    assert str(rating) in TEXT


def test_a_key_that_systemd_does_not_know_would_be_found(tmp_path: Path) -> None:
    analyze = need("systemd-analyze")
    path = tmp_path / "wrong.service"
    path.write_text("[Service]\nExecStart=/bin/true\nRestartForever=yes\n", "utf-8")
    assert "wrong.service" in run(analyze, "verify", "--man=no", path).stderr


# The user, the microphone, the records


def test_sysusers_makes_the_user_that_the_units_name(tmp_path: Path) -> None:
    sysusers = need("systemd-sysusers")
    (folder := tmp_path / "etc/sysusers.d").mkdir(parents=True)
    shutil.copy(FILES / "edgeasd.sysusers", folder / "edgeasd.conf")
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n", "utf-8")
    (tmp_path / "etc/group").write_text("root:x:0:\naudio:x:29:\n", "utf-8")
    done = run(sysusers, f"--root={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert settings(TODAY)["User"] == ["edgeasd"]
    assert "edgeasd:x:" in (tmp_path / "etc/passwd").read_text("utf-8")
    assert "audio:x:29:edgeasd" in (tmp_path / "etc/group").read_text("utf-8")


def rules() -> list[str]:
    lines = (FILES / "85-edgeasd-microphone.rules").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def names_given() -> list[str]:
    return [name for line in rules() for name in re.findall(r'ATTR\{id\}="([^"]*)"', line)]


def test_udev_rules_are_valid_with_alsa_names() -> None:
    term = r'[A-Z]+(?:\{\w+\})?(?:==|!=|=)"[^"]*"'
    assert rules()
    assert [line for line in rules() if not re.fullmatch(rf"{term}(?:, {term})*", line)] == []
    # snd_card_set_id of the kernel: 15 characters, and no digit first, which ALSA would take for a number.
    assert [name for name in names_given() if not re.fullmatch(r"[A-Za-z][\w-]{0,14}", name)] == []
    assert len(names_given()) == len(set(names_given())) == len(rules())


def test_udev_takes_the_rules() -> None:
    done = run(need("udevadm"), "verify", FILES / "85-edgeasd-microphone.rules")
    if "Unknown command" in done.stderr:
        pytest.skip("NOT CHECKED: this udevadm has no verify (systemd 254 has)")
    assert done.returncode == 0, done.stderr + done.stdout


def test_logrotate_empties_the_records_and_keeps_a_copy(tmp_path: Path) -> None:
    logrotate = need("logrotate")
    (folder := tmp_path / "records").mkdir()
    (records := folder / "pump1.jsonl").write_text('{"type": "score"}\n' * 3, "utf-8")
    text = (FILES / "edgeasd.logrotate").read_text("utf-8").replace("/var/lib/edgeasd", str(folder))
    me = f"su {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}"
    config = tmp_path / "logrotate.conf"
    config.write_text(text.replace("su edgeasd edgeasd", me), "utf-8")
    config.chmod(0o644)
    done = run(logrotate, "--force", "--state", tmp_path / "state", config)
    assert done.returncode == 0, done.stderr
    assert records.read_text("utf-8") == ""
    (copy,) = folder.glob("pump1.jsonl-*")
    assert copy.read_text("utf-8").count("\n") == 3


# Wheels


@cache
def check_wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheels", FILES / "check_wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules["check_wheels"] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_of_wheels_has_the_versions_of_the_constraints() -> None:
    page = PAGES["how-to/install-linux.md"]
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+), glibc [\d.]+ \| ([\d.]+), glibc [\d.]+ \|$", page, re.MULTILINE)
    pure = re.search(r"^For any machine: (.*)\.$", page, re.MULTILINE)
    assert pure
    listed = {name for name, *_ in rows} | set(pure[1].split(", "))
    pinned: dict[str, list[str]] = {}
    for name in ("jetpack6", "jetpack7"):
        for pin in check_wheels().lines_of(REPOSITORY / "constraints" / f"{name}.txt"):
            pinned.setdefault(pin.name, []).append(str(pin.specifier).removeprefix("=="))
    assert listed == set(pinned)
    assert {name: versions for name, *versions in rows} == {name: pinned[name] for name, *_ in rows}


def wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs), "", ""]
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines))
    return path


def test_a_missing_an_old_and_an_idle_wheel_are_found(tmp_path: Path) -> None:
    module = check_wheels()
    whole = {"numpy": "2.2", "pydantic": "2.9", "soundfile": "0.13", "soxr": "0.5", "tomli": "2.0", "typer": "0.20"}
    whole |= {"paho-mqtt": "2.1", "prometheus-client": "0.21", "cuda-bindings": "12.8.0", "helper": "1.0"}
    whole |= {"httpx": "0.27", "pillow": "10.1", "rich": "13.0"}
    for name, version in whole.items():
        wheel(tmp_path, name, version)
    # Conditions are those of the target, whatever Python runs this.
    wheel(tmp_path, "onnxruntime", "1.23.2", 'helper; python_version < "3.11"', 'absent; platform_machine == "x86_64"')
    ten, twelve = module.TARGETS["jetpack6"], module.TARGETS["jetpack7"]
    assert module.faults(module.wheels(tmp_path), ten) == []
    assert module.faults(module.wheels(tmp_path), twelve) == ["helper is needed by nobody", "tomli is needed by nobody"]
    (tmp_path / "helper-1.0-py3-none-any.whl").unlink()
    (tmp_path / "soxr-0.5-py3-none-any.whl").unlink()
    wheel(tmp_path, "soxr", "0.4")
    faults = module.faults(module.wheels(tmp_path), ten)
    assert sorted(fault.split(",")[-1] for fault in faults) == [" and it is not in the set", " and the set has 0.4"]


@pytest.mark.slow
def test_every_device_package_has_a_wheel() -> None:
    done = run(sys.executable, FILES / "check_wheels.py", timeout=280)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line not in PAGES["how-to/install-linux.md"]] == []
