"""A checkpoint is whole or refused, holds no pickle, and gives back every bit that it was given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.models.backbones import Network, build_network
from edgeasd.toolkit.training import checkpoint as checkpoint_module
from edgeasd.toolkit.training.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    optimiser_tensors,
    save_checkpoint,
)


class Small:
    """A network with an optimiser that has taken a step."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network: Network = build_network("quick", n_mels=32)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.names = [name for name, _ in self.network.named_parameters()]
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        self.centroids = torch.randn(64), torch.randn(64)
        logit, z = self.network(torch.randn(4, 1, 64, 32))
        (logit.sum() + z.square().sum()).backward()
        self.optimiser.step()

    def save(self, folder: Path, iteration: int = 5, keep: int = 2) -> Path:
        state = {"iteration": iteration, "seed": 0}
        tensors = optimiser_tensors(self.optimiser, self.names)
        return save_checkpoint(folder, self.network, self.centroids, tensors, state, keep)


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def moments(optimiser: torch.optim.Optimizer) -> dict[tuple[int, str], Tensor]:
    state = optimiser.state_dict()["state"]
    return {(i, k): torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def test_everything_comes_back_bit_for_bit(small: Small, tmp_path: Path) -> None:
    torch.manual_seed(77)
    loaded = load_checkpoint(small.save(tmp_path))
    expected_next = torch.rand(5)
    other = Small(seed=1)
    c_p, c_n = loaded.restore_network(other.network)
    loaded.restore_optimiser(other.optimiser, other.names)
    loaded.restore_random_states()
    assert torch.equal(torch.rand(5), expected_next)
    assert loaded.iteration == 5
    assert torch.equal(c_p, small.centroids[0])
    assert torch.equal(c_n, small.centroids[1])
    ours, theirs = small.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    before, after = moments(small.optimiser), moments(other.optimiser)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_folder_holds_safetensors_and_json_only(small: Small, tmp_path: Path) -> None:
    path = small.save(tmp_path)
    assert path.name == "step-000005"
    assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", "optimiser.safetensors", "state.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000005"]
    model = safetensors.torch.load_file(path / "model.safetensors")
    assert {"centroid.normal", "centroid.outlier", "network.head.weight"} <= model.keys()
    assert json.loads((path / "state.json").read_text())["iteration"] == 5
    # A pickle written with protocol 2 or later begins so.
    assert not any(p.read_bytes().startswith(b"\x80") for p in path.iterdir())


def test_only_the_newest_are_kept_in_order_of_iteration(small: Small, tmp_path: Path) -> None:
    for iteration in (1, 5, 9, 10, 999_999, 1_000_000):
        small.save(tmp_path, iteration, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]
    assert latest_checkpoint(tmp_path).iteration == 1_000_000


def test_a_step_saved_twice_is_replaced(small: Small, tmp_path: Path) -> None:
    small.save(tmp_path)
    Small(seed=3).save(tmp_path)
    assert torch.equal(latest_checkpoint(tmp_path).model["centroid.normal"], Small(seed=3).centroids[0])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_the_earlier_checkpoints(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save(tmp_path, 1)
    small.save(tmp_path, 2)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        small.save(tmp_path, 3, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def truncate(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])

    return damage


def empty(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(b"") and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def replace_state(text: str) -> Callable[[Path], None]:
    return lambda path: (path / "state.json").write_text(text) and None


def drop_tensor(file: str, prefix: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors = safetensors.torch.load_file(path / file)
        safetensors.torch.save_file({k: v for k, v in tensors.items() if not k.startswith(prefix)}, path / file)

    return damage


FILES = ("model.safetensors", "optimiser.safetensors", "state.json")
DAMAGE = {
    **{f"half of {name}": truncate(name) for name in FILES},
    **{f"empty {name}": empty(name) for name in FILES},
    "no model": remove("model.safetensors"),
    "no optimiser": remove("optimiser.safetensors"),
    "state not JSON": replace_state("not json"),
    "state a list": replace_state("[]"),
    "state of another format": replace_state('{"format": 99, "iteration": 5}'),
    "state without iteration": replace_state('{"format": 1}'),
    "state with a worded iteration": replace_state('{"format": 1, "iteration": "five"}'),
    "a pickle in its place": lambda path: (path / "model.safetensors").write_bytes(b"\x80\x04K\x01.") and None,
    "no centroid": drop_tensor("model.safetensors", "centroid."),
    "no weights": drop_tensor("model.safetensors", "network.head"),
    "no random state": drop_tensor("optimiser.safetensors", "random/"),
    "no moments": drop_tensor("optimiser.safetensors", "adam/"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_an_input_error_that_names_it(
    small: Small, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = small.save(tmp_path)
    damage(path)
    other = Small(seed=1)
    with pytest.raises(InputError, match="step-000005") as caught:
        loaded = load_checkpoint(path)
        loaded.restore_network(other.network)
        loaded.restore_optimiser(other.optimiser, other.names)
        loaded.restore_random_states()
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_do_not_fit(small: Small, tmp_path: Path) -> None:
    loaded = load_checkpoint(small.save(tmp_path))
    with pytest.raises(InputError, match="does not fit the network of its preset"):
        loaded.restore_network(build_network("quick", n_mels=64))


def test_no_checkpoint_is_an_input_error_with_the_way_on(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="holds no checkpoint; train first with `edgeasd train`"):
            latest_checkpoint(folder)


def test_half_made_and_foreign_folders_are_not_checkpoints(small: Small, tmp_path: Path) -> None:
    whole = small.save(tmp_path)
    shutil.copytree(whole, tmp_path / ".step-000009.1-ab.tmp")
    shutil.copytree(whole, tmp_path / "step-old")
    (tmp_path / "step-000007").mkdir()
    assert list_checkpoints(tmp_path) == [whole]
