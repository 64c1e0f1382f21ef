"""The published Figure 2 of the synthetic machines, recomputed in part: one method, one machine, n = 0 and 4."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PUBLISHED = REPOSITORY / "docs" / "results" / "figure2-hard.json"
MACHINE, METHOD, COUNTS = "valve", "bce+ddcsad", (0, 4)
POINTS = 0.08
"""Training is exact on one machine; another one rounds differently, and 300 iterations carry that far."""


def cells(text: str) -> dict[int, dict[str, Any]]:
    """Cells of MACHINE and METHOD by n."""
    found = [cell for cell in json.loads(text)["cells"] if (cell["machine"], cell["method"]) == (MACHINE, METHOD)]
    return {cell["count"]: cell for cell in found}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_published_figure_is_what_the_commands_give(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "hard_machines.py"
    subprocess.run([sys.executable, script, tmp_path / "hard"], check=True, capture_output=True)
    arguments = ["--data", "hard", "--machine", MACHINE, "--id", "00", "--method", METHOD, "--preset", "quick"]
    arguments += ["--counts", ",".join(map(str, COUNTS)), "--most", "64", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeasd", "reproduce", "fig2", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    now, published = cells(done.stdout), cells(PUBLISHED.read_text("utf-8"))
    for count in COUNTS:
        assert now[count]["normals"] == published[count]["normals"]
        assert now[count]["anomalies"] == published[count]["anomalies"]
        assert now[count]["auc"] == pytest.approx(published[count]["auc"], abs=POINTS)
    assert now[4]["auc"] > now[0]["auc"]
