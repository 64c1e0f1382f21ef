"""The documentation is true: its examples run, its links lead somewhere, its commands exist as shown."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import BaseModel

from edgeasd.runtime.alarms import AlarmMachine, AlarmSettings, Command, parse_command
from edgeasd.runtime.alarms.transition import REASONS
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.health import STATES as HEALTH_STATES
from edgeasd.runtime.health import HealthMonitor, HealthSettings
from edgeasd.runtime.service.listen import Listener
from edgeasd.runtime.sources.capture import Block

pytestmark = pytest.mark.core

REPOSITORY = Path(__file__).resolve().parents[2]
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


def test_the_pages_that_users_are_sent_to_are_there() -> None:
    docs = "index tutorials/quickstart reference/commands reference/bundle explanation/precision reference/definitions how-to/train reference/data-layouts how-to/listen explanation/architecture reference/python-api explanation/limits"
    expected = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{name}.md" for name in docs.split())}
    assert expected <= set(NAMES)


@each_page
def test_every_fence_is_closed(page: Path) -> None:
    assert len(re.findall(r"^```", page.read_text("utf-8"), re.MULTILINE)) % 2 == 0


# Examples


@pytest.fixture
def workspace(tmp_path: Path, small_bundle: Path) -> Path:
    """What the examples say is there: bundles/valve-id_00 and a clip.wav of 10 s."""
    shutil.copytree(small_bundle, tmp_path / "bundles" / "valve-id_00")
    noise = 0.05 * np.random.default_rng(1).standard_normal(160_000)
    soundfile.write(tmp_path / "clip.wav", noise, 16_000, subtype="PCM_16")
    return tmp_path


def examples(page: Path) -> tuple[list[str], list[str]]:
    """Runnable blocks, and the output block that must follow each."""
    blocks = list(fences(page.read_text("utf-8")))
    code, output = [], []
    for (info, content), (after, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if info == "python runnable":
            assert after == "text output", f"{page}: a runnable block without its output:\n{content}"
            code.append(content)
            output.append(expected)
    return code, output


WITH_EXAMPLES = [page for page in PAGES if "```python runnable" in page.read_text("utf-8")]


def test_there_are_examples_to_run() -> None:
    assert REPOSITORY / "docs" / "reference" / "python-api.md" in WITH_EXAMPLES


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_examples_print_what_the_page_says(page: Path, workspace: Path) -> None:
    code, output = examples(page)
    mark = "=== end of block"
    script = "".join(f"{block}\nprint({mark!r})\n" for block in code)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=workspace, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = [part.strip() for part in done.stdout.split(mark)][:-1]
    assert printed == [expected.strip() for expected in output]


@each_page
def test_json_and_python_blocks_parse(page: Path) -> None:
    for info, content in fences(page.read_text("utf-8")):
        if info.startswith("python"):
            compile(content, str(page), "exec")
        elif info == "json":
            json.loads(content if content.lstrip().startswith("{") else "{" + content + "}")


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
    index = (REPOSITORY / "docs" / "index.md").read_text("utf-8")
    pages = [page.relative_to(REPOSITORY / "docs").as_posix() for page in (REPOSITORY / "docs").glob("*/*.md")]
    assert pages
    assert [name for name in pages if f"({name})" not in index] == []


# Commands


@cache
def help_of(command: str) -> str:
    arguments = [sys.executable, "-m", "edgeasd", *command.split(), "--help"]
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, f"edgeasd {command}: {done.stderr}"
    return done.stdout


@cache
def commands() -> frozenset[str]:
    """Every command by name; those of a group with both words."""
    found = set()
    for name in _listed(help_of("")):
        inner = _listed(help_of(name)) if "COMMAND" in help_of(name).splitlines()[0] else []
        found |= {f"{name} {sub}" for sub in inner} or {name}
    return frozenset(found)


def _listed(text: str) -> list[str]:
    section = text.partition("Commands:\n")[2]
    return re.findall(r"^  ([a-z][a-z0-9-]*)  ", section, re.MULTILINE)


@cache
def options(command: str) -> frozenset[str]:
    return frozenset(re.findall(r"^\s+(?:-\w, )?(--[a-z0-9-]+)", help_of(command), re.MULTILINE)) - {"--help"}


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


def test_command_lines_are_found_and_a_wrong_one_would_be() -> None:
    text = "Use `edgeasd score B F --json`.\n```sh\n$ cat x | edgeasd run --input - --no-such > y  # z\n```\n"
    assert list(command_lines(text)) == ["score B F --json", "run --input - --no-such"]
    assert "--no-such" not in options("run")
    assert "--json" in options("score")
    assert sum(len(list(command_lines(page.read_text("utf-8")))) for page in PAGES) > 40


def test_the_reference_describes_every_command_and_every_option() -> None:
    text = (REPOSITORY / "docs" / "reference" / "commands.md").read_text("utf-8")
    sections = dict(re.findall(r"^## edgeasd ([a-z ]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == commands()
    for command, section in sections.items():
        described = set(re.findall(r"^\| `(--[a-z0-9-]+)` \|", section, re.MULTILINE))
        assert described == options(command), command


def test_every_command_gives_one_example_of_itself() -> None:
    for command in commands():
        lines = [line.strip() for line in help_of(command).splitlines() if "Example:" in line]
        assert len(lines) == 1, command
        assert lines[0].startswith(f"Example: edgeasd {command}")
        words = shlex.split(lines[0])
        assert {word for word in words if word.startswith("--")} <= options(command)


# Records and manifest


def described_fields(page: str, heading: str) -> set[str]:
    text = (REPOSITORY / "docs" / page).read_text("utf-8")
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{page} has no section {heading}"
    rows = re.findall(r"^\| (`[^|]+) \|", section[1], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)}


def test_the_records_of_a_run_have_the_fields_described(workspace: Path) -> None:
    command = [sys.executable, "-m", "edgeasd", "run", "--input", "clip.wav", "--jsonl", "-"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    with Bundle(workspace / "bundles" / "valve-id_00") as bundle:
        scorer, _ = bundle.open_scorer(threads=1)
        listener = Listener(scorer, bundle.manifest)
        rng = np.random.default_rng(2)
        for position in (0, 500_000):
            sound = (0.05 * rng.standard_normal(170_000)).astype(np.float32)
            records += listener.accept(Block(position, sound))
    seen = {record["type"]: set(record) for record in records}
    assert set(seen) == {"start", "score", "alarm", "gap", "end"}
    for kind, fields in seen.items():
        assert described_fields("how-to/listen.md", kind) == fields, kind


def test_the_manifest_has_the_fields_described(small_bundle: Path) -> None:
    manifest = json.loads((small_bundle / "manifest.json").read_text("utf-8"))
    described = described_fields("reference/bundle.md", "manifest.json")
    assert set(manifest) <= described
    listed = re.findall(
        r"^  (\S+)  ", dict(fences((REPOSITORY / "docs/reference/bundle.md").read_text("utf-8")))["text"], re.M
    )
    assert sorted(listed) == sorted(path.name for path in small_bundle.iterdir())


def test_alarm_and_health_messages_and_settings_have_the_fields_described() -> None:
    machine = AlarmMachine("valve", "00", AlarmSettings(), None)
    (message, *_) = machine.command(Command(command="test"), 0.0, 0.0)
    assert described_fields("reference/alarms.md", "Messages") == set(message.to_json())
    assert described_fields("reference/alarms.md", "Reasons") == set(REASONS)
    page = (REPOSITORY / "docs" / "reference" / "alarms.md").read_text("utf-8")
    section = page.partition("\n## Settings\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(AlarmSettings.model_fields)
    section = page.partition("\n## Commands\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) != []
    for name in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE):
        parse_command({"command": name, **({"seconds": 1.0} if name == "snooze" else {})}, "docs")
    for info, content in fences(page):
        if info == "json" and "command" in content:
            parse_command(json.loads(content), "docs")
    monitor = HealthMonitor(HealthSettings(), 16_000)
    (change, *_) = monitor.push(np.zeros(32_000, np.float32))
    assert described_fields("reference/health.md", "Change") == set(change.to_json())
    report = monitor.report().to_json()
    assert described_fields("reference/health.md", "Report") == set(report)
    assert set(HEALTH_STATES) == described_fields("reference/health.md", "The states")
    described = described_fields("reference/health.md", "Settings")
    assert described >= set(HealthSettings.model_fields) - {"unhealthy"}
    health = (REPOSITORY / "docs" / "reference" / "health.md").read_text("utf-8")
    for part in HealthSettings.model_fields.values():
        if isinstance(part.default, BaseModel):
            assert all(f"`{name}`" in health for name in type(part.default).model_fields)
    for info, content in fences(health):
        if info == "json":
            HealthSettings.parse(json.loads(content), "docs")


# Privacy


@each_page
def test_no_page_names_a_private_path(page: Path) -> None:
    private = [r"/(?:home|root|Users)\b", re.escape(str(REPOSITORY))]
    top = REPOSITORY.parts[1]
    if top not in {"tmp", "usr", "opt", "var", "srv", "mnt"}:
        private.append(rf"(?<![\w./])/{re.escape(top)}/")
    text = page.read_text("utf-8")
    assert [found[0] for pattern in private if (found := re.search(pattern, text))] == []


def test_the_picture_is_small_and_says_nothing_of_its_maker() -> None:
    picture = REPOSITORY / "docs" / "pictures" / "demo.svg"
    text = picture.read_text("utf-8")
    assert picture.stat().st_size < 100_000
    assert not re.search(r"<dc:date>|/home/|/root/|/tmp/", text)
