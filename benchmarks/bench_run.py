"""The whole process: `edgeasd run` from its start to the first score, and the memory it holds.

The small bundle hears a 10-s file as fast as it goes, then one in real time. The full ResNet38 hears
raw PCM on standard input, written in real time from the moment the process starts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import SMALL_BUNDLE, machine, machine_line, memory, parser, report, say, table
from feeder import RATE, Feeder
from full_bundle import full_bundle

SCORES = 5
Record = dict[str, Any]


def noise(seconds: float) -> np.ndarray:
    """Quiet noise, (n,) float32; what is heard changes neither time nor memory."""
    return (0.01 * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def start(bundle: Path, source: str, *more: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """`edgeasd run` writing JSON lines to a pipe."""
    command = [sys.executable, "-m", "edgeasd", "run", "--input", source, "--bundle", str(bundle), "--jsonl", "-"]
    return subprocess.Popen([*command, *more], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


def records(process: subprocess.Popen[bytes], begun: float) -> Any:
    """Yield (seconds since `begun`, record) for each line as it arrives."""
    assert process.stdout is not None
    for line in process.stdout:
        yield time.monotonic() - begun, json.loads(line)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end; a failed run is a failed benchmark."""
    assert process.stderr is not None
    complaint = process.stderr.read().decode()
    if process.wait() != 0:
        raise SystemExit(f"edgeasd run ended with {process.returncode}: {complaint.strip()}")


def nothing_but(*modules: str) -> float:
    """Seconds for a Python process that only imports `modules`: what no code of ours can avoid."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "".join(f"import {name}\n" for name in modules)], check=True)
    return time.monotonic() - begun


def from_file(bundle: Path, wav: Path) -> dict[str, float]:
    """Seconds from process start to the start record, the first score and the end of the process."""
    begun, found = time.monotonic(), {}
    process = start(bundle, str(wav))
    for at, record in records(process, begun):
        found.setdefault(record["kind"], at)
    finish(process)
    return {"ready": found["start"], "first score": found["segment"], "exit": time.monotonic() - begun}


def in_real_time(bundle: Path, wav: Path) -> dict[str, float]:
    """Memory in MiB after a few scores of a file played at its own speed."""
    process, scores, found = start(bundle, str(wav), "--realtime"), 0, {}
    for _, record in records(process, time.monotonic()):
        scores += record["kind"] == "segment"
        if scores == SCORES and not found:
            found = memory(process.pid)
    finish(process)
    return found


def live_like(bundle: Path, seconds: float) -> dict[str, Any]:
    """A large bundle hears sound from the moment its process starts: what is lost, and how late scores are."""
    samples = noise(seconds)
    reader, writer = os.pipe()
    begun = time.monotonic()
    process = start(bundle, "-", stdin=reader)
    os.close(reader)
    feeder = Feeder(os.fdopen(writer, "wb", buffering=0), samples, begun)
    feeder.start()
    ready, scores, gaps, end, held = 0.0, [], 0, {}, {}
    for at, record in records(process, begun):
        kind, body = record["kind"], record["body"]
        gaps += kind == "gap"
        if kind == "start":
            ready = at
        elif kind == "segment":
            scores.append((at - body["end_sample"] / RATE, body))
            held = memory(process.pid)
        elif kind == "stop":
            end = body
    finish(process)
    feeder.join()
    late = [lateness for lateness, _ in scores]
    return {
        "capture_runs_after": feeder.first_read,
        "ready_after": ready,
        "latest_write": feeder.latest,
        "first_start_sample": scores[0][1]["start_sample"],
        "samples_written": samples.size,
        "samples_heard": end["samples"],
        "dropped_samples": end["dropped_samples"],
        "gaps": gaps,
        "scores": len(scores),
        "first_score_late": late[0],
        "median_score_late": statistics.median(late),
        "worst_score_late": max(late),
        **{f"{name}_mib": value for name, value in held.items()},
    }


def load_time(bundle: Path) -> dict[str, float]:
    """Seconds to hash, to load and to check with reference segments, in a fresh process."""
    code = (
        "import json, sys, time\nfrom pathlib import Path\n"
        "from edgeasd.runtime.bundle.bundle import Bundle\nimport onnxruntime\n"
        "t = [time.monotonic()]\nbundle = Bundle(Path(sys.argv[1]))\nbundle.verify_files()\nt += [time.monotonic()]\n"
        "bundle.open_scorer(engine='onnxruntime')\nt += [time.monotonic()]\n"
        "print(json.dumps({'verify': t[1] - t[0], 'load and golden check': t[2] - t[1]}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def small(repeats: int, folder: Path) -> dict[str, Any]:
    """All figures of the small bundle."""
    wav, longer = folder / "ten_seconds.wav", folder / "longer.wav"
    soundfile.write(wav, noise(10.0), RATE, subtype="PCM_16")
    soundfile.write(longer, noise(10.5), RATE, subtype="PCM_16")
    turns: dict[str, list[float]] = {}
    for repeat in range(repeats):
        say(f"  {repeat + 1} of {repeats}")
        turn = {
            "python -c pass": nothing_but(),
            "imports numpy, pydantic, onnxruntime, soundfile, typer": nothing_but(
                "numpy", "pydantic", "onnxruntime", "soundfile", "typer"
            ),
        }
        for name, seconds in (turn | from_file(SMALL_BUNDLE, wav)).items():
            turns.setdefault(name, []).append(seconds)
    say("  in real time")
    weights = (SMALL_BUNDLE / "encoder.fp32.onnx").stat().st_size / 2**20
    return {"seconds": turns, "memory_mib": in_real_time(SMALL_BUNDLE, longer), "weights_mib": weights}


def small_text(found: dict[str, Any]) -> str:
    """Tables of the small bundle."""
    rows: list[list[object]] = [
        [name, f"{statistics.median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"]
        for name, values in found["seconds"].items()
    ]
    held = found["memory_mib"]
    return (
        f"Small bundle, a 10-s file as fast as it goes, {len(found['seconds']['ready'])} processes\n\n"
        + table(["seconds from process start to", "median", "all"], rows)
        + f"\n\nIn real time after {SCORES} scores: resident {held['resident']:.0f} MiB, peak {held['peak']:.0f} MiB "
        f"(weights {found['weights_mib']:.1f} MiB)"
    )


def full_text(found: dict[str, Any]) -> str:
    """Table of the full bundle."""
    live = found["live"]
    values = {
        "capture runs, seconds after process start": f"{live['capture_runs_after']:.2f}",
        "bundle verified, loaded and checked, seconds after process start": f"{live['ready_after']:.2f}",
        **{f"of which {name}, seconds, measured alone": f"{value:.2f}" for name, value in found["load"].items()},
        "longest delay of a write, ms": f"{live['latest_write'] * 1e3:.1f}",
        "first score starts at sample": live["first_start_sample"],
        "samples written / heard / dropped": " / ".join(
            str(live[key]) for key in ("samples_written", "samples_heard", "dropped_samples")
        ),
        "gaps": live["gaps"],
        "scores": live["scores"],
        "score after the end of its segment, first / median / worst, ms": " / ".join(
            f"{live[f'{which}_score_late'] * 1e3:.0f}" for which in ("first", "median", "worst")
        ),
        "resident / peak MiB": f"{live['resident_mib']:.0f} / {live['peak_mib']:.0f}",
        "weights, MiB": f"{found['weights_mib']:.0f}",
    }
    return "Full ResNet38, raw PCM on standard input in real time\n\n" + table(["", "value"], list(values.items()))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", type=Path, help="a ResNet38 bundle; made from random weights without this")
    options.add_argument("--skip-full", action="store_true", help="measure the small bundle only")
    options.add_argument("--repeats", type=int, default=7, help="processes with the small bundle")
    options.add_argument("--seconds", type=float, default=14.0, help="sound for the full bundle")
    chosen = options.parse_args()
    result: dict[str, Any] = {"machine": machine()}
    texts = [machine_line(result["machine"])]
    say("small bundle")
    with tempfile.TemporaryDirectory() as folder:
        result["small"] = small(chosen.repeats, Path(folder))
    texts.append(small_text(result["small"]))
    if not chosen.skip_full and (full := full_bundle(chosen.full)) is not None:
        say("full ResNet38 bundle")
        weights = (full / "encoder.fp32.onnx").stat().st_size / 2**20
        load = load_time(full)
        result["full"] = {"load": load, "live": live_like(full, chosen.seconds), "weights_mib": weights}
        texts.append(full_text(result["full"]))
    report(result, "\n\n".join(texts), as_json=chosen.json)


if __name__ == "__main__":
    main()
