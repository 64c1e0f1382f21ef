"""What a bank of normals costs at the device: head.onnx beside the encoder, one segment at a time, on one thread.

    python benchmarks/bench_bank_head.py [--json]

Encoders: `logmel-stats` and mn04 (random weights: the time is the same) with the parts its banks vote on. Heads: a
centroid, and banks of 256 and 1,024 normals (random numbers: the time is the same). Medians side by side in one run,
and the ratio of each head to its encoder; also the deviation of each head from numpy and the memory that it takes.
"""

from __future__ import annotations

from statistics import median

import numpy as np
import torch
from common import machine, machine_line, parser, ratio, report, say, side_by_side, table, times_json

from edgeasd.calibration.fit.bank import Bank, bank_distances
from edgeasd.export.graphs import build_encoder
from edgeasd.export.head import build_bank_head, build_head
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.scoring.scorer import Head
from edgeasd.toolkit.models.backbones import build_network

SIZES = (256, 1024)
ENCODERS = {"logmel-stats": (256, 128, False), "mn04": (997, 128, True)}
"""Frames and bands of a segment, and whether the parts for banks are handed out."""


def made_banks(plans: tuple, size: int) -> list[Bank]:
    """Banks of random normals with the shapes that `plans` ask for."""
    rng = np.random.default_rng(0)
    banks = []
    for plan in plans:
        width = plan.columns[1] - plan.columns[0]
        whole = plan.map == "whiten" or plan.level is not None
        matrix = rng.normal(size=(width, width)) / width**0.5 if whole else None
        matrix = rng.uniform(0.5, 2.0, width) if plan.map == "standardise" and matrix is None else matrix
        arrays = [rng.normal(size=width), matrix, rng.normal(size=(size, width)), rng.uniform(0.5, 2.0, size)]
        shift, matrix, points, density = (None if one is None else one.astype(np.float32) for one in arrays)
        banks.append(Bank(plan.name, plan.columns, shift, matrix, points, density, 1.0, 0.5, plan.weight))
    return banks


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=200)
    arguments = made.parse_args()
    result: dict[str, object] = {"machine": machine()}
    rows = []
    torch.manual_seed(0)
    for name, (frames, bands, frozen) in ENCODERS.items():
        network = build_network(name, n_mels=bands, **({"frozen": True} if frozen else {})).eval()
        session = make_session(build_encoder(network.encoder, frames, bands).SerializeToString(), threads=1)
        x = np.random.default_rng(1).normal(-2, 1, (1, 1, frames, bands)).astype(np.float32)
        z = session.run(None, {"logmel": x})[0]
        size, plans = z.shape[1], network.bank_plans()
        weight = np.zeros(size, np.float32)
        say(f"{name}: {size} values, banks {[plan.columns for plan in plans]}")
        heads, deviations, sizes = {}, {}, {"centroid": 0.0}
        heads["centroid"] = Head(build_head(weight, 0.0, weight, 0.0, 1.0).SerializeToString())
        for count in SIZES:
            banks = made_banks(plans, count)
            graph = build_bank_head(weight, 0.0, banks, 0.0, 1.0).SerializeToString()
            heads[f"{count} normals"], sizes[f"{count} normals"] = Head(graph), len(graph) / 2**20
            many = np.random.default_rng(2).normal(size=(64, size)).astype(np.float32)
            expected = bank_distances(banks, many)
            found = heads[f"{count} normals"](many)["d"]
            deviations[f"{count} normals"] = float(np.abs(found - expected).max() / np.abs(expected).max())
        calls = {"encoder": lambda session=session, x=x: session.run(None, {"logmel": x})}
        calls |= {label: (lambda head=head, z=z: head.score_outputs(z)) for label, head in heads.items()}
        times = side_by_side(calls, rounds=arguments.rounds)
        result[name] = {**times_json(times, "encoder"), "deviation": deviations, "head_mib": sizes}
        rows.append([name, "encoder", f"{1e3 * median(times['encoder']):.2f}", "", "", "", ""])
        for label in heads:
            beside = ratio(times, label, "encoder")
            off = f"{deviations[label]:.0e}" if label in deviations else ""
            spread = f"{100 * beside.low:.1f} to {100 * beside.high:.1f}"
            took = f"{1e3 * median(times[label]):.3f}"
            rows.append([name, label, took, f"{100 * beside.of_medians:.1f}", spread, f"{sizes[label]:.1f}", off])
    text = machine_line(result["machine"]) + "\n\n" + table(HEADER, rows)
    report(result, text, as_json=arguments.json)


HEADER = ("encoder", "what", "median, ms", "% of the encoder", "10 to 90 % of rounds", "head, MiB", "|Δd| / max d")


if __name__ == "__main__":
    main()
