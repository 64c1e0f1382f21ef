"""What every precision of a bundle costs and what it does to the scores.

    python benchmarks/variants.py calibrate --clips normal-clips/ [--bundle BUNDLE]
    python benchmarks/variants.py judge bundles/* --data dcase2023_toycar

`calibrate` runs `edgeasd calibrate` on a copy of a bundle (a ResNet38 with random weights by default) and shows size,
time, peak memory and drift. `judge` scores the test clips of each
bundle's machine ID with every precision it offers: AUC with its interval, the paired change to fp32, rank correlation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, machine_line, parser, report, say, table
from full_bundle import full_bundle

from edgeasd.calibration.drift.ranking import auc_change, rank_correlation
from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.features.logmel import logmel
from edgeasd.runtime.scoring.clip import score_features


def calibrate(bundle: Path, clips: Path, extra: list[str]) -> dict[str, Any]:
    """What `edgeasd calibrate --json` says of a copy of `bundle`."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(bundle, Path(folder) / bundle.name))
        with Bundle(copy) as opened:
            kind = opened.manifest.machine.type
        words = ["calibrate", "--machine", kind, "--bundle", copy, "--clips", clips, "--workspace", folder, "--json"]
        # Random weights fit no clips: whether they are of this machine cannot be told.
        strange = ["--force"] if kind == "benchmark" else []
        command = [sys.executable, "-m", "edgeasd", *map(str, words), *strange, *extra]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 1) or not done.stdout:
            raise SystemExit(done.returncode)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def calibration_table(found: dict[str, Any]) -> str:
    """A row for each variant."""
    header = [
        "",
        "range method",
        "MB",
        "s",
        "peak MB",
        "rank correlation",
        "largest change, of the room",
        "layers back",
    ]
    rows: list[list[object]] = []
    for name, one in found["variants"].items():
        cost, drift = found["costs"][name], one["drift"]
        mark = "" if one["passed"] else " (not within the limits)"
        rows.append(
            [
                name + mark,
                one["method"] or "",
                f"{cost['file_bytes'] / 1e6:.2f}",
                f"{cost['seconds']:.0f}",
                f"{cost['peak_bytes'] / 1e6:.0f}",
                f"{drift['rank_clips']:.5f}",
                f"{drift['largest'] / drift['room']:.3f}",
                len(one["kept"]),
            ]
        )
    return table(header, rows)


def judge(bundle: Path, root: Path) -> dict[str, Any]:
    """Clip scores of the test clips of the bundle's ID, by precision; labels as the data set has them."""
    from edgeasd.toolkit.data.layouts import clips_and_unfit

    with Bundle(bundle) as opened:
        manifest = opened.manifest
        of_type = [clip for clip in clips_and_unfit(root)[0] if clip.machine == manifest.machine.type]
        test = [clip for clip in of_type if clip.id == manifest.machine.id and clip.split == "test"]
        anomalous = np.array([clip.label == "anomaly" for clip in test])
        scores: dict[str, list[float]] = {}
        for precision in manifest.precisions:
            say(f"{bundle.name}: {precision}")
            scorer, _ = opened.open_scorer(precision=precision)
            heard = (read_audio(clip.path, sample_rate=manifest.features.sample_rate) for clip in test)
            scores[precision] = [
                score_features(scorer, logmel(sound, scorer.features, scorer.amplitude)).score for sound in heard
            ]
            scorer.close()
    record = json.loads((bundle / "calibration.json").read_text("utf-8")).get("calibration", {})
    return {"anomalous": anomalous.tolist(), "scores": scores, "gate": record.get("variants", {})}


def judge_table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each bundle and precision, and the pooled clips of all."""
    from edgeasd.toolkit.evaluation.metrics import hanley_mcneil

    header = ["", "precision", "normal / anomalous", "AUC (95 %)", "change to fp32 (95 %)", "rank correlation"]
    header += ["that of the gate", "layers back"]
    rows: list[list[object]] = []
    for name, one in found.items():
        bad = np.array(one["anomalous"])
        base = np.array(one["scores"]["fp32"])
        for precision, scores in one["scores"].items():
            mine = np.array(scores)
            change = auc_change((base[~bad], base[bad]), (mine[~bad], mine[bad]))
            band = hanley_mcneil(change.variant, int((~bad).sum()), int(bad.sum()))
            rows.append(
                [
                    name,
                    precision,
                    f"{int((~bad).sum())} / {int(bad.sum())}",
                    f"{100 * change.variant:.1f} ({100 * band.low:.1f} to {100 * band.high:.1f})",
                    f"{100 * change.difference:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})",
                    f"{rank_correlation(base, mine):.5f}",
                    f"{gate['drift']['rank_clips']:.5f}" if (gate := one["gate"].get(precision)) else "",
                    len(gate["kept"]) if gate else "",
                ]
            )
    return table(header, rows)


def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("what", choices=("calibrate", "judge"))
    options.add_argument("bundles", nargs="*", type=Path, help="a ResNet38 with random weights for calibrate")
    options.add_argument("--clips", type=Path, help="normal clips, for calibrate")
    options.add_argument("--data", type=Path, help="data root, for judge")
    chosen, extra = options.parse_known_args()
    facts = machine()
    found: dict[str, Any] = {}
    text = [machine_line(facts)]
    for bundle in chosen.bundles or [full_bundle()]:
        if bundle is None:
            continue
        if chosen.what == "calibrate":
            found[bundle.name] = calibrate(bundle, chosen.clips, extra)
            text += [bundle.name, calibration_table(found[bundle.name])]
        else:
            found[bundle.name] = judge(bundle, chosen.data)
    if chosen.what == "judge":
        text.append(judge_table(found))
    report({"machine": facts, **found}, "\n\n".join(text), as_json=chosen.json)


if __name__ == "__main__":
    main()
