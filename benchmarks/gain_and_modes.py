"""What following a gain costs, and modes and gain on recorded sound.

    python benchmarks/gain_and_modes.py ROOT [--machine ToyCar]

ROOT is a data set of any layout that `edgeasd data scan` reads. One bank of normals (`logmel-stats`) for all normal
training clips, and beside it the Mahalanobis distance of the mean spectrum, which hears a gain. Every test clip is scored as it is, 6 dB louder and 6 dB quieter; and again with its gain undone against
the profile of the training normals, each clip by itself, which is more than a device does: it follows over half a minute.
With the AUC stands its difference to that of the clips as they are, with the 95 % interval of DeLong's paired test.
Nothing is chosen by test labels.

For a machine whose file names say a voltage (`spd_31V` of ToyCar), the share of test normals
whose nearest profile, of those of their car, is that of their own voltage; as they are and with another gain.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from common import machine, machine_line, parser, report, say, table

from edgeasd.calibration.drift.ranking import delong
from edgeasd.calibration.fit.bank import bank_distances, fit_bank
from edgeasd.calibration.fit.levels import clip_levels
from edgeasd.calibration.fit.profile import ClipSound, clip_sound, sound_profile
from edgeasd.calibration.fit.stored_normals import section_starts
from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.features.logmel import Float32Array, logmel
from edgeasd.runtime.features.segments import SegmentSettings, clip_starts, tile
from edgeasd.runtime.states.sound import SoundProfile
from edgeasd.toolkit.data.machine import load_machine
from edgeasd.toolkit.evaluation.baseline import MahalanobisBaseline
from edgeasd.toolkit.evaluation.metrics import auc
from edgeasd.toolkit.models.logmel_stats import LogMelStats

FRAMES, SECTIONS, STORED, RATE = 256, 10, 3, 16_000
GAINS = (0.0, 6.0, -6.0)
"""In dB."""
GROUP = re.compile(r"_car_([A-Z]\d)_spd_(\d+V)_")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("root", type=Path)
    made.add_argument("--machine", default="ToyCar")
    made.add_argument("--cache", type=Path, default=Path("build/real-sound"))
    arguments = made.parse_args()
    data = load_machine(
        arguments.root, arguments.machine, cache_folder=arguments.cache, seed=0, holdout_fraction=0.0, test_fraction=0.2
    )
    splits = [data.split_for(id) for id in data.ids]
    normals = [clip for split in splits for clip in split.normals]
    test = [clip for split in splits for clip in split.test]
    say(f"{arguments.machine}: {len(normals)} normal training clips, {len(test)} test clips")
    encoder, amplitude = LogMelStats().eval(), data.amplitude

    def embed(features: Float32Array, starts: list[int]) -> np.ndarray:
        segments = np.stack([features[start : start + FRAMES] for start in starts])
        with torch.inference_mode():
            return np.asarray(encoder(torch.from_numpy(segments)[:, None]).numpy())

    stored, clips, sounds, groups = [], [], [], defaultdict(list)
    for index, clip in enumerate(normals):
        sound = read_audio(clip.path, sample_rate=RATE)
        features = np.asarray(data.features(clip))
        whole = features if len(features) >= FRAMES else tile(features, FRAMES)
        stored.append(embed(whole, section_starts(len(whole), FRAMES, STORED)))
        clips += [index] * len(stored[-1])
        one = clip_sound(features, clip_levels(sound, RATE), data.cache.settings, amplitude)
        sounds.append(one)
        groups[group_of(clip.path)].append(one)
    profile = sound_profile(sounds)
    assert profile is not None
    plans = encoder.bank_plans()
    banks = [fit_bank(np.concatenate(stored), np.array(clips), plan) for plan in plans]

    def score(sound: Float32Array) -> float:
        features = logmel(sound, data.cache.settings, amplitude)
        starts = clip_starts(len(features), SegmentSettings.for_clip_length(len(features), FRAMES, SECTIONS))
        return float(bank_distances(banks, embed(features, starts)).mean())

    def offset(sound: Float32Array) -> float:
        frames = logmel(sound, data.cache.settings, amplitude)
        one = clip_sound(frames, np.zeros(1), data.cache.settings, amplitude)
        return float(profile.compare(one.spectra.mean(axis=0))[0])

    labels = np.array([clip.label == "anomaly" for clip in test])
    played = [read_audio(clip.path, sample_rate=RATE) for clip in test]
    baseline = MahalanobisBaseline().fit([np.asarray(data.features(clip)) for clip in normals])
    ways = {
        "stored normals": score,
        "Mahalanobis, mean spectrum": lambda sound: baseline.score(logmel(sound, data.cache.settings, amplitude)),
    }
    scores: dict[tuple[str, float, bool], np.ndarray] = {}
    for gain in GAINS:
        changed = [sound * np.float32(10 ** (gain / 20)) for sound in played]
        undone = [sound * np.float32(10 ** (-offset(sound) / 20)) for sound in changed]
        for name, way in ways.items():
            scores[name, gain, False] = np.array([way(sound) for sound in changed])
            scores[name, gain, True] = np.array([way(sound) for sound in undone])
        say(f"  {gain:+g} dB")
    rows = [row(name, values, scores[name[0], 0.0, False], labels) for name, values in sorted(scores.items())]
    found = modes(groups, test, played, labels, data.cache.settings, amplitude)
    head = ("score", "test clips", "AUC", "less AUC as they are", "normals above 99 % of them as they are")
    text = f"{machine_line(machine())}\n\n{table(head, rows)}\n\n{table(('gain', 'normals', 'nearest group right'), found)}"
    report({"machine": machine(), "rows": rows, "modes": found}, text, as_json=arguments.json)


def group_of(path: Path) -> str:
    """Car and voltage in a file name; one group for all that say none."""
    match = GROUP.search(path.name)
    return f"{match[1]} {match[2]}" if match else "all"


def row(name: tuple[str, float, bool], values: np.ndarray, plain: np.ndarray, labels: np.ndarray) -> list[object]:
    """AUC, its paired difference, and the share of normals above the 99th percentile of the unchanged normals."""
    way, gain, followed = name
    change = delong(values[~labels], values[labels], plain[~labels], plain[labels])
    low, high = change.interval
    above = float(np.mean(values[~labels] > np.percentile(plain[~labels], 99)))
    title = f"{gain:+g} dB{', gain undone' if followed else ''}"
    beside = f"{100 * change.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return [way, title, f"{100 * auc(values[~labels], values[labels]):.1f}", beside, f"{100 * above:.0f} %"]


def modes(
    groups: dict[str, list[ClipSound]],
    test: list[object],
    played: list[Float32Array],
    labels: np.ndarray,
    settings: object,
    amplitude: object,
) -> list[list[object]]:
    """For each gain, how many test normals lie nearest to the profile of their own group."""
    profiles: dict[str, SoundProfile] = {
        name: found for name, sounds in groups.items() if (found := sound_profile(sounds)) is not None
    }
    rows: list[list[object]] = []
    for gain in GAINS if len(profiles) > 1 else ():
        right = total = 0
        for clip, sound, faulty in zip(test, played, labels, strict=True):
            own = group_of(clip.path)  # type: ignore[attr-defined]
            if faulty or own not in profiles:
                continue
            frames = logmel(sound * np.float32(10 ** (gain / 20)), settings, amplitude)  # type: ignore[arg-type]
            spectrum = clip_sound(frames, np.zeros(1), settings, amplitude).spectra.mean(axis=0)  # type: ignore[arg-type]
            car = [name for name in profiles if name.split()[0] == own.split()[0]]
            nearest = min(car, key=lambda name: profiles[name].compare(spectrum)[1])
            right, total = right + (nearest == own), total + 1
        rows.append([f"{gain:+g} dB", total, f"{100 * right / max(1, total):.0f} %"])
    return rows


if __name__ == "__main__":
    main()
