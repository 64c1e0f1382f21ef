"""The front end as a graph beside the log-mel of the runtime, both on one thread of this CPU.

The runtime computes each frame once. The graph gets whole segments, of which a live stream has one every few frames,
so it computes most frames again and again. Nothing here runs on a GPU: the count of multiplications is what to go
by there. With --clips FOLDER it also says how far the graph is from the runtime's features on real sound.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from common import SMALL_BUNDLE, machine, machine_line, parser, report, say, side_by_side, table

from edgeasd.export.front_end import build_front_end
from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.features.framing import frame_samples
from edgeasd.runtime.features.logmel import Float32Array, LogMelStream, logmel

LIVE, GRAPH, FRAMING = "LogMelStream.push, one hop", "front end, one segment", "framing one segment"


def multiplications(manifest: Manifest) -> int:
    """Multiply-accumulates of the graph for one segment."""
    features = manifest.features
    bins = 1 + features.n_fft // 2
    return manifest.segments.frames * bins * (2 * features.n_fft + features.n_mels)


def speed(manifest: Manifest, session: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds for what one more live segment takes, either way."""
    features, frames, hop = manifest.features, manifest.segments.frames, manifest.segments.hop
    rng = np.random.default_rng(0)
    sound = (0.05 * rng.standard_normal(features.sample_count(frames))).astype(np.float32)
    stream = LogMelStream(features, manifest.amplitude)
    news = sound[: hop * features.hop_length]

    def framed() -> Float32Array:
        return np.array(frame_samples(sound, features, manifest.amplitude))[None]

    batch = framed()
    return side_by_side(
        {LIVE: lambda: stream.push(news), GRAPH: lambda: session.run(None, {"frames": batch}), FRAMING: framed},
        rounds=rounds,
        calls=5,
    )


def deviation(manifest: Manifest, session: Any, folder: Path) -> dict[str, Any]:
    """Largest and median |Δ log10| over the clips of a folder, segment after segment."""
    found = []
    for path in sorted(folder.rglob("*.wav")) + sorted(folder.rglob("*.flac")):
        sound = read_audio(path, sample_rate=manifest.features.sample_rate, channel=0)
        frames, length = frame_samples(sound, manifest.features, manifest.amplitude), manifest.segments.frames
        expected = logmel(sound, manifest.features, manifest.amplitude)
        for start in range(0, len(frames) - length + 1, length):
            made = session.run(None, {"frames": frames[start : start + length][None]})[0][0, 0]
            found.append(float(np.max(np.abs(made - expected[start : start + length]))))
    return {
        "clips": str(folder.name),
        "segments": len(found),
        "largest": max(found),
        "median": statistics.median(found),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--clips", type=Path, help="folder of WAV or FLAC files to measure the deviation on")
    chosen = options.parse_args()
    facts = machine()
    with Bundle(SMALL_BUNDLE) as bundle:
        manifest = bundle.manifest
    model = build_front_end(manifest.features, manifest.segments.frames)
    session = make_session(model.SerializeToString(), threads=1)
    say("speed")
    times = speed(manifest, session, chosen.rounds)
    rows: list[list[object]] = [[name, f"{statistics.median(values) * 1e3:.3f}"] for name, values in times.items()]
    mega = multiplications(manifest) / 1e6
    text = (
        f"{machine_line(facts)}\n\nFor one more segment of a live stream (hop {manifest.segments.hop} of "
        f"{manifest.segments.frames} frames), one thread\n\n"
        + table(["", "ms"], rows)
        + f"\n\nThe graph multiplies {mega:.0f} million times a segment; the small encoder "
        f"{manifest.network.macs_per_segment / 1e6:.1f} million, ResNet38 12,000 million."
    )
    result: dict[str, Any] = {"machine": facts, "seconds": {k: statistics.median(v) for k, v in times.items()}}
    result["mmac"] = mega
    if chosen.clips is not None:
        say("deviation")
        result["deviation"] = found = deviation(manifest, session, chosen.clips)
        text += (
            f"\n\n|Δ log10| on {found['segments']} segments of {found['clips']}: largest {found['largest']:.1e}, "
            f"median of the largest of each segment {found['median']:.1e}"
        )
    report(result, text, as_json=chosen.json)


if __name__ == "__main__":
    main()
