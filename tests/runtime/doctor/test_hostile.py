"""System files are input: whatever they hold, each area answers, in plain text, and nothing leaves the root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.doctor import AREAS, STATES, examine
from edgeasd.runtime.doctor.memory import parse_meminfo, parse_swaps
from edgeasd.runtime.doctor.permissions import parse_group
from edgeasd.runtime.doctor.power import parse_modes, strongest
from edgeasd.runtime.doctor.result import CheckResult
from edgeasd.runtime.doctor.sound import parse_capture, parse_cards, parse_rates
from edgeasd.runtime.doctor.storage import disk_of

pytestmark = pytest.mark.core

ESCAPES = b"\x1b]0;title\x07\x1b[2J\x9b31m\xe2\x80\xae\r\n"
GARBAGE = bytes(range(256)) * 40


def _replace(place: Path, with_what: str) -> None:
    content = place.read_bytes()
    place.unlink()
    if with_what == "pipe":
        os.mkfifo(place)
    elif with_what == "folder":
        place.mkdir()
    elif with_what == "loop":
        place.symlink_to(place.name)
    elif with_what == "outside":
        place.symlink_to("/etc/passwd")
    else:
        changed = {
            "empty": b"",
            "garbage": GARBAGE,
            "huge": b"9" * 5_000_000,
            "escapes": content.replace(b" ", ESCAPES) + ESCAPES,
            "lines": content * 2000,
            "deep": b"[" * 100_000,
        }
        place.write_bytes(changed[with_what])


KINDS = ("pipe", "folder", "loop", "outside", "empty", "garbage", "huge", "escapes", "lines", "deep")


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_may_be_hostile(kind: str, trees: ModuleType, tmp_path: Path) -> None:
    template = trees.orin_nano(tmp_path / "template")
    trees.virtual_environment(template, "opt/edgeasd", "3.10", sees_system=True)
    names = sorted(p.relative_to(template) for p in template.rglob("*") if p.is_file() and not p.is_symlink())
    assert len(names) > 30
    for name in names:
        if name.name == "pyvenv.cfg":
            continue
        place = template / name
        kept = place.read_bytes()
        _replace(place, kind)
        findings = examine(template, "opt/edgeasd")
        assert {found.area for found in findings} == set(AREAS)
        for found in findings:
            assert found.name != "check", f"{name} {kind}: {found.found}"
            assert found.found.isprintable()
            assert len(found.found) <= 300
            assert (found.command or "").isprintable()
            assert "root:" not in found.found, f"{name}: read outside the root"
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink()
        place.write_bytes(kept)


def test_an_area_that_fails_says_so_and_hides_no_other(monkeypatch: pytest.MonkeyPatch, orin_nano: Path) -> None:
    def broken(root: Path) -> list[CheckResult]:
        raise ZeroDivisionError("nobody\nforesaw")

    monkeypatch.setattr("edgeasd.runtime.doctor.memory.check", broken)
    findings = examine(orin_nano)
    failed = [found for found in findings if found.area == "memory"]
    assert [(f.name, f.state) for f in failed] == [("check", "problem")]
    assert failed[0].found == "the check itself failed (ZeroDivisionError: nobody foresaw)"
    assert {found.area for found in findings} == set(AREAS)


LEAK = """
import sys, os
from pathlib import Path
import edgeasd.runtime.doctor as doctor, importlib
for area in doctor.AREAS: importlib.import_module(f"edgeasd.runtime.doctor.{area}")
doctor.examine(Path(sys.argv[2]))
seen = []
def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.system", "ctypes.dlopen", "import", "os.fork"):
        seen.append((event, arguments))
sys.addaudithook(hook)
doctor.examine(Path(sys.argv[1]), "opt/edgeasd")
root = os.path.realpath(sys.argv[1])
outside = [(e, a[0]) for e, a in seen if e == "import" or e not in ("open", "os.listdir", "os.scandir") or not str(a[0]).startswith(root)]
print(len(seen), outside)
"""


def test_another_root_asks_nothing_of_this_machine(trees: ModuleType, orin_nano: Path, plain_box: Path) -> None:
    trees.virtual_environment(orin_nano, "opt/edgeasd", "3.10", sees_system=True)
    for path in ("etc/group", "proc/meminfo", "etc/os-release", "proc/asound/cards"):
        (orin_nano / path).unlink()
        (orin_nano / path).symlink_to(f"/{path}.of-the-machine")
    command = [sys.executable, "-c", LEAK, orin_nano, plain_box]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, _, outside = done.stdout.strip().partition(" ")
    assert int(count) > 40
    assert outside == "[]"


@given(st.text())
def test_what_is_printed_is_one_plain_line(text: str) -> None:
    line = CheckResult("board", "model", "ok", text, "").found
    assert line.isprintable()
    assert len(line) <= 300
    assert line == CheckResult("board", "model", "ok", line, "").found


def test_a_finding_has_a_known_state() -> None:
    assert [CheckResult("a", "b", state, "", "").state for state in STATES] == list(STATES)
    with pytest.raises(ValueError, match="not a state"):
        CheckResult("a", "b", "fine", "", "")


PARSERS: tuple[Callable[[str], object], ...] = (
    parse_meminfo,
    parse_swaps,
    parse_modes,
    parse_capture,
    parse_cards,
    parse_rates,
    lambda text: parse_group(text, "audio"),
    lambda text: disk_of(text, "/var/lib"),
)
PIECES = (
    *("MemTotal:", " 12 kB", "\n", "/dev/mmcblk0p1 / ext4", "< POWER_MODEL ID=1 NAME=", "MODE_15W >"),
    *("00-01: x : capture 1", " 1 [APE  ]: a - b", "\nCapture:\n", "Rates: 1, 48000", "audio:x:29:a,,b"),
    *("\\040", "\\777", "٣", "\0", " "),
)
ALMOST = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(text=st.one_of(st.text(), ALMOST))
@settings(max_examples=300)
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in PARSERS:
        parse(text)
    strongest(parse_modes(text))


@given(st.dictionaries(st.integers(0, 20), st.sampled_from(["15W", "MODE_30W", "7W", "MAXN", "MAXN_SUPER", "X"])))
def test_the_strongest_mode_is_the_unlimited_one(modes: dict[int, str]) -> None:
    best = strongest(modes)
    names = set(modes.values())
    if "MAXN_SUPER" in names:
        assert modes[best or 0] == "MAXN_SUPER"
    elif "MAXN" in names:
        assert modes[best or 0] == "MAXN"
    elif "MODE_30W" in names:
        assert modes[best or 0] == "MODE_30W"
    else:
        assert (best is None) == (not names - {"X"})
