"""One process at a time for a job's folder; whoever dies lets go of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.reproduction.plan import job_lock

pytestmark = pytest.mark.core

HOLD = """
import sys, time
from pathlib import Path
from edgeasd.toolkit.reproduction.plan import job_lock
with job_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_locked_folder_is_free_when_its_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "gear" / "seed-0"
    with holder(folder) as other:
        with (
            pytest.raises(InputError, match="seed-0: another process works on this model; wait"),
            job_lock(folder, 0.3),
        ):
            pass
        other.kill()
        other.wait()
        with job_lock(folder, 5.0):
            pass


def test_one_folder_does_not_hold_up_another(tmp_path: Path) -> None:
    with holder(tmp_path / "a") as other:
        with job_lock(tmp_path / "b", 0.0):
            pass
        other.kill()


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), job_lock(tmp_path):
        raise RuntimeError("of the job")
    with job_lock(tmp_path, 0.0):
        pass


def test_waiting_can_be_broken_off(tmp_path: Path) -> None:
    def asked_to_stop() -> None:
        raise KeyboardInterrupt

    with holder(tmp_path) as other:
        with pytest.raises(KeyboardInterrupt), job_lock(tmp_path, 30.0, asked_to_stop):
            pass
        other.kill()
