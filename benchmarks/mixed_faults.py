"""Votes of banks on a folder of normal clips with faults mixed in: AUC in % of clips with a fault against held-out ones.

    python benchmarks/mixed_faults.py FOLDER

Of the clips, shuffled by seed 0, six tenths are stored and the rest judged, plain, with each fault of `edgeasd accept`
and with white noise at some levels against the clip, and at another gain. No label of a real fault is looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from edgeasd.calibration.fit.bank import BankPlan, bank_distances, fit_banks
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel
from edgeasd.toolkit.acceptance.faults import demo_faults, mix
from edgeasd.toolkit.models.logmel_stats import LogMelStats

FRAMES, BANDS, RATE = 256, 128, 16_000
MEAN, SPREAD, ALL = (0, BANDS), (BANDS, 3 * BANDS), (0, 3 * BANDS)
WHITE, FREE = BankPlan("mean, whitened", MEAN, "whiten"), BankPlan("level-free", MEAN, "whiten", level=MEAN)
RAW, BOTH = BankPlan("mean", MEAN), BankPlan("all, whitened", ALL, "whiten")
SPREAD_1, SPREAD_2 = BankPlan("spread", SPREAD), BankPlan("spread", SPREAD, weight=2.0)
VOTES = {
    "shipped": LogMelStats(BANDS).bank_plans(),
    "mean, level-free + 2 spread": (FREE, SPREAD_2),
    "mean, whitened + 2 spread": (WHITE, SPREAD_2),
    "mean, whitened + mean + spread": (WHITE, RAW, SPREAD_1),
    "mean, level-free + mean + 2 spread": (FREE, RAW, SPREAD_2),
    "mean + 2 spread": (RAW, SPREAD_2),
    "mean + spread": (RAW, SPREAD_1),
    "all, whitened + spread": (BOTH, SPREAD_1),
    "all, whitened + mean + 2 spread": (BOTH, RAW, SPREAD_2),
    "spread": (SPREAD_1,),
}
Array = np.ndarray


def clips_of(folder: Path) -> list[Array]:
    """The sounds (n,) float32 of all FLAC and WAV files of a folder, which must be at 16 kHz."""
    sounds = []
    for path in sorted([*folder.rglob("*.flac"), *folder.rglob("*.wav")]):
        sound, rate = soundfile.read(path, dtype="float32")
        if rate != RATE or sound.ndim != 1:
            raise InputError(f"{path}: {rate} Hz, {sound.ndim} dimensions; give mono clips at {RATE} Hz")
        sounds.append(sound)
    if len(sounds) < 20:
        raise InputError(f"{folder}: {len(sounds)} clips; give 20 or more")
    return sounds


def changes() -> dict[str, Callable[[int, Array], Array]]:
    """What is done to the clips that are judged: name to (number of the clip, sound) -> sound."""
    found: dict[str, Callable[[int, Array], Array]] = {}
    for kind in demo_faults(["leak", "bearing", "cavitation", "imbalance"], RATE):
        for db in (0, -6):

            def fault(index: int, sound: Array, kind: object = kind, db: int = db) -> Array:
                made = kind.make(np.random.default_rng((index, -db)), sound)  # type: ignore[attr-defined]
                return mix(sound, made, float(db), 0, RATE)

            found[f"{kind.name} {db}"] = fault
    for db in (0, -6):

        def noise(index: int, sound: Array, db: int = db) -> Array:
            white = np.random.default_rng(index).normal(size=len(sound))
            return (sound + white * np.sqrt(np.mean(sound**2)) * 10 ** (db / 20)).astype(np.float32)

        found[f"white {db}"] = noise
    for db in (3, -3, 6):
        found[f"gain {db}"] = lambda _, sound, db=db: (sound * 10 ** (db / 20)).astype(np.float32)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="normal clips of one machine")
    sounds = clips_of(parser.parse_args().folder)
    order = np.random.default_rng(0).permutation(len(sounds))
    stored, judged = np.split(order, [round(0.6 * len(sounds))])
    amplitude = Amplitude(mean=float(np.mean([x.mean() for x in sounds])), std=float(np.std(np.concatenate(sounds))))
    encoder = LogMelStats(BANDS)

    def embed(sound: Array) -> Array:
        frames = logmel(sound, FeatureSettings(), amplitude)
        last = len(frames) - FRAMES
        segments = np.stack([frames[start : start + FRAMES] for start in (0, last // 2, last)])[:, None]
        with torch.inference_mode():
            return encoder(torch.from_numpy(segments)).numpy()

    normals = np.concatenate([embed(sounds[i]) for i in stored])
    clips = np.repeat(np.arange(len(stored)), 3)
    plain = [embed(sounds[i]) for i in judged]
    changed = {name: [embed(make(n, sounds[i])) for n, i in enumerate(judged)] for name, make in changes().items()}
    print(f"{len(stored)} clips stored, {len(judged)} judged; AUC in %")
    print(f"| vote | {' | '.join(changed)} |\n|---|{'---|' * len(changed)}")
    for name, plans in VOTES.items():
        banks, _ = fit_banks(normals, clips, plans)
        scores = np.array([bank_distances(banks, z).mean() for z in plain])
        row = []
        for faulty in changed.values():
            found = np.array([bank_distances(banks, z).mean() for z in faulty])
            wins = (found[:, None] > scores).mean() + 0.5 * (found[:, None] == scores).mean()
            row.append(f"{100 * wins:.1f}")
        print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
