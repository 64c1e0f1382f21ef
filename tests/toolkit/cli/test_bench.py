"""`edgeasd bench` as a user types it: figures, reasons, exit codes, and Ctrl-C in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.core

COMMAND = [sys.executable, "-m", "edgeasd", "bench"]
SHORT = ("--repeats", "2", "--batches", "1,2", "--threads", "1")


def bench(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def two(bundle_copy: Path) -> Path:
    """A bundle that offers its one encoder under two names, so that there are two variants to measure."""
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["precisions"]["fp16"] = manifest["precisions"]["fp32"]
    path.write_text(json.dumps(manifest))
    return bundle_copy


def variants(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    found = json.loads(done.stdout)
    return {one["precision"]: one for one in found["variants"]}


def test_json_has_the_figures_and_what_was_left_out(two: Path) -> None:
    done = bench(two.name, *SHORT, "--engine", "auto", "--json", cwd=two.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["machine"], found["id"], found["stopped"]) == ("valve", "00", False)
    assert found["host"]["cores"] > 0
    rows = variants(done)
    assert rows["fp32"]["not_measured"] is None
    assert {one["batch"] for one in rows["fp32"]["batches"]} == {1, 2}
    assert rows["fp32"]["memory_mib"]["peak"] >= rows["fp32"]["memory_mib"]["loaded"] > 10
    assert "--precision fp16" in rows["fp16"]["not_measured"]
    assert "batches" not in rows["fp16"]


def test_the_table_names_everything(two: Path) -> None:
    done = bench(two.name, *SHORT, cwd=two.parent)
    assert done.returncode == 0, done.stderr
    for expected in ("over bare", "streams", "MiB", "hop 0.192 s", "energy", "not measured, fp16 on onnxruntime cpu:"):
        assert expected in done.stdout
    assert str(two.parent) not in done.stdout


def test_a_reference_is_measured_when_named_and_says_what_it_is(two: Path) -> None:
    rows = variants(bench(two.name, *SHORT, "--precision", "fp16", "--json", cwd=two.parent))
    assert list(rows) == ["fp16"]
    assert "graph not optimised" in rows["fp16"]["engine_in_use"]
    assert "a reference" in rows["fp16"]["note"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--precision", "int4"], 2, "--precision int4: valve-id_00 offers fp32"),
        (["--batches", "1,two"], 2, "--batches 1,two: 'two' is no number"),
        (["--batches", "0"], 2, "--batches 0"),
        (["--engine", "coral"], 2, "--engine coral: unknown"),
        (["--accelerator", "npu"], 2, "nothing was measured: fp32 on onnxruntime npu: --accelerator npu"),
        (["--seconds", "0"], 2, "--seconds"),
    ],
)
def test_wrong_use_is_one_line(
    edgeasd: Callable[..., Any], options: list[str], code: int, said: str, small_bundle: Path, tmp_path: Path
) -> None:
    done = edgeasd("bench", small_bundle, *options, cwd=tmp_path)
    assert done.code == code
    assert said in done.said
    assert done.said.count("\n") == 1


def test_an_engine_that_is_not_here_is_a_row_and_exit_code_3(small_bundle: Path, tmp_path: Path) -> None:
    done = bench(small_bundle, "--engine", "tensorrt", cwd=tmp_path)
    if done.returncode == 0:
        pytest.skip("TENSORRT PRESENT: its absence cannot be shown here")
    assert done.returncode == 3
    assert "not measured, fp32 on tensorrt cuda:0:" in done.stdout
    assert done.stderr.startswith("edgeasd: nothing was measured: fp32 on tensorrt cuda:0:")
    assert done.stderr.count("\n") == 1


def test_a_damaged_variant_is_left_out_and_the_others_measured(two: Path) -> None:
    path = two / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["precisions"]["fp16"] = {**manifest["precisions"]["fp32"], "file": "other.onnx"}
    manifest["files"]["other.onnx"] = manifest["files"]["head.onnx"]
    path.write_text(json.dumps(manifest))
    done = bench(two.name, *SHORT, "--precision", "fp32,fp16", "--json", cwd=two.parent)
    assert done.returncode == 0, done.stderr
    rows = variants(done)
    assert rows["fp32"]["not_measured"] is None
    assert "other.onnx: missing" in rows["fp16"]["not_measured"]


def child_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


def wait_for_child(process: subprocess.Popen[str], other_than: str = "") -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = child_of(process.pid)
        if found and found != other_than:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no child appeared; {process.poll()}")


def wait_for_end(child: str) -> None:
    """One that was started in the very moment of the signal finds no request and ends by itself."""
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_shows_what_was_measured_and_ends_the_child(number: int, code: int, two: Path) -> None:
    command = [*COMMAND, two.name, "--precision", "fp32,fp16", "--json", "--seconds", "0.3", "--batches", "1"]
    with subprocess.Popen(
        command, cwd=two.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        second = wait_for_child(process, other_than=wait_for_child(process))
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert process.returncode == code
    wait_for_end(second)
    if number == signal.SIGTERM:
        return
    rows = {one["precision"]: one for one in json.loads(out)["variants"]}
    assert rows["fp32"]["not_measured"] is None
    assert "Ctrl-C" in rows["fp16"]["not_measured"]
    assert "stopped by Ctrl-C: 1 of 2 variants" in said
    assert "Traceback" not in said
