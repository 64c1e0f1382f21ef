"""The documentation is true: its examples run, its links lead somewhere, its commands exist as shown."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.alarms import parse_command
from edgeasd.runtime.alarms.transition import REASONS
from edgeasd.runtime.health import STATES as HEALTH_STATES
from edgeasd.runtime.health import HealthSettings

pytestmark = pytest.mark.core

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
BUILT = {"build", "dist", "edgeasd-demo", "site-packages", "venv"}
SHELL = ("sh", "console", "text")


def _pages() -> list[Path]:
    found = []
    for folder, folders, names in os.walk(REPOSITORY):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in BUILT)
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".md")]
    return found


PAGES = _pages()
NAMES = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def fences(text: str) -> Iterator[tuple[str, str]]:
    """(info string, content) of every fenced block."""
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```\s*$", text, re.MULTILINE | re.DOTALL):
        yield match[1].strip(), match[2]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    """What stands between a heading of a page and the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", (DOCS / page).read_text("utf-8"), re.M | re.S)
    assert found, f"{page} has no section {heading}"
    return found[1]


def first_column(page: str, heading: str) -> list[str]:
    """The code spans of the first column of the tables of a section."""
    rows = re.findall(r"^\| (\**`[^|]+) \|", section(page, heading), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)]


@each_page
def test_fences_are_closed_and_code_parses(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    for info, content in fences(text):
        if info == "python":
            compile(content, str(page), "exec")
        elif info == "json":
            json.loads(content if content.lstrip().startswith("{") else "{" + content + "}")


# Examples: a `python` block with an `output` block behind it


@pytest.fixture
def workspace(tmp_path: Path, small_bundle: Path) -> Path:
    """What the examples say is there: bundles/valve-id_00 and a clip.wav of 10 s."""
    shutil.copytree(small_bundle, tmp_path / "bundles" / "valve-id_00")
    noise = 0.05 * np.random.default_rng(1).standard_normal(160_000)
    soundfile.write(tmp_path / "clip.wav", noise, 16_000, subtype="PCM_16")
    return tmp_path


def examples(page: Path) -> list[tuple[str, str]]:
    """Each block to run, with what it must print."""
    blocks = list(fences(page.read_text("utf-8")))
    pairs = itertools.pairwise(blocks)
    return [(code, output) for (info, code), (after, output) in pairs if (info, after) == ("python", "output")]


WITH_EXAMPLES = [page for page in PAGES if examples(page)]


def test_the_page_on_python_has_examples() -> None:
    assert DOCS / "reference" / "python-api.md" in WITH_EXAMPLES


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_examples_print_what_the_page_says(page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    names: dict[str, Any] = {"__name__": "example"}
    for code, expected in examples(page):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, page.name, "exec"), names)
        assert printed.getvalue().strip() == expected.strip()


# Links


def anchors(page: Path) -> set[str]:
    """Heading anchors as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text("utf-8"))):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        found = linked.exists() and (linked == REPOSITORY or REPOSITORY in linked.parents)
        if found and anchor:
            found = linked.suffix == ".md" and anchor in anchors(linked)
        if not found:
            broken.append(target)
    assert not broken


def test_every_page_of_docs_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.glob("*/*.md")]
    assert pages
    assert [name for name in pages if f"({name})" not in index] == []


def test_files_of_docs_named_in_the_source_exist() -> None:
    named = set()
    for floor in ("runtime", "calibration", "export", "toolkit", "benchmarks", "tests", "docs"):
        for path in (REPOSITORY / floor).rglob("*.py"):
            named |= set(re.findall(r"\bdocs/[\w/-]+\.(?:md|py|json)\b", path.read_text("utf-8")))
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


@pytest.mark.timeout(120)
def test_docs_build_strictly_without_the_network(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.html"))
    assert re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="https?:[^>]*>', text) == []
    assert re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="https?:[^>]*>', text) == []


# Commands


@cache
def reference() -> dict[str, Any]:
    """The names of docs/make_reference.py."""
    return runpy.run_path(str(DOCS / "make_reference.py"))


@cache
def commands() -> dict[str, Any]:
    """Every command by name; those of a group with both words."""
    return {command.name: command for command in reference()["commands"]()}


def options(command: str) -> set[str]:
    return {name for option in commands()[command].options for name in option.names if name.startswith("--")}


def command_lines(text: str) -> Iterator[str]:
    """Every `edgeasd ...` in shell blocks and in code spans, without what pipes and redirections add."""
    candidates = re.findall(r"`([^`\n]+)`", prose(text))
    for info, content in fences(text):
        if info.split(" ")[0] in SHELL:
            candidates += content.replace("\\\n", " ").splitlines()
    for line in candidates:
        for part in re.split(r"[|;<>]|&&", line.split(" #")[0]):
            match = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:python3? -m )?edgeasd ([a-z].*)", part.strip())
            if match:
                yield match[1]


@each_page
def test_every_command_line_fits_its_help(page: Path) -> None:
    wrong = []
    for line in command_lines(page.read_text("utf-8")):
        words = shlex.split(line)
        command = next((c for c in (" ".join(words[:2]), words[0]) if c in commands()), None)
        if command is None:
            wrong.append(f"edgeasd {line}: no such command")
            continue
        used = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
        wrong += [f"edgeasd {line}: no option {option}" for option in sorted(used - options(command))]
    assert not wrong


def test_a_wrong_command_line_would_be_found() -> None:
    text = "Use `edgeasd score B F --json`.\n```sh\n$ cat x | edgeasd run --input - --no-such > y  # z\n```\n"
    assert list(command_lines(text)) == ["score B F --json", "run --input - --no-such"]
    assert "--no-such" not in options("run")
    assert "--json" in options("score")
    assert sum(len(list(command_lines(page.read_text("utf-8")))) for page in PAGES) > 40


def test_the_options_are_those_of_the_help_page() -> None:
    command = [sys.executable, "-m", "edgeasd", "run", "--help"]
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert set(re.findall(r"^\W+(?:-\w, )?(--[a-z0-9-]+)", done.stdout, re.MULTILINE)) - {"--help"} == options("run")


def test_every_command_gives_one_example_of_itself() -> None:
    for name, command in commands().items():
        assert command.example.startswith(f"edgeasd {name}"), name
        assert {word for word in shlex.split(command.example) if word.startswith("--")} <= options(name)


def test_generated_pages_are_those_of_the_program() -> None:
    for name, text in reference()["pages"]().items():
        assert (DOCS / name).read_text("utf-8") == text, f"{name}: run python docs/make_reference.py"


def test_generated_pages_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert reference()["pages"]()["reference/commands.md"] == (DOCS / "reference" / "commands.md").read_text("utf-8")


# What the reference pages list


def test_the_manifest_has_the_fields_described(small_bundle: Path) -> None:
    manifest = json.loads((small_bundle / "manifest.json").read_text("utf-8"))
    assert set(manifest) <= set(first_column("reference/bundle.md", "manifest.json"))
    text = (DOCS / "reference" / "bundle.md").read_text("utf-8")
    listed = re.findall(r"^  (\S+)  ", dict(fences(text))["text"], re.M)
    assert sorted(listed) == sorted(path.name for path in small_bundle.iterdir())


def test_alarm_reasons_and_commands_are_those_described() -> None:
    assert set(first_column("reference/alarms.md", "Reasons")) == set(REASONS)
    named = first_column("reference/alarms.md", "Commands")
    assert named
    for name in named:
        needed = {"snooze": {"seconds": 1.0}, "set_state": {"state": "off"}}
        parse_command({"command": name, **needed.get(name, {})}, "docs")
    for info, content in fences((DOCS / "reference" / "alarms.md").read_text("utf-8")):
        if info == "json" and "command" in content:
            parse_command(json.loads(content), "docs")


def test_health_states_and_settings_are_those_described() -> None:
    assert set(first_column("reference/health.md", "The states")) == set(HEALTH_STATES)
    for info, content in fences((DOCS / "reference" / "health.md").read_text("utf-8")):
        if info == "json" and "schema" not in content:
            HealthSettings.parse(json.loads(content), "docs")


def test_the_architecture_page_lists_the_rooms_of_the_runtime() -> None:
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", section("explanation/architecture.md", "Rooms of the runtime"), re.M)
    folders = [path.name for path in (REPOSITORY / "runtime").iterdir() if (path / "__init__.py").exists()]
    assert sorted(rows) == sorted([*folders, "errors"])


# Privacy


@each_page
def test_no_page_names_a_private_path(page: Path) -> None:
    private = [r"/(?:home|root|Users)\b", re.escape(str(REPOSITORY))]
    top = REPOSITORY.parts[1]
    if top not in {"tmp", "usr", "opt", "var", "srv", "mnt"}:
        private.append(rf"(?<![\w./])/{re.escape(top)}/")
    text = page.read_text("utf-8")
    assert [found[0] for pattern in private if (found := re.search(pattern, text))] == []


@pytest.mark.parametrize("picture", sorted((DOCS / "pictures").iterdir()), ids=lambda path: path.name)
def test_pictures_are_small_and_say_nothing_of_their_maker(picture: Path) -> None:
    assert picture.stat().st_size < 300_000
    assert not re.search(rb"<dc:date>|/home/|/root/|/tmp/", picture.read_bytes())
