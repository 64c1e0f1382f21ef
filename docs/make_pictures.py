"""Draw docs/pictures/: what a person sees of edgeasd. Each picture is made by the program itself.

    python docs/make_pictures.py                     # all of them; runs `edgeasd demo` if there is no edgeasd-demo/
    python docs/make_pictures.py live status         # some of them

`demo`, `report` and `evidence` need the folder of a demo, `report` a chromium; `live` and `status` show made-up streams.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeasd.runtime.service.status import ServiceStatus

PICTURES = Path(__file__).resolve().parent / "pictures"
FAULT_AT = 30.0
"""Seconds at which the leak of the demo begins."""


def edgeasd(*arguments: object) -> str:
    """Run a command; its standard output."""
    command = [sys.executable, "-m", "edgeasd", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# Pictures of the demo


def draw_demo(demo: Path) -> None:
    """Segment scores, clip scores, threshold, fault and alarm against seconds."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "edgeasd", "svg.fonttype": "path", "font.size": 9})
    bundle = demo / "bundles" / "valve-id_00"
    lines = edgeasd("score", bundle, demo / "stream.wav", "--live").splitlines()
    records = [json.loads(line) for line in lines]
    scores = [record["body"] for record in records if record["kind"] == "segment"]
    clips = [score for score in scores if score["complete"]]
    seconds = [score["end_seconds"] for score in scores]
    figure, axes = plt.subplots(figsize=(8.0, 3.4))
    axes.axvspan(FAULT_AT, seconds[-1], color="#f6ddcc", alpha=0.6, linewidth=0, label="fault present")
    axes.plot(seconds, [score["score"] for score in scores], color="#9fb3c8", lw=1, label="segment score")
    axes.plot(
        [score["end_seconds"] for score in clips],
        [score["clip_score"] for score in clips],
        color="#1f5f99",
        lw=2,
        label="clip score (mean of ten segments)",
    )
    axes.axhline(scores[0]["threshold"], color="#b03a2e", lw=1.2, ls="--", label="threshold")
    for alarm in (record["body"] for record in records if record["kind"] == "event"):
        if alarm["state"] == "alarm" != alarm["previous"]:
            at = min(clips, key=lambda score: abs(score["clip_score"] - alarm["score"]))["end_seconds"]
            axes.plot(at, alarm["score"], "o", color="#b03a2e", ms=7, label="alarm raised")
    axes.set(xlabel="seconds of sound", ylabel="anomaly score", xlim=(0, seconds[-1]), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURES / "demo.svg", format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def draw_report(demo: Path) -> None:
    """The upper part of the report of `evaluate`, as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder, "report.html"), Path(folder, "report.png")
        where = ("--data", demo / "recordings", "--machine", "valve", "--workspace", demo)
        edgeasd("evaluate", *where, "--baseline", "--report", page)
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--window-size=1000,940", f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        _shrink(picture, PICTURES / "report.png")


def draw_evidence(demo: Path) -> None:
    """The picture of the event that a service makes of the leak."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site.toml")
        stream = {
            "bundle": str(demo.resolve() / "bundles" / "valve-id_00"),
            "input": str(demo.resolve() / "stream.wav"),
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in stream.items()]
        site.write_text("\n".join(['site = "demo"', "[streams.valve]", *lines, "pace = 'block'", ""]))
        edgeasd("run", "--config", site)
        data = Path(folder, "data")
        (event, *_) = [json.loads(line) for line in edgeasd("events", "list", "--data", data, "--json").splitlines()]
        picture = Path(folder, "evidence.png")
        edgeasd("events", "show", event["event"], "--data", data, "--picture", picture)
        _shrink(picture, PICTURES / "evidence.png")


def _shrink(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as image:
        image.convert("RGB").quantize(160, dither=Image.Dither.NONE).save(target, optimize=True)


# Pictures of a terminal


def draw_live(_: Path) -> None:
    """The live view of `run --config`."""
    from edgeasd.runtime.service.live_view import render

    _export(
        "live", 104, "edgeasd run --config site.toml", lambda console: console.print(render(example_status(), 104, 24))
    )


def draw_status(_: Path) -> None:
    """`edgeasd status` of the same service."""
    from edgeasd.runtime.service.live_view import print_status

    _export("status", 132, "edgeasd status --config site.toml", lambda console: print_status(example_status(), console))


def _export(name: str, width: int, title: str, show: Callable[[Any], object]) -> None:
    from rich import terminal_theme
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    console = Console(record=True, width=width, force_terminal=True, color_system="truecolor", file=io.StringIO())
    show(console)
    # Without the fonts that the format would fetch from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code, monospace", "Fira Code, Menlo, Consolas, DejaVu Sans Mono, monospace")
    svg = console.export_svg(title=title, theme=terminal_theme.MONOKAI, code_format=form, unique_id=f"edgeasd-{name}")
    (PICTURES / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", "utf-8")


def example_status() -> ServiceStatus:
    """A hall with one machine in alarm, one microphone that is gone and one broker that does not answer."""
    from edgeasd.runtime.outputs import OutputState
    from edgeasd.runtime.service.status import ServiceStatus, StreamStatus

    def stream(name: str, **other: Any) -> StreamStatus:
        machine, _, number = name.partition("_")
        usual: dict[str, Any] = {
            "name": name,
            "machine": machine,
            "id": number,
            "state": "running",
            "reason": None,
            "source": "plughw:CARD=mic",
            "engine": "onnxruntime",
            "accelerator": "cpu",
            "precision": "int8-cpu",
            "level_dbfs": -34.2,
            "clip_score": 0.029,
            "complete": True,
            "threshold": 0.040,
            "score_history": [0.024 + 0.001 * (step % 6) for step in range(24)],
            "unhealthy": False,
            "health": (),
            "alarm": "normal",
            "event": None,
            "maintenance": False,
            "snoozed": False,
            "segments": 46_875,
            "skipped_segments": 0,
            "decimation": 1,
            "seconds": 9000.0,
            "waiting_seconds": 0.0,
            "dropped_seconds": 0.0,
            "overruns": 0,
            "latency_seconds": {"p50": 0.012, "p95": 0.016, "p99": 0.019},
        }
        return StreamStatus(**{**usual, **other})

    rising = [0.026, 0.027, 0.028, 0.026, 0.029, 0.031, 0.034, 0.037, 0.041, 0.045, 0.049, 0.052]
    gone = "hw:CARD=mic3: no such card; run `edgeasd devices`"
    return ServiceStatus(
        site="hall 3",
        uptime_seconds=9012.0,
        streams=[
            stream("pump_01"),
            stream(
                "valve_00",
                clip_score=0.052,
                score_history=[0.026] * 12 + rising,
                alarm="alarm",
                event="01KEZZCJ5C00000000000000ZZ",
                level_dbfs=-30.4,
                events=1,
            ),
            stream(
                "fan_02",
                state="failed",
                reason=gone,
                clip_score=None,
                score_history=[],
                unhealthy=True,
                latency_seconds=None,
                level_dbfs=-120.0,
            ),
            stream("slider_00", skipped_segments=312, state="degraded", reason="scoring cannot keep up", decimation=2),
        ],
        outputs=[
            OutputState(name="log", type="jsonl", connected=True, delivered=3120),
            OutputState(
                name="broker",
                type="mqtt",
                connected=False,
                queued=3,
                last_error="mqtt://broker.plant:1883: Connection refused",
                last_error_at="2027-01-15T08:00:03.000Z",
            ),
        ],
    )


DRAWERS = {
    "demo": draw_demo,
    "report": draw_report,
    "evidence": draw_evidence,
    "live": draw_live,
    "status": draw_status,
}


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(DRAWERS)}; all by default")
    parser.add_argument("--demo", type=Path, default=Path("edgeasd-demo"), help="folder of `edgeasd demo`")
    options = parser.parse_args()
    names = options.names or list(DRAWERS)
    if not options.demo.exists() and {"demo", "report", "evidence"} & set(names):
        edgeasd("demo", "--output", options.demo)
    PICTURES.mkdir(exist_ok=True)
    for name in names:
        DRAWERS[name](options.demo)
        print(f"docs/pictures/{name}")


if __name__ == "__main__":
    main()
