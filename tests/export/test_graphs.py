"""The encoder in ONNX computes what torch computes, for any batch, and says nothing of where it was made."""

from __future__ import annotations

import getpass
import socket
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeasd.export.graphs import build_encoder, save, tidy
from edgeasd.runtime.bundle.onnx_check import inspect_onnx
from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgeasd.runtime.errors import CheckFailed
from edgeasd.toolkit.models.backbones import build_network


def shaken(backbone: str, n_mels: int = 128) -> nn.Module:
    """An encoder as training might leave it: no branch switched off, statistics that are not 0 and 1."""
    torch.manual_seed(0)
    encoder = build_network(backbone, n_mels=n_mels).encoder
    for norm in (m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.1)
        nn.init.normal_(norm.running_mean, 0.0, 0.5)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return encoder.eval()


@pytest.fixture(scope="module")
def quick() -> nn.Module:
    return shaken("quick")


@pytest.fixture(scope="module")
def model(quick: nn.Module) -> onnx.ModelProto:
    return build_encoder(quick, 256, 128)


def assert_parity(encoder: nn.Module, path: Path, batches: tuple[int, ...]) -> None:
    engine = OnnxRuntimeEngine(path, threads=1)
    generator = np.random.default_rng(0)
    for count in batches:
        x = generator.normal(-1.0, 1.0, (count, 1, 256, 128)).astype(np.float32)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(x)).numpy()
        found = engine.embed(x)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        assert np.max(np.abs(found - expected)) <= 1e-5 * np.max(np.abs(expected))
    engine.close()


def assert_keeps_the_rules(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert model.ir_version == 9
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    batch, *rest = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [d.dim_value for d in rest] == [1, 256, 128]
    assert [i.name for i in model.graph.input] == ["logmel"]
    assert [o.name for o in model.graph.output] == ["z"]
    kinds = {t.data_type for t in model.graph.initializer}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert "Dropout" not in {node.op_type for node in model.graph.node}


def assert_says_nothing_of_this_machine(path: Path, repository: Path) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        # Among millions of random weights any three letters turn up sooner or later.
        tensor.ClearField("raw_data")
    data = model.SerializeToString()
    places = {str(Path.home()), str(repository), str(Path.cwd()), sys.prefix, "site-packages", ".py", "torch.nn"}
    places |= {getpass.getuser() + "/", socket.gethostname() + "."}
    places -= {"/", "root/", ""}
    found = {place for place in places if place.encode() in data}
    assert not found


def test_quick_equals_torch_for_any_batch(quick: nn.Module, model: onnx.ModelProto, tmp_path: Path) -> None:
    save(model, tmp_path / "encoder.onnx")
    assert_parity(quick, tmp_path / "encoder.onnx", (1, 2, 3, 10, 17))


def test_quick_keeps_the_bundle_s_rules(model: onnx.ModelProto, tmp_path: Path, repository: Path) -> None:
    assert_keeps_the_rules(model)
    save(model, tmp_path / "encoder.onnx")
    header = inspect_onnx(tmp_path / "encoder.onnx")
    assert (header.ir_version, header.opsets) == (9, {"": 19})
    assert_says_nothing_of_this_machine(tmp_path / "encoder.onnx", repository)


def test_the_same_encoder_gives_the_same_bytes(quick: nn.Module, model: onnx.ModelProto, tmp_path: Path) -> None:
    save(model, tmp_path / "one.onnx")
    save(build_encoder(quick, 256, 128), tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_an_encoder_in_training_mode_is_exported_in_eval_mode(quick: nn.Module, model: onnx.ModelProto) -> None:
    state = quick.state_dict()
    other = build_network("quick").encoder.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    other.load_state_dict(state)
    again = build_encoder(other, 256, 128)
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in model.graph.node]
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_other_shapes_are_exported_as_asked() -> None:
    encoder = shaken("quick", 64)
    made = build_encoder(encoder, 96, 64)
    x = np.random.default_rng(0).normal(size=(3, 1, 96, 64)).astype(np.float32)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(x)).numpy()
    found = OnnxRuntimeEngine(made.SerializeToString(), threads=1).embed(x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_what_breaks_the_rules_is_refused(model: onnx.ModelProto) -> None:
    foreign = onnx.ModelProto()
    foreign.CopyFrom(model)
    foreign.graph.node[0].domain = "com.example"
    with pytest.raises(CheckFailed, match=r"uses the domains \['', 'com\.example'\]"):
        tidy(foreign)
    newer = onnx.ModelProto()
    newer.CopyFrom(model)
    newer.opset_import[0].version = 20
    with pytest.raises(CheckFailed, match="opset 20, expected 19"):
        tidy(newer)


def test_tidy_removes_what_an_exporter_notes(model: onnx.ModelProto) -> None:
    chatty = onnx.ModelProto()
    chatty.CopyFrom(model)
    chatty.doc_string = chatty.graph.doc_string = chatty.graph.node[0].doc_string = "/home/someone/train.py"
    chatty.producer_version = "/home/someone"
    for holder in (chatty, chatty.graph, chatty.graph.node[3], chatty.graph.input[0], chatty.graph.initializer[0]):
        entry = holder.metadata_props.add()
        entry.key, entry.value = "stack", "/home/someone/train.py:7"
    chatty.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    assert tidy(chatty).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_resnet38_equals_torch_and_keeps_the_rules(tmp_path: Path, repository: Path) -> None:
    encoder = shaken("resnet38")
    model = build_encoder(encoder, 256, 128)
    assert_keeps_the_rules(model)
    save(model, tmp_path / "encoder.onnx")
    assert_says_nothing_of_this_machine(tmp_path / "encoder.onnx", repository)
    assert_parity(encoder, tmp_path / "encoder.onnx", (1, 3))
