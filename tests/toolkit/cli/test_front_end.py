"""`--front-end graph` from the command line: the same scores, said at the start, and one line where it cannot be."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx")

from edgeasd.export.front_end import FRONT_END, build_front_end
from edgeasd.runtime.bundle.bundle import hash_file
from edgeasd.runtime.features.logmel import FeatureSettings

STATED = "log-mel by frontend.onnx on CPUExecutionProvider"
Edgeasd = Callable[..., Any]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "clip.wav"
    soundfile.write(path, 0.05 * np.random.default_rng(2).standard_normal(190_000), 16_000, subtype="PCM_16")
    return path


@pytest.fixture
def bundle(front_end_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(front_end_bundle, tmp_path / "valve-id_00"))


def process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")}
    command = [sys.executable, "-m", "edgeasd", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment)


def test_run_and_score_live_say_the_same_and_what_is_in_use(front_end_bundle: Path, clip: Path, tmp_path: Path) -> None:
    place = ("--front-end", "graph", "--threads", "1")
    ran = process("run", "--input", clip, "--bundle", front_end_bundle, "--jsonl", "-", *place, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert STATED in ran.stderr.splitlines()[0]
    start, *records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert start["kind"] == "start"
    assert STATED in start["body"]["engine"]
    scored = process("score", front_end_bundle, clip, "--live", *place, cwd=tmp_path)
    assert f"edgeasd: fp32 on onnxruntime {start['body']['engine'].removeprefix('onnxruntime ')}" in scored.stderr
    scored_records = [json.loads(line) for line in scored.stdout.splitlines()]
    assert {record["file"] for record in scored_records} == {str(clip)}
    ran_segments, scored_segments = (
        [record["body"] for record in some if record["kind"] == "segment"] for some in (records, scored_records)
    )
    assert ran_segments == scored_segments
    assert len(ran_segments) == 20


def test_scores_are_those_of_the_cpu(edgeasd: Edgeasd, bundle: Path, clip: Path) -> None:
    found = {}
    for place in ("cpu", "graph"):
        done = edgeasd("score", bundle, clip, "--front-end", place, cwd=bundle.parent)
        assert done.code == 0
        assert (STATED in done.said) == (place == "graph")
        (row,) = csv.DictReader(io.StringIO(done.out))
        found[place] = row
    scores = [float(row.pop("score")) for row in found.values()]
    assert found["cpu"] == found["graph"]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_verify_checks_it_where_asked(edgeasd: Edgeasd, bundle: Path) -> None:
    done = edgeasd("verify", bundle, "--front-end", "graph", cwd=bundle.parent)
    assert done.code == 0
    assert "    its log-mel of noise is that of the runtime (logmel " in done.out
    (engine,) = json.loads(edgeasd("verify", bundle, "--front-end", "graph", "--json", cwd=bundle.parent).out)[
        "engines"
    ]
    assert 0 < engine["front_end_deviation"]["logmel"] < 1e-5
    assert "log-mel" not in edgeasd("verify", bundle, cwd=bundle.parent).out


def test_bench_measures_the_whole_path(edgeasd: Edgeasd, bundle: Path) -> None:
    options = ("--front-end", "graph", "--repeats", 2, "--batches", "1,2", "--engine", "onnxruntime")
    done = edgeasd("bench", bundle, *options, cwd=bundle.parent)
    assert done.code == 0
    assert "log-mel by frontend.onnx" in done.out
    assert "keeping samples" in done.out
    (row,) = json.loads(edgeasd("bench", bundle, *options, "--json", cwd=bundle.parent).out)["variants"]
    assert (row["front_end"], [found["batch"] for found in row["batches"]]) == ("graph", [1, 2])


@pytest.mark.parametrize("command", ["score", "run", "verify", "bench"])
def test_a_bundle_without_one_is_one_line(edgeasd: Edgeasd, small_bundle: Path, clip: Path, command: str) -> None:
    before = {"score": [small_bundle, clip], "run": ["--input", clip, "--bundle", small_bundle]}
    done = edgeasd(command, *before.get(command, [small_bundle]), "--front-end", "graph", cwd=clip.parent)
    assert done.code == 2
    assert done.lines == [
        "edgeasd: --front-end graph: valve-id_00 has no front end; "
        "export it with `edgeasd export --front-end FOLDER`, or use --front-end cpu"
    ]


def test_build_has_nothing_to_build_of_a_bundle_without_one(edgeasd: Edgeasd, small_bundle: Path) -> None:
    done = edgeasd("build", small_bundle, "--front-end", cwd=small_bundle.parent)
    assert (done.code, len(done.lines)) == (2, 1)
    assert done.lines[0].startswith("edgeasd: --front-end: valve-id_00 has no front end; export it with ")


def test_a_changed_front_end_is_one_line(edgeasd: Edgeasd, bundle: Path, clip: Path) -> None:
    (bundle / FRONT_END).write_bytes((bundle / FRONT_END).read_bytes()[:-1])
    done = edgeasd("score", bundle, clip, "--front-end", "graph", cwd=bundle.parent)
    assert (done.code, len(done.lines), done.out) == (2, 1, "")
    assert "valve-id_00/frontend.onnx: " in done.lines[0]


def test_a_front_end_that_differs_is_exit_code_1(edgeasd: Edgeasd, bundle: Path, clip: Path) -> None:
    (bundle / FRONT_END).write_bytes(build_front_end(FeatureSettings(f_min=200.0), 256).SerializeToString())
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = {"sha256": hash_file(bundle / FRONT_END), "size": (bundle / FRONT_END).stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "files": {**manifest["files"], FRONT_END: entry}}))
    done = edgeasd("score", bundle, clip, "--front-end", "graph", cwd=bundle.parent)
    assert (done.code, len(done.lines), done.out) == (1, 1, "")
    assert "is not that of the runtime: log-mel deviates by " in done.lines[0]
