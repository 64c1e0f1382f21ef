"""Weights of pretrained encoders: known by hash, fitted name by name, and never run."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.encoders.table import ENCODERS, encoders_folder, features_of
from edgeasd.toolkit.encoders.weights import read_weights
from edgeasd.toolkit.models.backbones import build_pretrained


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_pretrained("mn04", classifier=True).state_dict()


@pytest.fixture
def published(state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the table knows as the published one of mn04."""
    path = save(tmp_path / "mn04.pt", state)
    data = path.read_bytes()
    known = dataclasses.replace(ENCODERS["mn04"], size=len(data), sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(ENCODERS, "mn04", known)
    return path


def test_the_published_file_is_read_and_described(published: Path, state: dict[str, torch.Tensor]) -> None:
    weights = read_weights("mn04", published)
    assert weights.is_known
    assert set(weights.state) == set(state)
    assert all(torch.equal(weights.state[key], state[key]) for key in state)
    assert weights.provenance["licence"] == "MIT"
    assert weights.provenance["sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()


def test_weights_are_found_where_fetch_puts_them(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEASD_ENCODERS", str(tmp_path / "here"))
    with pytest.raises(InputError, match=r"edgeasd encoders fetch mn04.*--weights"):
        read_weights("mn04")
    (tmp_path / "here").mkdir()
    published.rename(encoders_folder() / ENCODERS["mn04"].file)
    assert read_weights("mn04").is_known


def test_another_hash_is_refused_unless_trusted(published: Path, state: dict[str, torch.Tensor]) -> None:
    changed = {**state, "features.0.0.weight": state["features.0.0.weight"] + 1}
    other = save(published.with_name("other.pt"), changed)
    with pytest.raises(InputError, match="--trust-weights"):
        read_weights("mn04", other)
    assert not read_weights("mn04", other, trust_unknown=True).is_known


def test_an_encoder_without_a_hash_asks_for_consent(tmp_path: Path) -> None:
    path = save(tmp_path / "mn05.pt", build_pretrained("mn05").state_dict())
    with pytest.raises(InputError, match=r"no hash .* is known here \(yours: sha256 [0-9a-f]{64}\)"):
        read_weights("mn05", path)
    assert not read_weights("mn05", path, trust_unknown=True).is_known


def test_weights_of_another_network_are_named(published: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are the weights of mn04, not of mn10"):
        read_weights("mn10", published)
    wide = save(tmp_path / "wide.pt", build_pretrained("mn05", classifier=True).state_dict())
    with pytest.raises(InputError, match="are weights of mn05, not of mn04"):
        read_weights("mn04", wide, trust_unknown=True)


class Runs:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_code_runs_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "bad.pt", {"features.0.0.weight": Runs(tmp_path / "made")})
    with pytest.raises(InputError, match=r"wants to run posix\.mkdir") as caught:
        read_weights("mn04", path, trust_unknown=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"<html>login</html>", b"PK\x03\x04 cut", bytes(range(256)) * 20])
def test_what_is_no_file_of_weights_is_said(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no file of weights") as caught:
        read_weights("mn04", path, trust_unknown=True)
    assert "\n" not in str(caught.value)


def test_every_cut_file_is_refused(published: Path, tmp_path: Path) -> None:
    data = published.read_bytes()
    for length in (1, 100, len(data) // 2, len(data) - 1):
        path = tmp_path / "cut.pt"
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_weights("mn04", path, trust_unknown=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features.0.0.weight": None}, "lacks features.0.0.weight"),
        ({"extra.weight": torch.zeros(1)}, "has extra.weight"),
        ({"features.0.0.weight": torch.zeros(8, 1, 5, 5)}, r"features\.0\.0\.weight is \(8, 1, 5, 5\)"),
        ({"features.0.1.weight": torch.full((8,), float("nan"))}, "not finite"),
    ],
)
def test_names_shapes_and_values_are_checked(
    change: dict[str, Any], words: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    changed = {key: value for key, value in {**state, **change}.items() if value is not None}
    with pytest.raises(InputError, match=words):
        read_weights("mn04", save(tmp_path / "x.pt", changed), trust_unknown=True)


def test_panns_keep_their_weights_under_model(tmp_path: Path) -> None:
    made = build_pretrained("panns-cnn10", classifier=True).state_dict()
    front_end = {
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 1024),
        "logmel_extractor.melW": torch.zeros(513, 64),
    }
    path = save(tmp_path / "cnn10.pth", {"iteration": 5, "model": {**front_end, **made}})
    weights = read_weights("panns-cnn10", path, trust_unknown=True)
    assert set(weights.state) == set(made)


def test_the_table_can_be_relied_on() -> None:
    for name, one in ENCODERS.items():
        assert one.url.startswith("https://")
        assert one.features.sample_rate == 32_000
        assert features_of(name) == one.features
        assert one.sha256 is None or len(one.sha256) == 64
        assert one.md5 is None or len(one.md5) == 32
        assert one.has_known_hash == (name not in ("mn05", "mn20"))
    assert features_of("quick").sample_rate == 16_000
