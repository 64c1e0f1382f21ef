"""The pretrained encoders that are known: whose weights, under which licence, from where, for which front end."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.toolkit.models.front_ends import EFFICIENTAT, PANNS

_EFFICIENTAT = "https://github.com/fschmid56/EfficientAT"
_PANNS = "https://zenodo.org/records/3987831"


@dataclass(frozen=True)
class PretrainedEncoder:
    """One network with published weights."""

    name: str
    title: str
    file: str
    """Name of the published file."""
    url: str
    """Where its authors publish it."""
    source: str
    """Page that describes it."""
    licence: str
    parameters: int
    """Of the encoder, without the last layers of its classifier."""
    macs: int
    """Multiply-accumulates for 1,000 frames, which are 10 s."""
    size: int | None = None
    """Bytes of the file, if known."""
    sha256: str | None = None
    md5: str | None = None
    """What the publisher states where there is no SHA-256. Enough against a broken file, not against a forger."""
    features: FeatureSettings = field(default_factory=FeatureSettings)
    """The front end that the network was trained behind."""

    @property
    def has_known_hash(self) -> bool:
        """False if its file can only be used on trust."""
        return self.sha256 is not None or self.md5 is not None

    def is_file_of(self, size: int, sha256: str, md5: str) -> bool:
        """Whether a file of this size and these hashes is the published one; False if no hash is known."""
        if self.size is not None and size != self.size:
            return False
        if self.sha256 is not None:
            return sha256 == self.sha256
        return md5 == self.md5


def _efficientat(name: str, width: str, file: str, **facts: Any) -> PretrainedEncoder:
    return PretrainedEncoder(
        name=name,
        title=f"EfficientAT MobileNetV3, width {width}",
        file=file,
        url=f"{_EFFICIENTAT}/releases/download/v0.0.1/{file}",
        source=_EFFICIENTAT,
        licence="MIT",
        features=EFFICIENTAT,
        **facts,
    )


def _panns(name: str, kind: str, file: str, **facts: Any) -> PretrainedEncoder:
    return PretrainedEncoder(
        name=name,
        title=f"PANNs {kind}",
        file=file,
        url=f"{_PANNS}/files/{file.replace('=', '%3D')}?download=1",
        source=_PANNS,
        licence="CC BY 4.0",
        features=PANNS,
        **facts,
    )


ENCODERS: dict[str, PretrainedEncoder] = {
    one.name: one
    for one in (
        _efficientat(
            "mn04",
            "0.4",
            "mn04_as_mAP_432.pt",
            size=4_066_513,
            sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
            parameters=516_128,
            macs=110_176_640,
        ),
        _efficientat("mn05", "0.5", "mn05_as_mAP_443.pt", parameters=785_592, macs=159_320_192),
        _efficientat(
            "mn10",
            "1.0",
            "mn10_as_mAP_471.pt",
            size=19_708_753,
            sha256="0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
            parameters=2_971_664,
            macs=539_174_848,
        ),
        _efficientat("mn20", "2.0", "mn20_as_mAP_478.pt", parameters=11_641_880, macs=2_053_111_168),
        _panns(
            "panns-cnn10",
            "Cnn10",
            "Cnn10_mAP=0.380.pth",
            size=25_237_595,
            md5="bfb1f1f9968938fa8ef4012b8471f5f6",
            parameters=4_686_272,
            macs=13_012_992_000,
        ),
        _panns(
            "panns-cnn14",
            "Cnn14",
            "Cnn14_mAP=0.431.pth",
            size=327_428_481,
            md5="541141fa2ee191a88f24a3219fff024e",
            parameters=75_477_440,
            macs=20_034_256_896,
        ),
        _panns(
            "panns-resnet38",
            "ResNet38",
            "ResNet38_mAP=0.434.pth",
            md5="bf12f36aaabac4e0855e22d3c3239c1b",
            parameters=68_507_072,
            macs=23_383_408_640,
        ),
    )
}


def encoder_named(name: str, option: str = "--encoder") -> PretrainedEncoder:
    """The encoder of that name. Raises InputError for an unknown one."""
    if name not in ENCODERS:
        raise InputError(f"{option} {name}: unknown; use one of {', '.join(ENCODERS)}")
    return ENCODERS[name]


def features_of(backbone: str) -> FeatureSettings:
    """The front end of a backbone: that of its pretrained encoder, else ours."""
    return ENCODERS[backbone].features if backbone in ENCODERS else FeatureSettings()


def encoders_folder() -> Path:
    """Where `edgeasd encoders fetch` puts weights: EDGEASD_ENCODERS, or edgeasd/encoders in the user's cache folder."""
    if given := os.environ.get("EDGEASD_ENCODERS"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgeasd" / "encoders"
