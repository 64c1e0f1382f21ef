"""`edgeasd reproduce` on this machine, in real processes: killed, stopped, gone on with, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")


ONE = ("--machine", "gear", "--id", "00", "--method", "bce")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def gears(tmp_path_factory: pytest.TempPathFactory, write_gears: Callable[..., Path]) -> Path:
    return write_gears(tmp_path_factory.mktemp("gears") / "data")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_and_killed_it_equals_an_uninterrupted_run(gears: Path, tmp_path: Path, reproduce: Start) -> None:
    choice = (*ONE, "--iterations", "12", "--json")
    run = tmp_path / "a" / "reproduce" / "gear" / "id_00" / "bce" / "seed-0"

    def attempts() -> list[dict[str, int]]:
        try:
            return list(json.loads((run / "attempts.json").read_text()))
        except OSError:
            return []

    first = reproduce("table2", gears, tmp_path / "a", *choice)
    wait_for((run / "run.json").exists, first)
    first.send_signal(signal.SIGINT)
    code, _, said = finish(first)
    assert code == 130, said
    assert "0 of 1 models done; go on with the same command" in said
    assert len(list((run / "checkpoints").glob("step-*"))) == 1

    second = reproduce("table2", gears, tmp_path / "a", *choice)
    wait_for(lambda: len(attempts()) == 2, second)
    os.kill(attempts()[-1]["pid"], signal.SIGKILL)
    code, out, said = finish(second)
    assert code == 0, said
    assert "attempt 1 failed: its process was killed by SIGKILL" in said
    assert len(attempts()) == 3

    code, plain, said = finish(reproduce("table2", gears, tmp_path / "b", *choice))
    assert code == 0, said
    assert json.loads(out)["cells"] == json.loads(plain)["cells"]

    code, _, said = finish(reproduce("table2", gears, tmp_path / "a", *ONE, "--iterations", "13"))
    assert code == 2
    assert "preset.iterations 12, now 13" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_workers_end_when_their_command_is_killed(gears: Path, tmp_path: Path, reproduce: Start) -> None:
    command = reproduce("table2", gears, tmp_path, *ONE, "--iterations", "100000")
    place = tmp_path / "reproduce" / "gear" / "id_00" / "bce" / "seed-0" / "attempts.json"
    wait_for(place.exists, command)
    worker = json.loads(place.read_text())[-1]["pid"]
    command.kill()
    finish(command)
    end = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < end, "the worker goes on"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_figure_2_goes_on_from_the_models_of_table_2(gears: Path, tmp_path: Path, reproduce: Start) -> None:
    choice = [*ONE, "--iterations", "2"]
    assert finish(reproduce("table2", gears, tmp_path, *choice))[0] == 0
    run = tmp_path / "reproduce" / "gear" / "id_00" / "bce" / "seed-0"
    trained = (run / "outcome.npz").stat().st_mtime_ns
    options = [*choice, "--counts", "1,2", "--output", str(tmp_path / "out"), "--json"]
    code, out, said = finish(reproduce("fig2", gears, tmp_path, *options))
    assert code == 0, said
    assert (run / "outcome.npz").stat().st_mtime_ns == trained
    cells = json.loads(out)["cells"]
    assert [cell["count"] for cell in cells] == [0, 1, 2]
    # Four anomalies, two of them set apart for every n.
    assert {(cell["normals"], cell["anomalies"]) for cell in cells} == {(2, 2)}
    judged = [
        json.loads(path.read_text()) for path in (run / "fig2.json", run / "n01/fig2.json", run / "n02/fig2.json")
    ]
    files = [[clip["path"] for clip in one["evaluation"]["clips"]] for one in judged]
    assert files[0] == files[1] == files[2]
    known = [json.loads((run / n / "run.json").read_text())["update"] for n in ("n01", "n02")]
    assert set(known[0]["known_anomalies"]) < set(known[1]["known_anomalies"]) == set(known[1]["candidates"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figure2.json", "figure2.md", "figure2.svg"]
    _, out, said = finish(reproduce("fig2", gears, tmp_path, *options))
    assert "3 of 3 models are done already" in said
    assert json.loads(out)["cells"] == cells


def test_a_job_trains_once_for_both_experiments(gears: Path, tmp_path: Path) -> None:
    from edgeasd.toolkit.progress import no_progress
    from edgeasd.toolkit.reproduction.job import Stopped, run_job
    from edgeasd.toolkit.reproduction.plan import DataSource, expand
    from edgeasd.toolkit.reproduction.request import presets_of

    source = DataSource(root=gears, cache=tmp_path / "cache", listing="0")
    small = {"batch_normal": 2, "batch_outlier": 2, "finetune": {"iterations": 1, "batch_outlier": 1}}
    presets = [preset.changed(**small) for preset in presets_of("quick", ["bce"], None, 1)]
    (table,) = expand("table2", [("gear", ["00"], source)], presets, [0], [0], 0, tmp_path)
    base, update = expand("fig2", [("gear", ["00"], source)], presets, [0], [0, 1], 2, tmp_path)
    with pytest.raises(Stopped):
        run_job(table, "cpu", no_progress, lambda: True)
    first, second, third = (run_job(job, "cpu", no_progress, lambda: False) for job in (table, base, update))
    assert table.result() == first
    assert [one["trained_here"] for one in (first, second, third)] == [True, False, True]
    assert [one["attempts"] for one in (first, second, third)] == [2, 1, 1]
    files = [{clip["path"] for clip in one["evaluation"]["clips"]} for one in (first, second, third)]
    assert files[1] == files[2] < files[0]
    assert len(files[0]) - len(files[1]) == 2
    assert third["evaluation"]["known_anomalies"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["fig2", *ONE, "--most", "4"], "gear ID 00 has 4;"),
        (["fig2", *ONE], "64 anomalies are to be set apart"),
        (["table2", *ONE, "--counts", "1"], "Table II has no known anomalies"),
        (["table2"], "no machine types fan, pump, slider, ToyCar, ToyConveyor, valve"),
        (["table2", "--machine", "gear", "--id", "07"], "no ID '07'"),
        (["table2", "--machine", "wheel"], "--machine wheel: not in the data"),
        (["table2", *ONE, "--scale", "best"], "--scale best"),
        (["table3", *ONE], "table2, fig2"),
        (["table2", *ONE, "--method", "mse"], "mse"),
        (["table2", *ONE, "--ray", "127.0.0.1:1"], "no Ray cluster|Ray is not installed"),
    ],
)
def test_wrong_use_is_one_line_before_any_training(
    options: list[str], said: str, gears: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import re

    from edgeasd.toolkit.cli import main

    what, *rest = options
    monkeypatch.setattr(
        sys, "argv", ["edgeasd", "reproduce", what, "--data", str(gears), "--workspace", str(tmp_path), *rest]
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main()
    signal.signal(signal.SIGTERM, before)
    assert caught.value.code == (3 if "--ray" in rest else 2)
    complaint = capsys.readouterr().err
    assert re.search(said, complaint)
    assert "Traceback" not in complaint
    assert not list(tmp_path.rglob("run.json"))


def test_ids_without_anomalies_are_left_out(tmp_path: Path, write_gears: Callable[..., Path]) -> None:
    from edgeasd.toolkit.data.layouts import find_clips
    from edgeasd.toolkit.reproduction.inventory import find_machine

    data = write_gears(tmp_path, normals=3, anomalies=1)
    (data / "gear" / "01" / "anomaly" / "00.wav").unlink()
    found = find_machine(find_clips(data), "gear", None, None)
    assert found.ids == ["00"]
    assert "0 anomalous" in found.left_out["01"]
    assert found.listing(data) == find_machine(find_clips(data), "gear", None, None).listing(data)
    (data / "gear" / "00" / "normal" / "00.wav").unlink()
    assert found.listing(data) != find_machine(find_clips(data), "gear", None, None).listing(data)
