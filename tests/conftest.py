"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
sys.path.append(str(TESTS))  # for alarm_rule.py

if "PYTEST_XDIST_WORKER" in os.environ:
    # Test workers side by side, and what they start, would otherwise each take a thread for every core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# A suite started in the background by a shell has SIGINT ignored, one started by nohup SIGHUP, and every process it
# starts inherits that: tests of Ctrl-C and of a closed terminal would wait for a signal that cannot come.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

# How long an example takes says how busy the machine is, not whether it is right.
hypothesis.settings.register_profile("edgeasd", deadline=None)
hypothesis.settings.load_profile("edgeasd")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def small_bundle() -> Path:
    """A trained bundle with the quick backbone, read-only: see tests/data/README.md."""
    return TESTS / "data" / "valve-id_00"


@pytest.fixture
def bundle_copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `small_bundle` that a test may damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "valve-id_00"))


@pytest.fixture(scope="session")
def front_end_bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_bundle` with a front end that was measured on noise, read-only; the test needs onnx."""
    pytest.importorskip("onnx")
    from edgeasd.export.front_end import FRONT_END, build_front_end, measure_front_end
    from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle, hash_file
    from edgeasd.runtime.bundle.manifest import dump_manifest

    folder = Path(shutil.copytree(small_bundle, tmp_path_factory.mktemp("front-end") / "valve-id_00"))
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / FRONT_END).write_bytes(build_front_end(Bundle(folder).manifest.features, 256).SerializeToString())
    raw["files"][FRONT_END] = {"sha256": hash_file(folder / FRONT_END), "size": (folder / FRONT_END).stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(raw))
    noise = 0.05 * np.random.default_rng(4).standard_normal(160_000)
    with Bundle(folder) as bundle:
        measured = measure_front_end(bundle, [noise.astype(np.float32)])
        (folder / MANIFEST).write_bytes(dump_manifest(bundle.manifest.model_copy(update={"front_end": measured})))
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real machine sound; the test is skipped, and says so, where it is absent."""
    root = Path(os.environ.get("EDGEASD_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / "dcase2023_toycar").is_dir():
        pytest.skip(f"REAL SOUND ABSENT: no dcase2023_toycar in {root}; set EDGEASD_TEST_DATA to run this test")
    return root


class Command(NamedTuple):
    """What a command of edgeasd answered."""

    code: int
    out: str
    said: str

    @property
    def lines(self) -> list[str]:
        """What it said on standard error in its own name."""
        return [line for line in self.said.splitlines() if line.startswith("edgeasd: ")]


@pytest.fixture(scope="session")
def edgeasd() -> Callable[..., Command]:
    """The command line in this process, with what it has loaded already: (*arguments, cwd=folder) -> Command."""
    from edgeasd.toolkit.cli import main

    # One thread, as every worker of a test run; a core-only environment has no torch.
    torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def run(*arguments: object, cwd: Path) -> Command:
        folder, argv, handlers = Path.cwd(), sys.argv, [signal.getsignal(number) for number in caught]
        threads = torch.get_num_threads() if torch else 0
        out, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        try:
            os.chdir(cwd)
            sys.argv = ["edgeasd", *map(str, arguments)]
            if torch:
                torch.set_num_threads(1)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
                main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.chdir(folder)
            sys.argv = argv
            for number, handler in zip(caught, handlers, strict=True):
                signal.signal(number, handler)
            if torch:
                torch.set_num_threads(threads)
        written = (stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (out, said))
        return Command(code, *written)

    return run


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """A page in a real browser that reaches nothing: its document on standard output, its console on the other."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("NO BROWSER: chromium is not installed, so the report is not opened in one")
    quiet = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"

    def open_page(page: Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [
                browser,
                *("--headless", "--no-sandbox", "--disable-gpu", *quiet.split(), "--enable-logging=stderr"),
                "--host-resolver-rules=MAP * ~NOTFOUND",
                *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done

    return open_page


def random_segments(count: int, seed: int = 0) -> np.ndarray:
    """(count, 256, 128) float32 with about the mean and spread of log-mel."""
    return np.random.default_rng(seed).normal(-1.0, 1.0, (count, 256, 128)).astype(np.float32)


@pytest.fixture(scope="session")
def segments() -> Callable[..., np.ndarray]:
    """`random_segments`."""
    return random_segments


def without_branches(model: Any) -> Any:
    """A copy whose residual branches end in zeros, as the zero-initialised batch norms of PANNs leave them."""
    from onnx import ModelProto, numpy_helper

    made = ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if ".conv2.weight" in tensor.name:
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return made


@pytest.fixture(scope="session")
def random_encoder() -> Callable[..., Any]:
    """(backbone, dead=False) to its float32 ONNX graph; the same graph at every call, so read-only.

    Random weights as training might leave them: γ from U(0.5, 1.5), batch-norm statistics estimated.
    With `dead`, every residual branch ends in zeros.
    """

    @functools.cache
    def make(backbone: str, dead: bool = False) -> Any:
        torch = pytest.importorskip("torch")
        if dead:
            return without_branches(make(backbone))
        from edgeasd.export.graphs import build_encoder
        from edgeasd.toolkit.models.backbones import build_network

        torch.manual_seed(0)
        encoder = build_network(backbone, zero_init_residual=False).encoder
        encoder.train()
        for layer in encoder.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
                torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
                torch.nn.init.normal_(layer.bias, 0.0, 0.1)
            elif isinstance(layer, torch.nn.Dropout):
                layer.eval()
        with torch.no_grad():
            encoder(torch.from_numpy(random_segments(2, seed=9))[:, None])
        return build_encoder(encoder, 256, 128)

    return make


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """With EDGEASD_CORE_ONLY=1, look only at files that say they need core packages alone.

    The others import torch or onnx at their top and could not even be collected.
    """
    if os.environ.get("EDGEASD_CORE_ONLY") != "1" or not collection_path.name.startswith("test_"):
        return None
    return None if "mark.core" in collection_path.read_text("utf-8") else True
