"""How well machines are told apart from their faults on recorded sound: method x encoder x scoring, beside baselines.

    python benchmarks/real_sound.py ROOT --machine ToyCar [--id-attribute section] [--systems logmel-stats,classify]

ROOT is a data set of any layout that `edgeasd data scan` reads. Each ID is a model of its own, trained as `edgeasd
train` does; with `--id-attribute section` all normals of a section are one, as the official DCASE protocol has it.
Systems:

    mahalanobis           distance of the mean spectrum
    ae-mse, ae-mahalanobis  the official auto-encoder baseline of DCASE 2023 Task 2 (Harada et al.): 5 frames of 128
                          bands to 8 values and back, scored by its error, or by the selective Mahalanobis distance of
                          it; of the log-mel of edgeasd, in dB
    logmel-stats          no training, no weights
    NAME                  a pretrained encoder, frozen (mn04, ...); needs --weights
    NAME/BANK             one bank of the vote alone, by its name: "logmel-stats/spread"
    classify:BACKBONE     one encoder for all IDs that tells them apart, and a bank each; a pretrained one needs --weights

What involves chance is run with every seed of --seeds. Scores of clips are kept in --results, one file for each system
and seed: a second run goes on, and a changed setting begins anew. Shown are the AUC, with domains the official figures
and their harmonic mean, the difference to --against with a paired bootstrap interval over clips (seeds averaged), and
DeLong's test of the AUC. Where a layout has no test clips, --holdout keeps normals back: one half sets scale and
threshold, the other is judged, and its false alarms are counted. Nothing is chosen by test labels here.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, machine_line, parser, report, say, table
from torch import nn

from edgeasd.calibration.drift.ranking import delong
from edgeasd.calibration.fit.deploy import clip_scores
from edgeasd.runtime.system.files import write_json
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.encoders.table import ENCODERS
from edgeasd.toolkit.encoders.weights import Weights, read_weights
from edgeasd.toolkit.evaluation.baseline import MahalanobisBaseline
from edgeasd.toolkit.evaluation.dcase import domain_figures
from edgeasd.toolkit.evaluation.evaluate import collect
from edgeasd.toolkit.evaluation.metrics import auc, partial_auc
from edgeasd.toolkit.evaluation.trained import UNFITTED, load_trained_model
from edgeasd.toolkit.models.backbones import count_macs
from edgeasd.toolkit.presets import Preset, load_preset
from edgeasd.toolkit.progress import no_progress
from edgeasd.toolkit.runs import Run, encoder_folder, run_folder
from edgeasd.toolkit.training.bank import fit_one
from edgeasd.toolkit.training.classify import shared_encoder, train_encoder
from edgeasd.toolkit.training.fabric import open_fabric

RESAMPLES = 1000
_AS_FILE = str.maketrans(":/ ,", "----")
FRAMES_OF_BASELINE = 5
DEFAULT = "mahalanobis,ae-mse,ae-mahalanobis,logmel-stats,classify:quick"


def main() -> None:
    """See the module."""
    made = parser(__doc__)
    made.add_argument("root", type=Path)
    made.add_argument("--machine", default="ToyCar")
    made.add_argument("--id-attribute", default=None)
    made.add_argument("--systems", default=DEFAULT)
    made.add_argument("--seeds", default="0,1,2")
    made.add_argument("--weights", type=Path, default=None)
    made.add_argument("--against", default="logmel-stats")
    made.add_argument("--iterations", type=int, default=None, help="of classify, in place of the preset's")
    made.add_argument("--ae-epochs", type=int, default=100)
    made.add_argument(
        "--holdout", type=float, default=None, help="share of normals kept for thresholds; 0 with anomalies"
    )
    made.add_argument("--results", type=Path, default=Path("build/real-sound"))
    options = made.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    wanted = [(name, seed) for name in options.systems.split(",") for seed in (seeds if _has_chance(name) else [0])]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, seed in wanted:
        found.setdefault(name, []).append(one_system(name, seed, options))
    rows, figures = judge(found, options.against)
    facts = machine()
    text = machine_line(facts) + "\n\n" + table(["system", *COLUMNS], rows)
    report({"machine": facts, "data": options.machine, "figures": figures}, text, as_json=options.json)


def _has_chance(name: str) -> bool:
    return name.startswith(("classify", "ae-"))


@dataclass(frozen=True)
class Judged:
    """Clips of one ID with their scores, and the cost of them."""

    scores: list[float]
    seconds: float
    macs: int
    threshold: float | None = None


def one_system(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of all test clips by one system, from the file of an earlier run if its settings were the same."""
    preset, weights = settings_of(name, options)
    key = {
        "system": name,
        "seed": seed,
        "machine": options.machine,
        "id_attribute": options.id_attribute,
        "holdout": options.holdout,
        "preset": None if preset is None else preset.model_dump(),
        "weights": None if weights is None else weights.sha256,
        "ae_epochs": options.ae_epochs if name.startswith("ae-") else None,
        "root": str(options.root.resolve()),
    }
    short = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    path = options.results / f"{options.machine}-{name.translate(_AS_FILE)}-{seed}-{short}.json"
    if path.is_file():
        return dict(json.loads(path.read_text("utf-8")))
    say(f"{name}, seed {seed}")
    data = load(options, preset)
    began, cpu = time.monotonic(), time.process_time()
    score = make_system(name, seed, data, preset, weights, options)
    fitted, fitted_cpu = time.monotonic() - began, time.process_time() - cpu
    clips: list[dict[str, Any]] = []
    for id in data.ids:
        split = data.split_for(id)
        test = [clip for clip in split.test if clip.label != "unknown"] or split.holdout_normals[::2]
        judged = score(id, test)
        clips += [
            {
                "name": clip.path.name,
                "id": id,
                "anomalous": clip.label == "anomaly",
                "domain": clip.domain,
                "score": value,
                "alarm": None if judged.threshold is None else value > judged.threshold,
                "seconds": judged.seconds / max(1, len(test)),
            }
            for clip, value in zip(test, judged.scores, strict=True)
        ]
        macs = judged.macs
    result = {"key": key, "fit_seconds": fitted, "fit_cpu_seconds": fitted_cpu, "macs": macs, "clips": clips}
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


def settings_of(name: str, options: argparse.Namespace) -> tuple[Preset | None, Weights | None]:
    """The preset of a system, and the weights that it begins with."""
    if name.startswith(("ae-", "mahalanobis")):
        return None, None
    name = name.partition("/")[0]
    kind, _, backbone = name.partition(":")
    if kind == "classify":
        preset = load_preset("pretrained-classify" if backbone in ENCODERS else "classify")
        preset = preset.changed(backbone=backbone or None, iterations=options.iterations)
    elif name in ENCODERS:
        preset = load_preset("pretrained").changed(backbone=name)
    else:
        preset = load_preset("knn").changed(backbone=name)
    weights = read_weights(preset.backbone, options.weights) if preset.backbone in ENCODERS else None
    return preset, weights


def load(options: argparse.Namespace, preset: Preset | None) -> MachineData:
    """Clips of the machine, cached as this system hears them."""
    settings = ENCODERS[preset.backbone].features if preset and preset.backbone in ENCODERS else None
    data = load_machine(
        options.root,
        options.machine,
        cache_folder=options.results / "cache",
        seed=0,
        holdout_fraction=0.0 if options.holdout is None else options.holdout,
        test_fraction=0.2,
        id_attribute=options.id_attribute,
        settings=settings,
        as_recorded=settings is not None,
        follow_recordings=True,
    )
    splits = [data.split_for(id) for id in data.ids]
    data.prepare([clip for split in splits for clip in (*split.normals, *split.holdout_normals, *split.test)])
    return data


Score = Callable[[str, Sequence[Clip]], Judged]


def make_system(
    name: str, seed: int, data: MachineData, preset: Preset | None, weights: Weights | None, options: argparse.Namespace
) -> Score:
    """Train or fit a system; returns what scores the clips of an ID."""
    if preset is None:
        return baseline(name, seed, data, options.ae_epochs)
    workspace = options.results / "runs" / f"{options.machine}-{name.translate(_AS_FILE)}-{seed}"
    shared = None
    if preset.method == "classify":
        run = train_encoder(
            data,
            preset,
            seed,
            encoder_folder(workspace, data.machine),
            open_fabric("cpu"),
            resume=True,
            weights=weights,
            report=lambda done, total, text="": say(f"  {done}/{total} {text}") if done % 50 == 0 else None,
            should_stop=lambda: False,
        )
        shared = shared_encoder(run)[1]
    runs: dict[str, Run] = {}
    for id in data.ids:
        folder = run_folder(workspace, data.machine, id)
        runs[id] = fit_one(
            data, id, preset, seed, folder, network=shared, weights=weights, overwrite=True, report=no_progress
        )

    def score(id: str, clips: Sequence[Clip]) -> Judged:
        trained = load_trained_model(runs[id])
        if alone := name.partition("/")[2]:
            trained = replace(trained, banks=tuple(bank for bank in trained.banks if bank.name == alone))
            if not trained.banks:
                raise SystemExit(
                    f"{name}: its banks are {', '.join(b.name for b in load_trained_model(runs[id]).banks)}"
                )
        began = time.monotonic()
        outputs = collect(trained.scorer(UNFITTED), data, clips)
        seconds = time.monotonic() - began
        macs = count_macs(trained.network.encoder, runs[id].segments.frames, runs[id].features.n_mels)
        if not options.holdout:
            return Judged([float(np.mean(one.d)) for one in outputs], seconds, macs)
        kept = data.split_for(id).holdout_normals
        fit = trained.deploy(collect(trained.scorer(UNFITTED), data, kept if data.split_for(id).test else kept[1::2]))
        threshold = None if fit.threshold is None else fit.threshold.clip
        return Judged(clip_scores(fit.score, outputs), seconds, macs, threshold)

    return score


def baseline(name: str, seed: int, data: MachineData, epochs: int) -> Score:
    """The Mahalanobis distance of the mean spectrum, or the auto-encoder of DCASE 2023, for each ID."""
    models: dict[str, Callable[[np.ndarray], float]] = {}
    for id in data.ids:
        normals = data.split_for(id).normals
        features = [data.features(clip) for clip in normals]
        if name == "mahalanobis":
            models[id] = MahalanobisBaseline().fit(features).score
        else:
            models[id] = auto_encoder(features, [clip.domain for clip in normals], seed, epochs, name)

    def score(id: str, clips: Sequence[Clip]) -> Judged:
        began = time.monotonic()
        scores = [models[id](data.features(clip)) for clip in clips]
        return Judged(scores, time.monotonic() - began, 0)

    return score


def auto_encoder(
    clips: Sequence[np.ndarray], domains: Sequence[str | None], seed: int, epochs: int, name: str
) -> Callable[[np.ndarray], float]:
    """Fit the auto-encoder of DCASE 2023 on log-mels (T, 128); returns what scores one.

    640-128-128-128-128-8 and back, batch norm and ReLU between; Adam at 1e-3, batches of 256 (Harada et al. 2023).
    """
    torch.manual_seed(seed)
    width = FRAMES_OF_BASELINE * clips[0].shape[1]
    sizes = [width, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, momentum=0.01, eps=1e-3), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(128, width))
    frames = torch.from_numpy(np.concatenate([_stacked(clip) for clip in clips]))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for epoch in range(epochs):
        order = torch.randperm(len(frames))
        for chosen in order[: len(order) // 256 * 256].view(-1, 256):
            batch = frames[chosen]
            loss = nn.functional.mse_loss(network(batch), batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if epoch % 10 == 9:
            say(f"  epoch {epoch + 1} of {epochs}: mean squared error {float(loss):.3f}")
    network.eval()

    @torch.inference_mode()
    def errors(clip: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(_stacked(clip))
        return x - network(x)

    if name == "ae-mse":
        return lambda clip: float((errors(clip) ** 2).mean())
    kinds = sorted({str(domain) for domain in domains})
    inverses = []
    for kind in kinds:
        found = torch.cat([errors(clip) for clip, domain in zip(clips, domains, strict=True) if str(domain) == kind])
        covariance = torch.cov(found.double().T)
        inverses.append(torch.linalg.inv(covariance + 1e-6 * torch.trace(covariance) / width * torch.eye(width)))

    def distance(clip: np.ndarray) -> float:
        found = errors(clip).double()
        return min(float(torch.einsum("ni,ij,nj->n", found, inverse, found).sqrt().mean()) for inverse in inverses)

    return distance


def _stacked(clip: np.ndarray) -> np.ndarray:
    """Log-mel (T, bands) in log10 units to frames side by side in dB, (T - 4, 5 bands) float32."""
    count = len(clip) - FRAMES_OF_BASELINE + 1
    return np.concatenate([20.0 * clip[i : i + count] for i in range(FRAMES_OF_BASELINE)], axis=1).astype(np.float32)


COLUMNS = (
    "seeds",
    "AUC",
    "source",
    "target",
    "pAUC",
    "harmonic mean",
    "its range",
    "less that of the other",
    "AUC less that of the other",
    "false alarms",
    "s a clip",
    "MMAC a segment",
    "fit s (CPU s)",
)


def judge(found: dict[str, list[dict[str, Any]]], against: str) -> tuple[list[list[object]], dict[str, Any]]:
    """Rows of the table, and every figure."""
    generator = np.random.default_rng(0)
    rows, figures = [], {}
    for name, runs in found.items():
        each = [figures_of(run["clips"]) for run in runs]
        mean = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        beside, test = "-", "-"
        if name != against and against in found and "auc" in mean:
            low, middle, high = paired(runs, found[against], generator)
            beside = f"{100 * middle:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            test = delong_of(runs, found[against])
        hm = [one.get("harmonic_mean", np.nan) for one in each]
        seconds = float(np.median([clip["seconds"] for run in runs for clip in run["clips"]]))
        alarms = [clip["alarm"] for run in runs for clip in run["clips"] if not clip["anomalous"]]
        rows.append(
            [name, len(runs)]
            + [_percent(mean.get(key)) for key in ("auc", "auc_source", "auc_target", "pauc", "harmonic_mean")]
            + [f"{100 * min(hm):.1f} to {100 * max(hm):.1f}" if len(runs) > 1 else "-", beside, test]
            + [f"{sum(alarms)} of {len(alarms)}" if alarms and alarms[0] is not None else "-"]
            + [f"{seconds:.3f}", f"{runs[0]['macs'] / 1e6:.0f}"]
            + [f"{np.mean([r['fit_seconds'] for r in runs]):.0f} ({np.mean([r['fit_cpu_seconds'] for r in runs]):.0f})"]
        )
        figures[name] = {"mean": mean, "seeds": each, "beside": beside, "delong": test}
    return rows, figures


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def figures_of(clips: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over IDs of AUC and pAUC; where clips have domains, those by domain; and their harmonic mean."""
    found: list[dict[str, float]] = []
    for id in sorted({clip["id"] for clip in clips}):
        own = [clip for clip in clips if clip["id"] == id]
        scores, labels = _arrays(own)
        if not labels.any() or labels.all():
            continue
        one = {"auc": auc(scores[~labels], scores[labels]), "pauc": partial_auc(scores[~labels], scores[labels])}
        domains = [clip["domain"] for clip in own]
        found.append({**one, **(domain_figures(scores, labels, domains) if any(domains) else {})})
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]} if found else {}


def _arrays(clips: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([clip["score"] for clip in clips]), np.array([clip["anomalous"] for clip in clips], bool)


def paired(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], generator: np.random.Generator
) -> tuple[float, float, float]:
    """2.5 %, mean and 97.5 % of the difference of the harmonic mean (or AUC) over resampled clips of each kind."""
    clips = ours[0]["clips"]
    kinds = [f"{clip['id']} {clip['domain']} {clip['anomalous']}" for clip in clips]
    groups = [np.flatnonzero([kind == one for kind in kinds]) for one in sorted(set(kinds))]

    def figure(runs: Sequence[dict[str, Any]], chosen: np.ndarray) -> float:
        each = [figures_of([run["clips"][i] for i in chosen]) for run in runs]
        return float(np.mean([one.get("harmonic_mean", one["auc"]) for one in each]))

    found = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([generator.choice(group, len(group)) for group in groups])
        found.append(figure(ours, chosen) - figure(theirs, chosen))
    whole = np.arange(len(clips))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), figure(ours, whole) - figure(theirs, whole), float(high)


def delong_of(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> str:
    """DeLong's paired test of the AUC over all clips, of the first seed of each; for one ID only."""
    (a, labels), (b, _) = _arrays(ours[0]["clips"]), _arrays(theirs[0]["clips"])
    if len({clip["id"] for clip in ours[0]["clips"]}) > 1:
        return "-"
    change = delong(a[~labels], a[labels], b[~labels], b[labels])
    low, high = change.interval
    return f"{100 * change.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


if __name__ == "__main__":
    main()
