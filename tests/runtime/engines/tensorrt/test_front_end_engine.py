"""Front end and encoder as two TensorRT engines on one stream, as far as it goes without a GPU.

The engines are stand-ins (see stand_in_gpu.py). What is shown is what edgeasd does around them: one copy of frames
to the GPU, log-mel that stays there, one graph for both, what is given back and in which order, and that the scores
are those of the CPU features where the engines compute what they should.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.selection import check_built, select
from edgeasd.runtime.engine_build.bundle_engines import verify_front_end
from edgeasd.runtime.engines import select as choice
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.engines.tensorrt import cuda as device
from edgeasd.runtime.engines.tensorrt import engine_file as machine
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.engine import TensorRTWithFrontEnd
from edgeasd.runtime.engines.tensorrt.engine_file import DeviceInfo, NotBuilt, engine_paths
from edgeasd.runtime.engines.tensorrt.execution import SerializedEngine
from edgeasd.runtime.errors import BundleError, CheckFailed, InputError
from edgeasd.runtime.scoring.scorer import HEAD_OUTPUTS, Scorer
from edgeasd.runtime.scoring.stream import Stream

HERE = DeviceInfo("10.3.0", "Stand-in", "8.7", None)
FILES = {"encoder": "encoder.fp32.onnx", "head": "head.onnx", "frontend": "frontend.onnx"}


def stand_ins() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stand_in_gpu", Path(__file__).with_name("stand_in_gpu.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(patch: pytest.MonkeyPatch, parts: Any, cuda: Any, engine: Any) -> None:
    patch.setattr(choice, "tensorrt_present", lambda: True)
    patch.setattr(library, "load", lambda: parts.tensorrt(engine))
    patch.setattr(machine, "l4t_release", lambda: None)
    patch.setattr(device, "bindings", lambda: cuda)
    patch.setattr("edgeasd.runtime.engines.tensorrt.cuda.bindings", lambda: cuda)


# The books, with engines of a few numbers


class Books:
    """A tiny chain: frames (4, 6) to log-mel (1, 4, 3), each the double of the first values, and z (5)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.parts = stand_ins()
        self.cuda = self.parts.Cuda()
        self.front = self.parts.Engine(self.cuda, {"logmel": 12}, 8, True)
        self.front.input, self.front.row, self.front.shaped = "frames", (4, 6), {"logmel": (1, 4, 3)}
        self.encoder = self.parts.Engine(self.cuda, {"z": 5}, 20, True)
        install(patch, self.parts, self.cuda, lambda plan: self.front if plan == b"front" else self.encoder)

    def chain(self, max_batch: int = 3) -> TensorRTWithFrontEnd:
        front, encoder = (
            SerializedEngine(b"front", "engines/f.engine"),
            SerializedEngine(b"encoder", "engines/e.engine"),
        )
        return TensorRTWithFrontEnd(front, encoder, precision="fp16", accelerator="cuda", max_batch=max_batch)


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return Books(monkeypatch)


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 1, 4, 6)).astype(np.float32)


def test_every_batch_goes_through_both_in_its_own_rows(books: Books) -> None:
    chain = books.chain()
    for count in (1, 3, 2, 1):
        batch = frames(count, count)
        flat = batch.reshape(count, 24)
        np.testing.assert_array_equal(chain.embed(batch), 4 * flat[:, :5])
        np.testing.assert_array_equal(chain.logmel(batch[:, 0]).reshape(count, 12), 2 * flat[:, :12])
        logmel = flat[:, :12].reshape(count, 1, 4, 3).copy()
        np.testing.assert_array_equal(chain.encoder.embed(logmel), 2 * flat[:, :5])
        np.testing.assert_array_equal(chain.embed(batch), 4 * flat[:, :5])
    chain.close()


def test_a_call_is_one_graph_from_frames_to_embeddings(books: Books) -> None:
    chain = books.chain()
    assert books.cuda.events.count("cudaGraphInstantiate") == 3
    recorded = [event for event in books.cuda.events if event.endswith(" recorded")]
    assert recorded == 3 * ["copy 1 recorded", "execute recorded", "execute recorded", "copy 2 recorded"]
    books.cuda.events.clear()
    chain.embed(frames(2))
    assert books.cuda.events == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    chain.close()


def test_without_graphs_the_same_work_is_put_on_the_stream(books: Books) -> None:
    books.encoder.capturable = False
    chain = books.chain()
    assert "no CUDA graph: engines/e.engine: TensorRT does not run a batch of 1" in chain.name
    books.cuda.events.clear()
    books.cuda.copied.clear()
    batch = frames(2)
    np.testing.assert_array_equal(chain.embed(batch), 4 * batch.reshape(2, 24)[:, :5])
    work = ["copy 1", "execute", "execute", "copy 2"]
    assert books.cuda.events == ["cudaSetDevice", *work, "cudaStreamSynchronize"]
    assert books.cuda.copied == [2 * 24 * 4, 2 * 5 * 4], "log-mel stays where it is"
    chain.close()


def test_the_shared_working_memory_is_that_of_the_hungrier(books: Books) -> None:
    books.front.device_memory_size_v2, books.encoder.device_memory_size_v2 = 700, 5000
    chain = books.chain()
    assert len(books.cuda.held[books.front.contexts[0].memory]) == 5000
    chain.close()


def test_what_the_front_end_writes_is_what_the_encoder_reads(books: Books) -> None:
    chain = books.chain()
    assert [context.size for context in books.front.contexts] == [1, 2, 3]
    for front, encoder in zip(books.front.contexts, books.encoder.contexts, strict=True):
        assert front.addresses["logmel"] == encoder.addresses["logmel"] != front.addresses["frames"]
        assert front.memory == encoder.memory, "one block of working memory, as only one runs at a time"
    chain.close()


def test_everything_is_given_back_once_and_in_order(books: Books) -> None:
    chain = books.chain()
    chain.embed(frames(1))
    books.cuda.events.clear()
    chain.encoder.close()
    assert books.cuda.events == [], "the chain is what holds the GPU"
    chain.close()
    assert (books.cuda.held, books.cuda.graphs) == ({}, {})
    given = list(books.cuda.events)
    assert given[:5] == ["cudaSetDevice", "cudaStreamSynchronize", *["cudaGraphExecDestroy"] * 3]
    assert given[-1] == "cudaStreamDestroy"
    chain.close()
    assert books.cuda.events == given
    for call in (lambda: chain.embed(frames(1)), lambda: chain.logmel(frames(1)[:, 0])):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMallocHost", "cudaStreamSynchronize"])
def test_a_failure_while_loading_gives_back_what_was_taken(books: Books, call: str) -> None:
    books.cuda.fails[call] = books.parts.Error.cudaErrorMemoryAllocation
    with pytest.raises(Exception, match="cudaErrorMemoryAllocation"):
        books.chain()
    assert (books.cuda.held, books.cuda.graphs) == ({}, {})
    assert books.cuda.events[-1] == "cudaStreamDestroy"


def test_the_name_states_both(books: Books) -> None:
    chain = books.chain()
    on = "tensorrt 10.3.0 Stand-in (compute capability 8.7)"
    assert chain.name == f"{on}, CUDA graphs, log-mel by engines/f.engine on the same stream"
    assert (chain.accelerator, chain.precision, chain.max_batch) == ("cuda:0", "fp16", 3)
    assert (chain.encoder.name, chain.encoder.precision) == (on, "fp16")
    chain.close()


def test_engines_that_do_not_fit_together_are_refused(books: Books) -> None:
    books.front.shaped = {"logmel": (1, 3, 4)}
    with pytest.raises(BundleError) as error:
        books.chain()
    assert str(error.value) == (
        "engines/f.engine: gives ('N', 1, 3, 4), engines/e.engine takes ('N', 1, 4, 3); "
        "build again with `edgeasd build`"
    )
    assert books.cuda.held == {}


def test_the_smaller_of_the_two_says_how_much_they_take(books: Books) -> None:
    with pytest.raises(InputError, match=r"^engines/f\.engine: built for batches of 1 to 8, asked for 9"):
        books.chain(max_batch=9)
    assert books.cuda.held == {}


# The whole path, with ONNX Runtime in the place of TensorRT


class Site:
    """A bundle with a front end on a machine with a stand-in for TensorRT."""

    def __init__(self, bundle: Path, parts: Any) -> None:
        self.bundle, self.parts, self.cuda = bundle, parts, parts.Cuda()
        self.distort = dict.fromkeys(FILES, 0.0)

    def build(self, part: str, max_batch: int = 10, sha256: str | None = None) -> None:
        """What `edgeasd build` leaves; the engine's bytes name the part."""
        manifest = json.loads((self.bundle / "manifest.json").read_text())
        path, beside = engine_paths(self.bundle, "fp32", part)
        path.parent.mkdir(exist_ok=True)
        data = f"{part} {max_batch}".encode()
        path.write_bytes(data)
        facts = {
            **{"tensorrt": HERE.tensorrt, "gpu": HERE.gpu, "compute_capability": "8.7", "l4t": None},
            **{"onnx_sha256": sha256 or manifest["files"][FILES[part]]["sha256"], "precision": "fp32"},
            **{"max_batch": max_batch, "flags": {}, "engine_size": len(data)},
            **{"engine_sha256": hashlib.sha256(data).hexdigest(), "schema_version": 1},
            **{"built_at": "2026-11-22T12:00:00+00:00", "edgeasd": "0.1.0"},
        }
        beside.write_text(json.dumps(facts))

    def engine(self, plan: bytes) -> Any:
        """The stand-in for an engine: its bytes name part and batch, ONNX Runtime computes."""
        part, largest = plan.decode().split()
        outputs = {"encoder": {"z": 64}, "head": dict.fromkeys(HEAD_OUTPUTS, 1), "frontend": {"logmel": 256 * 128}}
        made = self.parts.Engine(self.cuda, outputs[part], int(largest), True)
        made.row = {"encoder": (1, 256, 128), "head": (64,), "frontend": (256, 1024)}[part]
        made.input = {"encoder": "logmel", "head": "z", "frontend": "frames"}[part]
        made.flat, made.shaped = frozenset(HEAD_OUTPUTS), {"logmel": (1, 256, 128)}
        session, names = make_session(self.bundle / FILES[part], threads=1), list(outputs[part])

        def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
            found = zip(names, session.run(names, {made.input: rows}))
            return {name: value + np.float32(self.distort[part]) for name, value in found}

        made.compute = compute
        return made


@pytest.fixture
def site(front_end_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    parts = stand_ins()
    made = Site(Path(shutil.copytree(front_end_bundle, tmp_path / "valve-id_00")), parts)
    install(monkeypatch, parts, made.cuda, made.engine)
    return made


def opened(site: Site, **options: Any) -> Scorer:
    with Bundle(site.bundle) as bundle:
        return bundle.open_scorer(**options)[0]


def sound(samples: int = 160_000) -> np.ndarray:
    return (0.05 * np.random.default_rng(1).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("head", ["cpu", "tensorrt"])
def test_a_live_stream_has_the_scores_of_the_cpu_features(site: Site, head: str) -> None:
    for part, largest in (("encoder", 10), ("head", 10), ("frontend", 4)):
        site.build(part, largest)
    scorer, cpu = opened(site, front_end="graph", head=head), opened(site, engine="onnxruntime", threads=1)
    assert "log-mel by engines/frontend.fp32.engine on the same stream" in scorer.engine.name
    assert ("head as an engine of its own" in scorer.engine.name) == (head == "tensorrt")
    assert scorer.engine.max_batch == 4, "that of the smaller engine"
    found, expected = (Stream(each).push(sound()) for each in (scorer, cpu))
    assert len(found) == 10
    np.testing.assert_allclose([s.score for s in found], [s.score for s in expected], rtol=0, atol=1e-6)
    scorer.close()
    assert site.cuda.held == {}


def test_what_is_missing_is_the_line_to_type(site: Site) -> None:
    site.build("encoder")
    with pytest.raises(NotBuilt) as error:
        opened(site, front_end="graph")
    assert f"type: edgeasd build {site.bundle} --front-end (or pass --build" in str(error.value)
    with Bundle(site.bundle) as bundle:
        offer = select(bundle.manifest, site.bundle, None, "auto", "auto", front_end="graph")
        with pytest.raises(NotBuilt) as same:
            check_built(bundle.manifest, site.bundle, offer)
        assert same.value.arguments == ["build", str(site.bundle), "--front-end"]
        site.build("frontend", sha256="0" * 64)
        with pytest.raises(NotBuilt, match=r"frontend\.fp32\.engine: built for something else: ONNX sha256 0000"):
            check_built(bundle.manifest, site.bundle, offer)
        site.build("frontend")
        check_built(bundle.manifest, site.bundle, offer)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("frontend", "is not that of the runtime: log-mel deviates by 1.0"),
        ("encoder", "reference segments are not repr"),
    ],
)
def test_a_wrong_engine_is_refused_and_freed(site: Site, part: str, said: str) -> None:
    site.build("encoder")
    site.build("frontend")
    site.distort[part] = 0.01 if part == "frontend" else 1.0
    with pytest.raises(CheckFailed, match=said):
        opened(site, front_end="graph")
    assert site.cuda.held == {}


def test_a_new_engine_is_proven_on_noise(site: Site) -> None:
    site.build("frontend")
    path, _ = engine_paths(site.bundle, "fp32", "frontend")
    with Bundle(site.bundle) as bundle:
        found = verify_front_end(bundle, path, "cuda:0", 4)
        assert 0 < found.logmel < 1e-5
        assert found.z is None
        site.distort["frontend"] = float("nan")
        with pytest.raises(CheckFailed, match=r"the front end in frontend\.fp32\.engine is not that of .*on the CPU$"):
            verify_front_end(bundle, path, "cuda:0", 4)
    assert site.cuda.held == {}
