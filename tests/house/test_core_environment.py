"""A device has the core packages and nothing else: what must work there works there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import soundfile

HEAVY = ("torch", "onnx", "scipy", "sklearn", "matplotlib", "lightning_fabric", "librosa")


def make_environment(folder: Path, repository: Path, constraints: str, *extra: str) -> Path:
    """A virtual environment with edgeasd's core install under `constraints`; returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["-c", repository / "constraints" / constraints, "-e", repository, *extra]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "No matching distribution" not in done.stderr and "connection" in done.stderr.lower():
        pytest.skip(f"NO PACKAGE INDEX: the core environment could not be made ({done.stderr.strip()[-200:]})")
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def core_python(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("core"), repository, "tested.txt")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "ten_seconds.wav"
    noise = np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    soundfile.write(path, 0.05 * noise, 16_000, subtype="PCM_16")
    return path


def test_nothing_heavy_is_installed(core_python: Path) -> None:
    code = f"import importlib.util as u; print([m for m in {HEAVY!r} if u.find_spec(m)])"
    assert run(core_python, "-c", code).stdout.strip() == "[]"


def test_verify_bench_score_and_run_work(core_python: Path, small_bundle: Path, clip: Path) -> None:
    edgeasd = ("-m", "edgeasd")
    assert run(core_python, *edgeasd, "verify", small_bundle).returncode == 0
    measured = run(core_python, *edgeasd, "bench", small_bundle, "--repeats", "2", "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["variants"][0]["streams"]["hop_seconds"] == pytest.approx(0.192)
    scored = run(core_python, *edgeasd, "score", small_bundle, clip, "--json")
    assert scored.returncode == 0, scored.stderr
    listened = run(core_python, *edgeasd, "run", "--input", clip, "--bundle", small_bundle, "--jsonl", "-")
    assert listened.returncode == 0, listened.stderr
    records = [json.loads(line) for line in listened.stdout.splitlines()]
    last = [record["body"] for record in records if record["kind"] == "segment"][-1]
    assert last["clip_score"] == pytest.approx(json.loads(scored.stdout)["score"], rel=1e-6)


@pytest.fixture
def site(tmp_path: Path, small_bundle: Path, clip: Path) -> Path:
    stream = f'[streams.valve]\nbundle = "{small_bundle}"\ninput = "{clip}"\n'
    log = '[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\n'
    (tmp_path / "site.toml").write_text(f'site = "plant"\n{stream}{log}', "utf-8")
    return tmp_path / "site.toml"


def test_the_service_its_alarms_and_its_events_work(core_python: Path, site: Path) -> None:
    edgeasd, folder = ("-m", "edgeasd"), site.parent
    checked = run(core_python, *edgeasd, "run", "--config", site, "--check", "--json")
    assert checked.returncode == 0, checked.stderr
    served = run(core_python, *edgeasd, "run", "--config", site, "--jsonl", folder / "records.jsonl")
    assert served.returncode == 0, served.stderr
    assert any('"kind": "segment"' in line for line in (folder / "records.jsonl").read_text("utf-8").splitlines())
    tested = run(core_python, *edgeasd, "alarm", "test", "--config", site, "--json")
    assert tested.returncode == 0, tested.stderr
    event = json.loads(tested.stdout)["streams"]["valve"][0]["event"]
    messages = [json.loads(line) for line in (folder / "data" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [one["event"] for one in messages if one["kind"] == "event"] == [event, event]
    listed = run(core_python, *edgeasd, "events", "list", "--data", folder / "data", "--json")
    assert listed.returncode == 0, listed.stderr
    assert event in listed.stdout
    exported = folder / "events.zip"
    done = run(core_python, *edgeasd, "events", "export", event, "--data", folder / "data", "--output", exported)
    assert done.returncode == 0, done.stderr
    assert exported.exists()


@pytest.mark.parametrize(
    "output", ['type = "mqtt"\nurl = "mqtt://127.0.0.1:1883"\n', 'type = "prometheus"\naddress = "127.0.0.1:0"\n']
)
@pytest.mark.parametrize("arguments", [["run", "--check", "--config"], ["run", "--config"]])
def test_output_without_its_package_names_the_remedy(
    core_python: Path, site: Path, output: str, arguments: list[str]
) -> None:
    site.write_text(site.read_text("utf-8") + f"[outputs.plant]\n{output}", "utf-8")
    done = run(core_python, "-m", "edgeasd", *arguments, site)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'edgeasd[serve]'" in done.stderr


def test_devices_and_record_work_or_say_what_is_not_there(core_python: Path, tmp_path: Path) -> None:
    listed = run(core_python, "-m", "edgeasd", "devices", "--json")
    assert "Traceback" not in listed.stderr
    assert listed.returncode in (0, 3), listed.stderr
    tone = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 2500)"
    command = f"{core_python} -c '{tone}'"
    recorded = run(
        core_python,
        *("-m", "edgeasd", "record", "--input-command", command, "--machine", "valve", "--id", "00"),
        *("--minutes", "0.3", "--clip-seconds", "2", "--once", "--output", tmp_path / "clips"),
    )
    assert "Traceback" not in recorded.stderr
    assert list((tmp_path / "clips").rglob("*.*")), recorded.stderr
    absent = run(
        core_python,
        *("-m", "edgeasd", "record", "--device", "hw:77", "--machine", "valve", "--id", "00", "--minutes", "1"),
        *("--output", tmp_path / "more"),
    )
    assert absent.returncode == 3, absent.stderr
    assert "Traceback" not in absent.stderr


def test_every_help_page_opens(core_python: Path) -> None:
    for command in (
        [],
        ["data", "scan"],
        ["train"],
        ["export"],
        ["triton"],
        ["bench"],
        ["evaluate"],
        ["demo"],
        ["run"],
    ):
        done = run(core_python, "-m", "edgeasd", *command, "--help")
        assert done.returncode == 0, done.stderr


def test_data_scan_works(core_python: Path, tmp_path: Path, clip: Path) -> None:
    folder = tmp_path / "valve" / "00" / "normal"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(clip.read_bytes())
    done = run(core_python, "-m", "edgeasd", "data", "scan", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "valve" in done.stdout


@pytest.mark.parametrize("command", ["train", "export"])
def test_a_missing_extra_is_one_line_with_the_remedy(core_python: Path, tmp_path: Path, command: str) -> None:
    data = ["--data", tmp_path] if command == "train" else []
    (tmp_path / "runs" / "valve" / "id_00").mkdir(parents=True)
    done = run(core_python, "-m", "edgeasd", command, "--machine", "valve", *data, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'edgeasd[" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("constraints", ["jetpack6.txt", "jetpack7.txt"])
def test_the_core_tests_pass_with_every_set_of_versions(repository: Path, tmp_path: Path, constraints: str) -> None:
    """That of a workstation, tested.txt, is the one under which all tests run; the core alone under it is tried above."""
    tools = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
    python = make_environment(tmp_path / "venv", repository, constraints, *tools)
    versions = run(python, "-c", "import numpy, onnxruntime; print(numpy.__version__, onnxruntime.__version__)")
    if constraints == "jetpack6.txt":
        assert versions.stdout.split() == ["2.2.6", "1.23.2"]
    environment = {**os.environ, "EDGEASD_CORE_ONLY": "1"}
    command = [python, "-m", "pytest", "-q", "-m", "core and not slow", "-n", "2", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert sys.version_info[:2] >= (3, 10)
