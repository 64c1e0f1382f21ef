"""Files under a root: no link leads out of it, and nothing there blocks, floods or loops."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.system.board import is_live, list_names, locate, read_number, read_text

pytestmark = pytest.mark.core


def test_the_root_of_the_machine_is_live_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "top").symlink_to("/")
    assert is_live(Path("/"))
    assert is_live(Path("/etc/.."))
    assert is_live(tmp_path / "top")
    assert not is_live(tmp_path)


def test_absolute_links_stay_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").symlink_to("/etc/shadow-of-the-image")
    (tmp_path / "etc" / "up").symlink_to("../../../../../../etc/passwd-of-the-image")
    assert read_text(tmp_path, "etc/passwd") is None
    (tmp_path / "etc" / "shadow-of-the-image").write_text("of the image")
    (tmp_path / "etc" / "passwd-of-the-image").write_text("too")
    assert read_text(tmp_path, "etc/passwd") == "of the image"
    assert read_text(tmp_path, "/etc/up") == "too"
    assert read_text(tmp_path, "../../../../../../../etc/passwd") == "of the image"


def test_a_folder_may_be_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "usr" / "lib" / "a").write_text("1")
    (tmp_path / "lib").symlink_to("usr/lib")
    assert list_names(tmp_path, "lib") == ["a"]
    assert read_number(tmp_path, "lib/a") == 1


def test_loops_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("/a")
    (tmp_path / "self").symlink_to("self/self")
    for name in ("a", "b/c", "self", "self/x"):
        assert locate(tmp_path, name) is None
        assert read_text(tmp_path, name) is None
        assert list_names(tmp_path, name) == []


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    # Reading the pipe would wait for a writer for ever.
    assert read_text(tmp_path, "pipe") is None
    assert read_text(tmp_path, "folder") is None
    assert list_names(tmp_path, "pipe") == []
    assert read_text(tmp_path, "nothing\0here") is None
    assert read_text(tmp_path, "x" * 5000) is None


def test_an_unreadable_file_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1")
    (tmp_path / "secret").chmod(0)
    before = os.geteuid()
    if before == 0:
        assert read_text(tmp_path, "secret") == "1"
        os.seteuid(65534)
    try:
        assert read_text(tmp_path, "secret") is None
        assert read_number(tmp_path, "secret") is None
    finally:
        os.seteuid(before)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"\xff" * 100_000)
    assert read_text(tmp_path, "huge") == "�" * 4096
    assert read_text(tmp_path, "huge", 10) == "�" * 10


@pytest.mark.parametrize(("text", "number"), [("42\n", 42), (" -3 ", -3), ("", None), ("0x10", None), ("1" * 40, None)])
def test_numbers_are_whole_files(tmp_path: Path, text: str, number: int | None) -> None:
    (tmp_path / "n").write_text(text)
    assert read_number(tmp_path, "n") == number


NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), max_size=5).map("/".join)


@given(links=st.dictionaries(NAMES, st.tuples(st.booleans(), TARGETS), max_size=3), path=TARGETS)
@settings(max_examples=150, deadline=None)
def test_no_maze_of_links_leads_out(links: dict[str, tuple[bool, str]], path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root").resolve()
        root.mkdir()
        for name, (absolute, target) in links.items():
            (root / name).symlink_to(f"/{target}" if absolute or not target else target)
        found = locate(root, path)
        assert found is None or found == root or root in found.parents
        assert found is None or not found.is_symlink()
