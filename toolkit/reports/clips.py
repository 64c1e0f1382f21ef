"""The clips that a model gets wrong, as pictures and, where wanted, as sound."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from edgeasd.toolkit.data.cache import read_clip
from edgeasd.toolkit.data.machine import MachineData
from edgeasd.toolkit.evaluation.evaluate import Evaluation
from edgeasd.toolkit.reports.html import Html, data_uri, figure, grid, joined, tag
from edgeasd.toolkit.reports.pictures import logmel_png

SHOWN = 3
"""Clips of a kind."""


@dataclass(frozen=True)
class Worst:
    """Positions in `Evaluation.clips`, the worst first."""

    normals: list[int]
    """Highest scores: false alarms, or what comes nearest to one."""
    anomalies: list[int]
    """Lowest scores: misses, or what comes nearest to one."""


def worst_clips(one: Evaluation, scoring: str, count: int = SHOWN) -> Worst:
    """The `count` normal clips scored highest and anomalous clips scored lowest; ties in order of path."""

    def ranked(label: str, sign: float) -> list[int]:
        of_kind = [i for i, clip in enumerate(one.clips) if clip["label"] == label]
        return sorted(of_kind, key=lambda i: (sign * one.clips[i][scoring], one.clips[i]["path"]))[:count]

    return Worst(ranked("normal", -1), ranked("anomaly", 1))


def clip_figures(
    one: Evaluation, data: MachineData, chosen: Sequence[int], scoring: str, threshold: float | None, *, audio: bool
) -> Html:
    """Pictures of some clips side by side, all of `one` on the same colours."""
    shown = worst_clips(one, scoring)
    # One scale for everything that is compared, set by the bulk of the values and not by a single click.
    values = np.concatenate([data.features(one.sources[i]).ravel() for i in (*shown.normals, *shown.anomalies)])
    low, high = np.quantile(values, [0.02, 0.998])
    return grid(*(_figure(one, data, i, scoring, threshold, (float(low), float(high)), audio=audio) for i in chosen))


def _figure(
    one: Evaluation,
    data: MachineData,
    index: int,
    scoring: str,
    threshold: float | None,
    span: tuple[float, float],
    *,
    audio: bool,
) -> Html:
    clip, row = one.sources[index], one.clips[index]
    features = np.asarray(data.features(clip))
    settings = data.cache.settings
    seconds = settings.sample_count(len(features)) / settings.sample_rate
    picture = tag(
        "img",
        src=data_uri("image/png", logmel_png(features, *span)),
        alt=f"Log-mel picture of {row['path']}: {seconds:.1f} s to the right, "
        f"{settings.f_min:g} to {settings.f_max:g} Hz upward",
    )
    said = [tag("b", row["path"]), tag("br"), f"{row['label']}, score {row[scoring]:.4g}"]
    if threshold is not None:
        said.append(_verdict(row["label"], row[scoring] > threshold))
    if "domain" in row:
        said.append(f", {row['domain']} domain")
    parts = [picture]
    if audio:
        parts.append(
            tag("audio", controls="", preload="metadata", src=_sound(one, data, index), aria_label=row["path"])
        )
    return figure(joined(parts), joined(said))


def _verdict(label: str, above: bool) -> str:
    if label == "normal":
        return ": a false alarm" if above else ": below the threshold"
    return ": found" if above else ": missed"


def _sound(one: Evaluation, data: MachineData, index: int) -> str:
    """The clip as the model hears it (one channel at its rate), FLAC of 16 bits."""
    path, rate = one.sources[index].path, data.cache.settings.sample_rate
    samples = read_clip(path, rate, data.cache.channel)
    held = io.BytesIO()
    soundfile.write(held, samples, rate, format="FLAC", subtype="PCM_16")
    return data_uri("audio/flac", held.getvalue())
