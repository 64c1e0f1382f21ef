"""A bundle with a full ResNet38 and random weights: the size and speed of the real one, nothing learned."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import REPOSITORY, SMALL_BUNDLE, say

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.errors import BundleError, InputError

DEFAULT = REPOSITORY / "build" / "benchmarks" / "resnet38"
"""Made once and used again by every benchmark; delete it to have it made anew."""
WITH_VARIANTS = DEFAULT.with_name("resnet38-variants")
"""The same with fp16 and int8-cpu beside fp32, for `edgeasd bench`."""


def add_bundle_options(options: argparse.ArgumentParser, rounds: int) -> None:
    """--full, --skip-full and --rounds, as every benchmark of both bundles has them."""
    options.add_argument("--full", type=Path, help="a ResNet38 bundle; made from random weights without this")
    options.add_argument("--skip-full", action="store_true", help="measure the small bundle only")
    options.add_argument("--rounds", type=int, default=rounds, help="for the small bundle; the full one has a tenth")


def full_bundle(path: Path | None = None) -> Path | None:
    """The bundle at `path`, or the one at DEFAULT, made first where it is missing; None without torch."""
    if path is not None:
        return path
    try:
        with Bundle(DEFAULT) as bundle:
            bundle.verify_files()
        return DEFAULT
    except (InputError, BundleError):
        say("making a ResNet38 bundle with random weights (once)")
    try:
        _make(DEFAULT)
    except ModuleNotFoundError as error:
        say(f"full ResNet38: not measured, making its bundle needs {error.name}; pip install 'edgeasd[export]'")
        return None
    return DEFAULT


def make_bundle(path: Path, backbone: str) -> None:
    """Write a bundle of `backbone` with random weights to `path`, unless it is there."""
    if not (path / "manifest.json").exists():
        say(f"making a bundle of {backbone} with random weights (once)")
        _make(path, backbone)


def _make(path: Path, backbone: str = "resnet38") -> None:
    import torch

    from edgeasd.calibration.fit.deploy import DeployFit
    from edgeasd.export.bundle_writer import ExportInput, write_bundle
    from edgeasd.runtime.scoring.score import ScoreSettings
    from edgeasd.toolkit.models.backbones import build_network, count_macs, count_parameters

    with Bundle(SMALL_BUNDLE) as small:
        segments, like = small.reference_segments().logmel, small.manifest
    torch.manual_seed(0)
    network = build_network(backbone)
    _randomise_norms(network.encoder, torch.from_numpy(segments)[:, None])
    with torch.no_grad():
        z = network.encoder.eval()(torch.from_numpy(segments)[:, None])
    centroid = z.mean(dim=0)
    d = ((z - centroid) ** 2).sum(dim=1).numpy()
    origin = "random weights"
    score = ScoreSettings(
        method="bce+ddcsad",
        alpha=0.5,
        alpha_source=origin,
        d_min=0.0,
        d_max=float(2.0 * np.max(d)),
        d_min_source=origin,
        d_max_source=origin,
    )
    model = ExportInput(
        machine="benchmark",
        id="00",
        backbone=backbone,
        parameters=count_parameters(network.encoder),
        macs_per_segment=count_macs(network.encoder),
        encoder=network.encoder,
        weight=network.head.weight.detach()[0],
        bias=network.head.bias.detach()[0],
        centroid=centroid,
        features=like.features,
        amplitude=like.amplitude,
        segments=like.segments,
        fit=DeployFit(score, threshold=None),
        normals=[],
        outliers=[],
        real_segments=segments,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(model, path, say)


def add_variants(path: Path, target: Path) -> None:
    """A copy of the bundle `path` with fp16 and int8-cpu, at `target`.

    Ranges are those of its reference segments, and no drift gate judges them: speed and memory do not depend on it.
    """
    import shutil

    import onnx

    from edgeasd.calibration.quantization.qdq import int8_cpu_graph
    from edgeasd.calibration.quantization.ranges import collect
    from edgeasd.export.bundle_update import BundleChanges, MadeVariant, tolerance_of, update_bundle
    from edgeasd.export.fp16 import build_fp16
    from edgeasd.runtime.bundle.reference_segments import reference_deviation
    from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine, optimisation_of
    from edgeasd.runtime.scoring.scorer import Scorer

    shutil.copytree(path, target)
    with Bundle(target) as bundle:
        reference, _ = bundle.open_scorer(precision="fp32", engine="onnxruntime")
        golden, listed = bundle.reference_segments(), bundle.manifest.precisions["fp32"].file
        fp32 = onnx.load_from_string(bundle.file(listed).read_bytes())
    made = []
    graphs = {"fp16": build_fp16(fp32), "int8-cpu": int8_cpu_graph(fp32, collect(fp32, golden.logmel).ranges("minmax"))}
    for name, graph in graphs.items():
        engine = OnnxRuntimeEngine(graph.SerializeToString(), precision=name, optimisation=optimisation_of(name))
        parts = (reference.features, reference.amplitude, reference.segments, reference.score)
        measured = reference_deviation(Scorer(engine, reference.head, *parts), golden)
        made.append(MadeVariant(name, graph, tolerance_of(name, measured), {}))
    update_bundle(target, (target / "manifest.json").read_bytes(), BundleChanges(variants=made), {})


def _randomise_norms(encoder: object, segments: object) -> None:
    """γ from U(0.5, 1.5) (zero-initialised ones leave dead channels), statistics from one pass."""
    import torch
    from torch import nn

    assert isinstance(encoder, nn.Module)
    assert isinstance(segments, torch.Tensor)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = None
        norm.reset_running_stats()
    encoder.train()
    with torch.no_grad():
        encoder(segments)


if __name__ == "__main__":
    made = full_bundle()
    if made and "--variants" in sys.argv[1:]:
        if not WITH_VARIANTS.exists():
            say("adding fp16 and int8-cpu (once)")
            add_variants(made, WITH_VARIANTS)
        made = WITH_VARIANTS
    print(made.relative_to(REPOSITORY) if made else "not made")
    sys.exit(0 if made else 1)
