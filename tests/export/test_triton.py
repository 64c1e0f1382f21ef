"""A Triton repository: what the published schema, the graphs and the bundle say of it, and what is never harmed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="NO ONNX: Triton repositories need edgeasd[export]")

from edgeasd.export.triton import ENCODER, HEAD, MARKER, TritonOptions, check_repository, model_name, write_repository
from edgeasd.export.triton_config import render
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.engines.tensorrt.engine_file import Sidecar, engine_paths
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.runtime.scoring.score import SegmentScores

NAME = "valve-id_00"


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """NVIDIA's model_config.proto as their client package ships it; loaded by itself, for it needs no gRPC."""
    pytest.importorskip("google.protobuf.text_format", reason="NO PROTOBUF: the configurations are not validated")
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("NO TRITON SCHEMA: tritonclient is not installed, so the configurations are not validated")
    path = Path(found.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repository(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle as a repository, read-only."""
    folder = tmp_path_factory.mktemp("triton") / "models"
    write_repository([small_bundle], folder)
    return folder


def parse(schema: ModuleType, text: str) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(text, schema.ModelConfig())


@pytest.fixture
def config(schema: ModuleType, repository: Path) -> Callable[[str], Any]:
    """A model's configuration, parsed by the published schema, which refuses unknown fields."""
    return lambda model: parse(schema, (repository / model / "config.pbtxt").read_text("ascii"))


def session(folder: Path, version: int = 1) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / str(version) / "model.onnx", providers=["CPUExecutionProvider"])


def declared(tensors: Any) -> dict[str, tuple[list[int], int]]:
    """Name -> (dimensions as the graph must have them after the batch, data type)."""
    return {t.name: (list(t.reshape.shape) if t.HasField("reshape") else list(t.dims), t.data_type) for t in tensors}


# What the files say


@pytest.mark.parametrize("part", [ENCODER, HEAD])
def test_names_dimensions_and_types_are_those_of_the_graph(
    part: str, schema: ModuleType, config: Callable[[str], Any], repository: Path
) -> None:
    found, graph = config(NAME + part), session(repository / (NAME + part))
    types = {"tensor(float)": schema.TYPE_FP32}
    for tensors, values in ((found.input, graph.get_inputs()), (found.output, graph.get_outputs())):
        # Triton takes the first dimension for the batch, and it must be free.
        assert all(value.shape[0] == "N" for value in values)
        assert declared(tensors) == {value.name: (value.shape[1:], types[value.type]) for value in values}
        assert all(t.dims for t in tensors), "Triton wants at least one dimension beside the batch"
    assert found.name == NAME + part
    assert (found.platform, found.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert found.version_policy.latest.num_versions == 1


def test_the_ensemble_joins_the_parts_without_a_loose_end(config: Callable[[str], Any], repository: Path) -> None:
    whole, parts = config(NAME), {NAME + part: config(NAME + part) for part in (ENCODER, HEAD)}
    assert whole.platform == "ensemble"
    assert not whole.instance_group, "Triton refuses them on an ensemble"
    known = {t.name: list(t.dims) for t in whole.input}
    for step in whole.ensemble_scheduling.step:
        part = parts[step.model_name]
        assert (repository / step.model_name / str(step.model_version)).is_dir()
        assert set(step.input_map) == {t.name for t in part.input}
        assert set(step.output_map) == {t.name for t in part.output}
        for tensor in part.input:
            assert known[step.input_map[tensor.name]] == list(tensor.dims)
        known |= {step.output_map[t.name]: list(t.dims) for t in part.output}
    assert {t.name: list(t.dims) for t in whole.output} == {
        **{name: [1] for name in ("LOGIT", "Q", "P", "D", "D_PRIME")},
        "EMBEDDING": [64],
    }
    assert all(known[t.name] == list(t.dims) for t in whole.output)
    assert {t.name: list(t.dims) for t in whole.input} == {"LOGMEL": [1, 256, 128]}
    sizes = {config.max_batch_size for config in (whole, *parts.values())}
    assert sizes == {64}
    assert (repository / NAME / "1").is_dir(), "Triton wants a version folder, though an ensemble has no file"


def test_no_output_of_the_ensemble_is_read_by_a_later_step(config: Callable[[str], Any]) -> None:
    """Triton prunes the step that makes an output which a client did not ask for, whoever else reads it."""
    whole = config(NAME)
    read = {name for step in whole.ensemble_scheduling.step for name in step.input_map.values()}
    assert not read & {t.name for t in whole.output}


def test_batching_and_instances(config: Callable[[str], Any], schema: ModuleType) -> None:
    encoder, head = config(NAME + ENCODER), config(NAME + HEAD)
    assert list(encoder.dynamic_batching.preferred_batch_size) == [8, 16, 32, 64]
    assert encoder.dynamic_batching.max_queue_delay_microseconds == 5000
    assert [(g.count, g.kind) for g in encoder.instance_group] == [(1, schema.ModelInstanceGroup.KIND_GPU)]
    assert [(g.count, g.kind) for g in head.instance_group] == [(1, schema.ModelInstanceGroup.KIND_CPU)]
    assert head.parameters["intra_op_thread_count"].string_value == "1"


@pytest.mark.parametrize("largest", [1, 2, 3, 7, 100])
def test_preferred_batches_fit_the_largest(
    largest: int, schema: ModuleType, small_bundle: Path, tmp_path: Path
) -> None:
    write_repository([small_bundle], tmp_path / "m", TritonOptions(max_batch=largest, instances=3, kind="cpu"))
    found = parse(schema, (tmp_path / "m" / (NAME + ENCODER) / "config.pbtxt").read_text())
    preferred = list(found.dynamic_batching.preferred_batch_size)
    assert found.HasField("dynamic_batching") == (largest > 1)
    assert preferred == sorted(set(preferred))
    assert all(1 < size <= largest for size in preferred)
    assert (largest in preferred) == (largest > 1)
    assert [(g.count, g.kind) for g in found.instance_group] == [(3, schema.ModelInstanceGroup.KIND_CPU)]


def test_the_parameters_tell_a_client_what_the_manifest_does(config: Callable[[str], Any], small_bundle: Path) -> None:
    told = {name: value.string_value for name, value in config(NAME).parameters.items()}
    with Bundle(small_bundle) as bundle:
        manifest = bundle.manifest
    assert manifest.threshold is not None
    assert float(told["threshold_clip"]) == manifest.threshold.clip
    assert float(told["alpha"]) == manifest.score.alpha
    assert (float(told["d_min"]), float(told["d_max"])) == (manifest.score.d_min, manifest.score.d_max)
    assert int(told["segment_hop_frames"]) == manifest.segments.hop
    assert float(told["segment_hop_seconds"]) == pytest.approx(0.192)
    assert (told["machine"], told["id"]) == ("valve", "00")


# What the graphs compute


def through(folder: Path, version: int, logmel: np.ndarray) -> dict[str, np.ndarray]:
    """What the two files give for segments (N, frames, n_mels), one after the other as the ensemble does."""
    z = session(folder / (NAME + ENCODER), version).run(["z"], {"logmel": logmel[:, None]})[0]
    head = session(folder / (NAME + HEAD), version)
    names = [output.name for output in head.get_outputs()]
    return dict(zip(names, head.run(names, {"z": z}), strict=True))


def test_the_chain_gives_the_scores_of_the_bundle(repository: Path, small_bundle: Path) -> None:
    with Bundle(small_bundle) as bundle:
        scorer, _ = bundle.open_scorer(threads=1)
        logmel = np.resize(bundle.reference_segments().logmel, (7, 256, 128))
        logmel = logmel + np.linspace(0, 0.5, 7, dtype=np.float32)[:, None, None]
        expected, score = scorer.score_segments(logmel), bundle.manifest.score
        embeddings = scorer.embed(logmel)
    found = through(repository, 1, logmel)
    scores = SegmentScores.from_head(found, score)
    assert np.ptp(expected.score) > 1e-3, "segments too alike to show anything"
    np.testing.assert_allclose(scores.score, expected.score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["d_prime"], expected.d_prime, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["embedding"], embeddings, rtol=1e-4, atol=1e-6)
    assert {name: value.shape for name, value in found.items() if name != "embedding"} == dict.fromkeys(
        ("logit", "q", "p", "d", "d_prime"), (7,)
    )


def test_a_re_fitted_bundle_is_served_with_its_new_constants(bundle_copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["score"] |= {"d_min": 0.5, "d_max": 3.5}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    write_repository([bundle_copy], tmp_path / "m")
    with Bundle(bundle_copy) as bundle:
        found = through(tmp_path / "m", 1, bundle.reference_segments().logmel)
    np.testing.assert_allclose(found["d_prime"], (found["d"] - 0.5) / 3.0, rtol=1e-5, atol=1e-6)


# Names


@pytest.mark.parametrize(
    ("machine", "id", "name"),
    [
        ("valve", "00", "valve-id_00"),
        ("ToyCar", "car_A1", "ToyCar-id_car_A1"),
        ("pump", "a__b", None),
        ("Ventil Süd", "../../etc", None),
        ("..", ".", None),
        ("-rf", "00", None),
        ("x" * 64, "y" * 64, None),
        ("阀门", "零", None),
        ("valve", '0"0\\', None),
        ("valve", "00__encoder", None),
    ],
)
def test_a_name_is_plain_or_carries_a_hash(machine: str, id: str, name: str | None) -> None:
    found = model_name(machine, id)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert found[0].isalnum()
    assert "__" not in found
    assert len(found) <= 120
    assert found == name if name is not None else found != f"{machine}-id_{id}"


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab_-/.é", min_size=1), st.text("id_a-. ", min_size=1)), unique=True, max_size=30))
def test_no_two_machines_share_a_name(pairs: list[tuple[str, str]]) -> None:
    names = [model_name(*pair) for pair in pairs]
    assert len(set(names)) == len(pairs)


def test_odd_names_are_served_and_told_as_they_are(bundle_copy: Path, schema: ModuleType, tmp_path: Path) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["machine"] = {"type": 'Ventil "Süd"\\n', "id": "../../up"}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    (model,) = write_repository([bundle_copy], tmp_path / "site" / "m")
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == ["m"]
    told = parse(schema, (tmp_path / "site" / "m" / model.name / "config.pbtxt").read_text("ascii")).parameters
    assert told["machine"].string_value == 'Ventil "Süd"\\n'
    assert told["id"].string_value == "../../up"


@settings(max_examples=60, deadline=None)
@given(values=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"))))
def test_any_text_survives_the_writer(values: dict[str, str], schema: ModuleType) -> None:
    from edgeasd.export.triton_config import parameters

    found = parse(schema, render({"name": "m", "parameters": parameters(values)}))
    assert {name: value.string_value for name, value in found.parameters.items()} == values


# What is there already


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_machine_is_added_and_the_first_stays(small_bundle: Path, bundle_copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["machine"]["id"] = "02"
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    write_repository([small_bundle], tmp_path / "m")
    (tmp_path / "m" / "of_the_user").mkdir()
    (tmp_path / "m" / "of_the_user" / "config.pbtxt").write_text("theirs")
    before = contents(tmp_path / "m")
    write_repository([bundle_copy], tmp_path / "m")
    after = contents(tmp_path / "m")
    assert {name: data for name, data in after.items() if name in before and name != MARKER} == {
        name: data for name, data in before.items() if name != MARKER
    }
    assert set(json.loads(after[MARKER])["models"]) == {NAME, "valve-id_02"}


def test_a_bundle_exported_again_is_the_next_version(small_bundle: Path, schema: ModuleType, tmp_path: Path) -> None:
    """A server that watches the folder then loads the new one, and no step means the old one."""
    for expected in (1, 2, 3):
        (model,) = write_repository([small_bundle], tmp_path / "m")
        assert model.version == expected
    for part in ("", ENCODER, HEAD):
        assert [p.name for p in (tmp_path / "m" / (NAME + part)).iterdir() if p.is_dir()] == ["3"]
    steps = parse(schema, (tmp_path / "m" / NAME / "config.pbtxt").read_text()).ensemble_scheduling.step
    assert [step.model_version for step in steps] == [3, 3]


def refused(bundles: list[Path], folder: Path, options: TritonOptions | None = None) -> str:
    beside = sorted(folder.parent.iterdir())
    before = contents(folder) if folder.is_dir() else {}
    with pytest.raises(InputError) as error:
        write_repository(bundles, folder, options)
    assert sorted(folder.parent.iterdir()) == beside, "something half-written was left"
    assert (contents(folder) if folder.is_dir() else {}) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_foreign_folder_is_left_alone(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("years of work")
    assert "holds something else" in refused([small_bundle], tmp_path / "m")
    (tmp_path / "file").write_text("")
    assert "a file" in refused([small_bundle], tmp_path / "file")


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="NO MOUNT POINT at /proc")
def test_a_mount_point_cannot_be_replaced_and_is_refused() -> None:
    with pytest.raises(InputError, match="a mount point.*inside it"):
        check_repository(Path("/proc"))


@pytest.mark.parametrize(
    "marker",
    [
        "",
        "[]",
        "{}",
        '{"schema_version": 2, "models": {}}',
        "[" * 100_000,
        '{"models": 1}',
        '{"schema_version": 1, "models": {"m": {"version": -1}}}',
    ],
)
def test_a_damaged_list_of_ours_is_refused(marker: str, small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / MARKER).write_text(marker)
    assert "damaged or of another version" in refused([small_bundle], tmp_path / "m")


def test_a_failure_leaves_the_old_repository_whole(small_bundle: Path, bundle_copy: Path, tmp_path: Path) -> None:
    write_repository([small_bundle], tmp_path / "m")
    with open(bundle_copy / "encoder.fp32.onnx", "r+b") as handle:
        handle.seek(2000)
        handle.write(b"damage")
    assert "sha256" in refused([small_bundle, bundle_copy], tmp_path / "m")
    assert "second bundle of valve ID 00" in refused([small_bundle, small_bundle], tmp_path / "m")


def test_an_interrupt_leaves_nothing(small_bundle: Path, tmp_path: Path) -> None:
    def stop(text: str) -> None:
        if text.startswith("moving"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_repository([small_bundle], tmp_path / "m", step=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB, room for one version of the small bundle and not for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("MOUNT REFUSED: a full disk cannot be shown here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_leaves_the_old_version_whole(
    edgeasd: Callable[..., Any], small_bundle: Path, small_disk: Path
) -> None:
    words = ("triton", small_bundle, "--output", "disk/models")
    assert edgeasd(*words, cwd=small_disk.parent).code == 0
    before = contents(small_disk)
    done = edgeasd(*words, cwd=small_disk.parent)
    assert done.code == 2
    assert re.search(r"disk/models: No space left on device; make room", done.lines[-1])
    assert contents(small_disk) == before


# Options and engines


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (TritonOptions(precision="fp16"), "offers fp32"),
        (TritonOptions(platform="openvino"), "--platform openvino"),
        (TritonOptions(kind="tpu"), "--kind tpu"),
        (TritonOptions(platform="tensorrt", kind="cpu"), "--platform onnx"),
        (TritonOptions(platform="tensorrt"), "edgeasd build"),
    ],
)
def test_what_cannot_be_served_is_refused(
    options: TritonOptions, said: str, small_bundle: Path, tmp_path: Path
) -> None:
    assert said in refused([small_bundle], tmp_path / "m", options)


def with_engine(bundle: Path, **changes: Any) -> Path:
    """A bundle with a stand-in for an engine: no TensorRT made it, and only its bytes and sidecar matter here."""
    engine, beside = engine_paths(bundle, "fp32")
    engine.parent.mkdir()
    engine.write_bytes(b"a stand-in, not an engine")
    facts = {
        "tensorrt": "10.3.0",
        "gpu": "A GPU",
        "compute_capability": "8.6",
        "l4t": None,
        "onnx_sha256": hash_file(bundle / "encoder.fp32.onnx"),
        "precision": "fp32",
        "max_batch": 16,
        "flags": {},
        "engine_sha256": hash_file(engine),
        "engine_size": engine.stat().st_size,
        "built_at": "2026-01-01T00:00:00+00:00",
        "edgeasd": "0.1.0",
    }
    beside.write_text(Sidecar.model_validate({**facts, **changes}).model_dump_json())
    return bundle


def test_an_engine_is_served_with_its_largest_batch(bundle_copy: Path, schema: ModuleType, tmp_path: Path) -> None:
    (model,) = write_repository([with_engine(bundle_copy)], tmp_path / "m", TritonOptions(platform="tensorrt"))
    assert model.max_batch == 16
    folder = tmp_path / "m" / (NAME + ENCODER)
    found = parse(schema, (folder / "config.pbtxt").read_text())
    assert (found.platform, found.backend, found.max_batch_size) == ("tensorrt_plan", "tensorrt", 16)
    assert (folder / "1" / "model.plan").read_bytes() == b"a stand-in, not an engine"
    assert parse(schema, (tmp_path / "m" / NAME / "config.pbtxt").read_text()).max_batch_size == 16


@pytest.mark.parametrize("changed", ["onnx_sha256", "engine_sha256"])
def test_an_engine_of_something_else_is_refused(changed: str, bundle_copy: Path, tmp_path: Path) -> None:
    bundle = with_engine(bundle_copy, **{changed: "0" * 64})
    assert "edgeasd build" in refused([bundle], tmp_path / "m", TritonOptions(platform="tensorrt"))


def test_a_head_of_other_making_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    from edgeasd.export.triton import served_head

    with Bundle(bundle_copy) as bundle, pytest.raises(BundleError, match="not a head"):
        served_head(bundle.file("encoder.fp32.onnx"), bundle.manifest.score)


# The command line


def test_the_command_says_what_it_wrote(edgeasd: Callable[..., Any], small_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(small_bundle, tmp_path / "b")
    done = edgeasd("triton", "b", "--output", "models", "--max-batch", 8, "--json", cwd=tmp_path)
    assert done.code == 0, done.said
    told = json.loads(done.out)
    assert (told["name"], told["max_batch"], told["version"]) == (NAME, 8, 1)
    again = edgeasd("triton", "b", "--output", "b", cwd=tmp_path)
    assert again.code == 2
    assert "holds something else" in again.lines[-1]
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


# The page


class StandIn(ModuleType):
    """Not Triton: the little of its client that the page uses, over the files of a repository."""

    def __init__(self, folder: Path) -> None:
        super().__init__("tritonclient.grpc")
        self.folder = folder
        self.InferRequestedOutput = str

    class InferInput:
        def __init__(self, name: str, shape: list[int], datatype: str) -> None:
            self.facts = (name, shape, datatype)

        def set_data_from_numpy(self, data: np.ndarray) -> None:
            assert self.facts == ("LOGMEL", list(data.shape), "FP32")
            assert data.dtype == np.float32
            self.data = data

    def InferenceServerClient(self, address: str) -> StandIn:
        return self

    def infer(self, model: str, inputs: list[Any], outputs: list[str]) -> StandIn:
        assert model == NAME
        found = through(self.folder, 1, inputs[0].data[:, 0])
        self.answer = {name: found[name.lower()] for name in outputs}
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        """(N, 1) where the graph has (N,), as its configuration says."""
        value = self.answer[name]
        return value if value.ndim == 2 else value[:, None]

    def get_model_config(self, model: str, as_json: bool) -> dict[str, Any]:
        from google.protobuf import json_format

        config = json_format.MessageToDict(self.parsed, preserving_proto_field_name=True)
        return {"config": config}


def test_the_examples_of_the_page_give_the_scores_of_the_bundle(
    repository: Path,
    config: Callable[[str], Any],
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "triton.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    client = StandIn(repository)
    client.parsed = config(NAME)
    package = ModuleType("tritonclient")
    package.grpc = client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tritonclient", package)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", client)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/how-to/triton.md", "exec"), names)
    sound = (0.05 * np.random.default_rng(0).standard_normal(160_000)).astype(np.float32)
    with Bundle(small_bundle) as bundle:
        local, _ = bundle.open_scorer(threads=1)
        remote = names["connect"](bundle, "server:8001", NAME)
        expected = [score.clip_score for score in names["Stream"](local).push(sound)]
        found = [score.clip_score for score in names["Stream"](remote).push(sound)]
    assert len(expected) == 10
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert names["clip_score"](client, NAME, sound) == pytest.approx(expected[-1], rel=1e-4)
