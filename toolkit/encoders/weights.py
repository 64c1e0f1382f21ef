"""Weights of pretrained encoders: read without running what they hold, known by hash, fitted name by name."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.encoders.table import ENCODERS, PretrainedEncoder, encoder_named, encoders_folder

_CLASSIFIER = ("classifier.", "fc1.", "fc_audioset.")
_FRONT_END = ("spectrogram_extractor.", "logmel_extractor.")
"""PANNs keep their front end as weights of a convolution; ours is computed (`table.front_end`)."""


@dataclass(frozen=True)
class Weights:
    """Weights of one encoder, and where they came from."""

    encoder: PretrainedEncoder
    state: dict[str, Tensor]
    """float32 by the names of the encoder's parameters and buffers, its classifier included."""
    file: str
    """Name of the file they were read from."""
    sha256: str
    is_known: bool
    """Whether the file is the published one; False where the user vouched for it."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run and a manifest say of it."""
        one = self.encoder
        facts = {"name": one.name, "title": one.title, "file": self.file, "sha256": self.sha256}
        return {**facts, "is_published_file": self.is_known, "licence": one.licence, "source": one.source}


def find_weights(name: str, path: Path | None) -> Path:
    """`path`, or the file that `edgeasd encoders fetch` has put into its folder. Raises InputError if there is none."""
    encoder = encoder_named(name)
    found = encoders_folder() / encoder.file if path is None else path
    if not found.is_file():
        how = f"get it with `edgeasd encoders fetch {name}`, or name the file with --weights"
        raise InputError(f"{found}: the weights of {name} are not there; {how}")
    return found


def read_weights(name: str, path: Path | None = None, *, trust_unknown: bool = False) -> Weights:
    """The weights of the encoder `name` from `path`, or from where `edgeasd encoders fetch` puts them.

    A file whose hash is not the one of the table is refused unless `trust_unknown`; nothing that a file holds is run
    either way. Raises InputError for a file that cannot be read, is of another encoder, or wants to run code.
    """
    encoder, path = encoder_named(name), find_weights(name, path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    sha256 = hashlib.sha256(data).hexdigest()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    is_known = _check_hash(path, encoder, len(data), sha256, md5, trust_unknown)
    state = _read_state(path, data)
    _check_state(path, encoder, state)
    return Weights(encoder, state, path.name, sha256, is_known)


def _check_hash(path: Path, encoder: PretrainedEncoder, size: int, sha256: str, md5: str, trust_unknown: bool) -> bool:
    if encoder.is_file_of(size, sha256, md5):
        return True
    for other in ENCODERS.values():
        if other.has_known_hash and other.is_file_of(size, sha256, md5):
            raise InputError(
                f"{path}: these are the weights of {other.name}, not of {encoder.name}; pass --encoder {other.name}"
            )
    if trust_unknown:
        return False
    consent = "pass --trust-weights if you know where the file comes from"
    if not encoder.has_known_hash:
        raise InputError(
            f"{path}: no hash of the published {encoder.file} is known here (yours: sha256 {sha256}); {consent}"
        )
    if encoder.size is not None and size != encoder.size:
        raise InputError(
            f"{path}: {size} bytes, the published {encoder.file} has {encoder.size}; fetch it again, or {consent}"
        )
    expected = f"sha256 {encoder.sha256}" if encoder.sha256 else f"md5 {encoder.md5}"
    found = f"sha256 {sha256}" if encoder.sha256 else f"md5 {md5}"
    raise InputError(f"{path}: {found}, the published {encoder.file} has {expected}; fetch it again, or {consent}")


def _read_state(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            raw: Any = load_safetensors(data)
        else:
            raw = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of torch, zipfile or safetensors: whatever a damaged file makes of them
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path}: wants to run {wanted[1]} when it is read, which weights never need; refused, take the published "
                "file"
            ) from None
        raise InputError(f"{path}: no file of weights ({type(error).__name__}); fetch it again") from None
    if isinstance(raw, dict) and isinstance(raw.get("model"), dict):
        raw = raw["model"]
    if not isinstance(raw, dict) or not raw or not all(isinstance(value, Tensor) for value in raw.values()):
        raise InputError(f"{path}: holds no weights by name; take the published file")
    return {str(key): value for key, value in raw.items() if not str(key).startswith(_FRONT_END)}


def _check_state(path: Path, encoder: PretrainedEncoder, state: dict[str, Tensor]) -> None:
    """InputError unless names and shapes are those of the encoder, classifier or not, and all values finite."""
    from edgeasd.toolkit.models.backbones import build_pretrained

    has_classifier = any(key.startswith(_CLASSIFIER) for key in state)
    with torch.device("meta"):
        expected = build_pretrained(encoder.name, classifier=has_classifier).state_dict()
    if problem := _mismatch(expected, state):
        for other in ENCODERS:
            with torch.device("meta"):
                theirs = build_pretrained(other, classifier=has_classifier).state_dict()
            if not _mismatch(theirs, state):
                raise InputError(f"{path}: these are weights of {other}, not of {encoder.name}; pass --encoder {other}")
        raise InputError(f"{path}: no weights of {encoder.name}: {problem}")
    for key, value in state.items():
        if value.is_floating_point():
            if not torch.isfinite(value).all():
                raise InputError(f"{path}: {key} holds values that are not finite; fetch the file again")
            state[key] = value.float()


def _mismatch(expected: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """The first difference of names or shapes, empty if there is none."""
    if differing := sorted(set(expected) ^ set(state)):
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        return f"{'lacks' if differing[0] in expected else 'has'} {differing[0]}{more}"
    for key, value in state.items():
        if value.shape != expected[key].shape:
            return f"{key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
    return ""
