"""How well machines are told apart from their faults on recorded sound, without training and without outliers.

    python benchmarks/real_sound.py ROOT [--machine ToyCar]

ROOT is a data set of any layout that `edgeasd data scan` reads. One model for all normal training clips of a machine
type, as the official DCASE protocol has it; nothing is chosen by test labels. Scores: the banks of `logmel-stats`,
together and each alone, and the Mahalanobis distance of the mean spectrum. Beside the AUC its difference to that of the vote with
the 95 % interval of DeLong's paired test; with domains, the official figures and their harmonic mean.

Features are kept in --cache, so that a second run takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import machine, machine_line, parser, report, say, table

from edgeasd.calibration.drift.ranking import delong
from edgeasd.calibration.fit.bank import bank_distances, fit_bank
from edgeasd.calibration.fit.stored_normals import section_starts
from edgeasd.runtime.features.segments import SegmentSettings, clip_starts, tile
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.evaluation.baseline import MahalanobisBaseline
from edgeasd.toolkit.evaluation.dcase import domain_figures
from edgeasd.toolkit.evaluation.metrics import auc
from edgeasd.toolkit.models.logmel_stats import LogMelStats

FRAMES, SECTIONS, STORED = 256, 10, 3


def main() -> None:
    made = parser(__doc__)
    made.add_argument("root", type=Path)
    made.add_argument("--machine", default="ToyCar")
    made.add_argument("--cache", type=Path, default=Path("build/real-sound"))
    arguments = made.parse_args()
    data = load_machine(
        arguments.root,
        arguments.machine,
        cache_folder=arguments.cache,
        seed=0,
        holdout_fraction=0.0,
        test_fraction=0.2,
    )
    splits = [data.split_for(id) for id in data.ids]
    normals = [clip for split in splits for clip in split.normals]
    test = [clip for split in splits for clip in split.test]
    say(f"{arguments.machine}: {len(normals)} normal training clips, {len(test)} test clips")
    data.prepare([*normals, *test])
    scores = all_scores(data, normals, test)
    result = {"machine": machine(), "data": arguments.machine, "normals": len(normals), "test": len(test)}
    labels = np.array([clip.label == "anomaly" for clip in test])
    rows, figures = [], {}
    for name, values in scores.items():
        figures[name] = judge(values, scores["vote of both"], labels, [clip.domain for clip in test])
        rows.append(
            [name, *(f"{100 * figures[name].get(key, np.nan):.1f}" for key in COLUMNS), figures[name]["beside"]]
        )
    result["figures"] = figures
    text = machine_line(result["machine"]) + "\n\n" + table(["score", *COLUMNS, "AUC less that of the vote"], rows)
    report(result, text, as_json=arguments.json)


COLUMNS = ("auc", "auc_source", "auc_target", "pauc", "harmonic_mean")


def all_scores(data: MachineData, normals: list[Clip], test: list[Clip]) -> dict[str, np.ndarray]:
    """Clip scores (test clips,) of each way of scoring."""
    encoder = LogMelStats().eval()

    def embed(clip: Clip, starts: Callable[[int], list[int]]) -> np.ndarray:
        features = data.features(clip)
        features = features if len(features) >= FRAMES else tile(features, FRAMES)
        segments = np.stack([features[start : start + FRAMES] for start in starts(len(features))])
        with torch.inference_mode():
            return encoder(torch.from_numpy(segments)[:, None]).numpy()

    began = time.monotonic()
    stored = [embed(clip, lambda frames: section_starts(frames, FRAMES, STORED)) for clip in normals]
    clips = np.repeat(np.arange(len(stored)), [len(one) for one in stored])
    banks = [fit_bank(np.concatenate(stored), clips, plan) for plan in encoder.bank_plans()]
    say(f"banks of {len(clips)} segments fitted in {time.monotonic() - began:.1f} s")
    embedded = [
        embed(clip, lambda frames: clip_starts(frames, SegmentSettings.for_clip_length(frames, FRAMES, SECTIONS)))
        for clip in test
    ]
    found = {"vote of both": np.array([bank_distances(banks, z).mean() for z in embedded])}
    for bank in banks:
        found[f"bank: {bank.name}"] = np.array([bank_distances([bank], z).mean() for z in embedded])
    baseline = MahalanobisBaseline().fit([data.features(clip) for clip in normals])
    found["Mahalanobis, mean spectrum"] = np.array([baseline.score(data.features(clip)) for clip in test])
    return found


def judge(values: np.ndarray, vote: np.ndarray, labels: np.ndarray, domains: list[str | None]) -> dict[str, object]:
    """AUC, the official figures where clips have domains, and the paired difference to the vote."""
    figures: dict[str, object] = {"auc": auc(values[~labels], values[labels])}
    if any(domains):
        figures |= domain_figures(values, labels, domains)
    if values is vote:
        return {**figures, "beside": "-"}
    change = delong(values[~labels], values[labels], vote[~labels], vote[labels])
    low, high = change.interval
    return {**figures, "beside": f"{100 * change.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"}


if __name__ == "__main__":
    main()
