"""Locks between processes: held by one, taken over when it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.lock import folder_lock, open_locked, try_lock

pytestmark = pytest.mark.core


def test_only_one_holds_a_lock_file(tmp_path: Path) -> None:
    first = open_locked(tmp_path / "one.lock", "busy; wait")
    with pytest.raises(InputError, match="busy; wait"):
        open_locked(tmp_path / "one.lock", "busy; wait")
    os.close(first)
    os.close(open_locked(tmp_path / "one.lock", "busy; wait"))


def test_a_link_is_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / "one.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"."):
        open_locked(tmp_path / "one.lock", "busy")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert try_lock(0)


def test_a_data_folder_is_used_by_one_process(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    with folder_lock(data):
        with pytest.raises(InputError, match="another edgeasd uses this folder; stop it") as error, folder_lock(data):
            pass
        assert str(data) in str(error.value)
    with folder_lock(data):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory; give this user"), folder_lock(tmp_path / "file" / "data"):
        pass
