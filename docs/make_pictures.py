"""Draws docs/pictures/demo.svg: the scores of a run against time, with its threshold and alarm.

    edgeasd demo
    edgeasd run --input edgeasd-demo/stream.wav --bundle edgeasd-demo/bundles/valve-id_00 --jsonl run.jsonl
    python docs/make_pictures.py run.jsonl --fault-at 30

Needs matplotlib. The same records give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

_SCORE, _CLIP, _LIMIT, _ALARM = "#9fb3c8", "#1f5f99", "#b03a2e", "#b03a2e"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The JSON records of `edgeasd run --jsonl`, one a line."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


def draw(records: list[dict[str, Any]], fault_at: float, target: Path) -> None:
    """Write the picture: segment scores, clip scores, threshold, fault and alarm against seconds."""
    scores = [r for r in records if r["type"] == "score"]
    complete = [r for r in scores if r["complete"]]
    figure, axes = plt.subplots(figsize=(8.0, 3.4))
    axes.axvspan(fault_at, scores[-1]["end_seconds"], color="#f6ddcc", alpha=0.6, linewidth=0, label="fault present")
    axes.plot(
        [r["end_seconds"] for r in scores], [r["score"] for r in scores], color=_SCORE, lw=1, label="segment score"
    )
    axes.plot(
        [r["end_seconds"] for r in complete],
        [r["clip_score"] for r in complete],
        color=_CLIP,
        lw=2,
        label="clip score (mean of ten segments)",
    )
    axes.axhline(scores[0]["threshold"], color=_LIMIT, lw=1.2, ls="--", label="threshold")
    for alarm in (r for r in records if r["type"] == "alarm" and r["state"] == "raised"):
        axes.plot(alarm["end_seconds"], alarm["clip_score"], "o", color=_ALARM, ms=7, label="alarm raised")
    axes.set(xlabel="seconds of sound", ylabel="anomaly score", xlim=(0, scores[-1]["end_seconds"]), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description="Draw a run of `edgeasd run --jsonl`.")
    parser.add_argument("records", type=Path, help="file of JSON lines")
    parser.add_argument("--fault-at", type=float, default=30.0, help="seconds at which the fault begins")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures" / "demo.svg")
    given = parser.parse_args()
    plt.rcParams.update({"svg.hashsalt": "edgeasd", "svg.fonttype": "path", "font.size": 9})
    draw(read_records(given.records), given.fault_at, given.output)


if __name__ == "__main__":
    main()
