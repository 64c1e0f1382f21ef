"""Which statistics of log-mel should vote, and with what weight: many votes on many machines, side by side.

    python benchmarks/bank_votes.py CACHE [--root dcase2023_toycar] [--slider FOLDER] [--share 0.13] [--gain 6]

Machines: the demo's valves, fans and pumps with faults of -12 dB, alone and beside other machines 0 to 9 dB below
them that are others in every clip (`loud`); with --root, ToyCar by the official protocol; with --slider, normal clips
of one machine of which 60 % are stored, against the rest and the rest with five made faults. `--share` stores a part of
the training clips only; `--gain` makes each test clip up to so many dB louder or quieter. Statistics are kept in
CACHE, so that an interrupted run goes on and a second one takes a minute. AUC in %, harmonic mean for ToyCar.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from common import machine, machine_line, parser, report, say, table

from edgeasd.calibration.fit.bank import BankPlan, bank_distances, fit_banks
from edgeasd.calibration.fit.stored_normals import section_starts
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel
from edgeasd.runtime.features.segments import SegmentSettings, clip_starts
from edgeasd.toolkit.demo.faults import FAULTS, Fault, rms, shoulder
from edgeasd.toolkit.demo.machines import compose
from edgeasd.toolkit.evaluation.dcase import domain_figures
from edgeasd.toolkit.evaluation.metrics import auc

FRAMES, BANDS, STORED, FAULT_DB = 256, 128, 3, -12.0
NORMALS, JUDGED = 120, 30
MEAN, SPREAD = (0, BANDS), (BANDS, 3 * BANDS)
PLANS = {
    "all": BankPlan("all", (0, 3 * BANDS), "whiten"),
    "all, level-free": BankPlan("all, level-free", (0, 3 * BANDS), "whiten", level=MEAN),
    "mean, level-free": BankPlan("mean, level-free", MEAN, "whiten", level=MEAN),
    "spread": BankPlan("spread", SPREAD),
    "spread, whitened": BankPlan("spread, whitened", SPREAD, "whiten"),
    "spread, standardised": BankPlan("spread, standardised", SPREAD, "standardise"),
    "tails": BankPlan("tails", (SPREAD[0], 5 * BANDS)),
}
"""Columns: mean, std, std of differences, 95th percentile and 5th, each less the median; all by band."""
VOTES: dict[str, dict[str, float]] = {
    **{name: {name: 1} for name in PLANS},
    "all + spread": {"all": 1, "spread": 1},
    "all + 2 spread": {"all": 1, "spread": 2},
    "all, level-free + spread": {"all, level-free": 1, "spread": 1},
    "all, level-free + 2 spread": {"all, level-free": 1, "spread": 2},
    "mean, level-free + spread": {"mean, level-free": 1, "spread": 1},
    "mean, level-free + 2 spread": {"mean, level-free": 1, "spread": 2},
    "mean, level-free + 3 spread": {"mean, level-free": 1, "spread": 3},
    "mean, level-free + spread + spread, whitened": {"mean, level-free": 1, "spread": 1, "spread, whitened": 1},
    "mean, level-free + 2 tails": {"mean, level-free": 1, "tails": 2},
}


def statistics(frames: np.ndarray) -> np.ndarray:
    """The columns of PLANS of one segment (frames, bands), float32."""
    x = frames.astype(np.float64)
    steps = np.diff(x, axis=0)
    low, middle, high = np.percentile(x, [5, 50, 95], axis=0)
    columns = [x.mean(axis=0), x.std(axis=0), steps.std(axis=0), high - middle, middle - low]
    return np.concatenate(columns).astype(np.float32)


def embedded(sound: np.ndarray, *, test: bool) -> np.ndarray:
    """(segments, columns) of a clip: three for a bank, by the clip rule to judge."""
    features = logmel(sound.astype(np.float32), FeatureSettings(), Amplitude())
    rule = SegmentSettings.for_clip_length(len(features), FRAMES)
    starts = clip_starts(len(features), rule) if test else section_starts(len(features), FRAMES, STORED)
    return np.stack([statistics(features[start : start + FRAMES]) for start in starts])


def made_machine(kind: str, id: str, *, loud: bool) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Clips of a synthetic machine: training, test, and "" or the fault of each test clip."""
    rng = np.random.default_rng([zlib.crc32(kind.encode()), int(id), loud])
    others = [(k, i) for k in FAULTS for i in ("00", "02", "04", "06") if (k, i) != (kind, id)]

    def sound(seed: int, fault: str = "") -> np.ndarray:
        clip = compose(kind, id, seconds=10.0, seed=seed, fault=Fault(fault, FAULT_DB) if fault else None)
        x = clip.machine + clip.background + clip.fault
        if loud:
            neighbour = compose(*others[rng.integers(len(others))], seconds=10.0, seed=seed + 999)
            y = neighbour.machine + neighbour.background
            x = x + y * (rms(x) / max(rms(y), 1e-9) * 10 ** (rng.uniform(-9, 0) / 20))
        return shoulder(0.5 * x)

    faults = [FAULTS[kind][i % 2] for i in range(JUDGED)]
    train = [embedded(sound(2 * i), test=False) for i in range(NORMALS)]
    test = [embedded(sound(10_000 + 2 * i), test=True) for i in range(JUDGED)]
    test += [embedded(sound(20_001 + 2 * i, fault), test=True) for i, fault in enumerate(faults)]
    return train, test, [""] * JUDGED + faults


def made_faults(sound: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A normal clip with five faults: clicks of a loose part, a band 6 dB off, a beat, another speed, a whistle."""
    size, level = len(sound), rms(sound)
    time = np.arange(size) / 16_000
    clicks = np.zeros(size)
    period = rng.uniform(0.2, 1.0)
    for begin in np.arange(rng.uniform(0, period), size / 16_000, period):
        tail = np.arange(min(800, size - int(begin * 16_000)))
        ring = np.sin(2 * np.pi * rng.uniform(800, 5000) * tail / 16_000)
        clicks[int(begin * 16_000) :][: len(tail)] += np.exp(-tail / rng.uniform(60, 200)) * ring
    spectrum, hz = np.fft.rfft(sound), np.fft.rfftfreq(size, 1 / 16_000)
    centre = np.exp(rng.uniform(np.log(300), np.log(6000)))
    bump = 6 * rng.choice([-1, 1]) * np.exp(-0.5 * (np.log(np.maximum(hz, 1) / centre) / 0.3) ** 2)
    speed = rng.choice([0.93, 1.07])
    return {
        "clicks": sound + 3 * level * clicks,
        "band": np.fft.irfft(spectrum * 10 ** (bump / 20), size),
        "beat": sound * (1 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 12) * time + rng.uniform(0, 6))),
        "speed": np.interp(np.arange(size) * speed % size, np.arange(size), sound),
        "whistle": sound + 0.3 * level * np.sin(2 * np.pi * rng.uniform(300, 4000) * time),
    }


def slider(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """As `made_machine`, of the clips in a folder."""
    rng = np.random.default_rng(5)
    sounds = [soundfile.read(path)[0] for path in sorted(folder.glob("*.flac"))]
    order = rng.permutation(len(sounds))
    stored, rest = order[: int(0.6 * len(sounds))], order[int(0.6 * len(sounds)) :]
    test, labels = [embedded(sounds[i], test=True) for i in rest], [""] * len(rest)
    for i in rest:
        for name, broken in made_faults(sounds[i], rng).items():
            test.append(embedded(broken, test=True))
            labels.append(name)
    return [embedded(sounds[i], test=False) for i in stored], test, labels


def toycar(root: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """As `made_machine`; labels are "source" or "target", with "!" after it for an anomaly."""
    train = [embedded(soundfile.read(path)[0], test=False) for path in sorted((root / "ToyCar/train").glob("*.flac"))]
    paths = sorted((root / "ToyCar/test").glob("*.flac"))
    labels = [f"{'target' if 'target' in p.name else 'source'}{'!' * ('anomaly' in p.name)}" for p in paths]
    return train, [embedded(soundfile.read(path)[0], test=True) for path in paths], labels


def stored(
    path: Path, make: Callable[[], tuple[list[np.ndarray], list[np.ndarray], list[str]]]
) -> dict[str, np.ndarray]:
    """The statistics of a machine, made once."""
    if not path.is_file():
        train, test, labels = make()
        parts = {"train": train, "test": test}
        arrays = {name: np.concatenate(clips) for name, clips in parts.items()}
        arrays |= {f"{name}_clips": np.repeat(np.arange(len(c)), [len(z) for z in c]) for name, c in parts.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, labels=np.array(labels), **arrays)
        say(f"{path.stem}: {len(train)} and {len(test)} clips")
    with np.load(path) as found:
        return dict(found)


def figures(data: dict[str, np.ndarray], share: float, gain_db: float) -> dict[str, float]:
    """Of each vote: AUC, or the official harmonic mean where there are domains; in %."""
    kept = data["train_clips"] < share * (data["train_clips"].max() + 1)
    z, clips = data["train"][kept], data["train_clips"][kept]
    rows, test = data["test_clips"], data["test"].copy()
    gains = np.random.default_rng(1).uniform(-gain_db, gain_db, rows.max() + 1) / 20.0
    test[:, :BANDS] += gains[rows][:, None].astype(np.float32)
    labels = [str(label) for label in data["labels"]]
    domains = [label.rstrip("!") for label in labels] if "source" in labels else []
    anomalous = np.array([label.endswith("!") if domains else bool(label) for label in labels])
    each = {}
    for name, plan in PLANS.items():
        banks, _ = fit_banks(z, clips, [replace(plan)])
        each[name] = (bank_distances(banks, test) - banks[0].mean) / banks[0].spread
    found = {}
    for name, weights in VOTES.items():
        d = sum(weight * each[one] for one, weight in weights.items())
        scores = np.bincount(rows, d) / np.bincount(rows)
        if domains:
            found[name] = 100 * domain_figures(scores, anomalous, domains)["harmonic_mean"]
        else:
            found[name] = 100 * auc(scores[~anomalous], scores[anomalous])
    return found


def main() -> None:
    made = parser(__doc__)
    made.add_argument("cache", type=Path)
    made.add_argument("--root", type=Path)
    made.add_argument("--slider", type=Path)
    made.add_argument("--share", type=float, default=1.0)
    made.add_argument("--gain", type=float, default=0.0)
    arguments = made.parse_args()
    sets: dict[str, Callable[[], tuple[list[np.ndarray], list[np.ndarray], list[str]]]] = {}
    for kind in ("valve", "fan", "pump"):
        for loud in (False, True):
            for id in ("00", "02"):
                name = f"{kind} {id}{', loud' if loud else ''}"
                sets[name] = lambda kind=kind, id=id, loud=loud: made_machine(kind, id, loud=loud)
    if arguments.slider:
        sets["slider"] = lambda: slider(arguments.slider)
    if arguments.root:
        sets["ToyCar"] = lambda: toycar(arguments.root)
    found = {
        name: figures(
            stored(arguments.cache / f"{name.replace(', ', '-').replace(' ', '')}.npz", make),
            arguments.share,
            arguments.gain,
        )
        for name, make in sets.items()
    }
    result = {"machine": machine(), "share": arguments.share, "gain_db": arguments.gain, "figures": found}
    text = machine_line(result["machine"]) + "\n\n" + table(["vote", *COLUMNS, *own(sets)], list(rows_of(found)))
    report(result, text, as_json=arguments.json)


COLUMNS = {
    "valves": ("valve 00", "valve 02"),
    "valves, loud": ("valve 00, loud", "valve 02, loud"),
    "fans": ("fan 00", "fan 02"),
    "fans, loud": ("fan 00, loud", "fan 02, loud"),
    "pumps": ("pump 00", "pump 02"),
    "pumps, loud": ("pump 00, loud", "pump 02, loud"),
}


def own(sets: dict[str, object]) -> list[str]:
    return [name for name in ("slider", "ToyCar") if name in sets]


def rows_of(found: dict[str, dict[str, float]]) -> Sequence[list[str]]:
    """A row for each vote; IDs of a kind averaged."""
    for vote in VOTES:
        means = [np.mean([found[name][vote] for name in names]) for names in COLUMNS.values()]
        yield [vote, *(f"{value:.1f}" for value in [*means, *(found[name][vote] for name in own(found))])]


if __name__ == "__main__":
    main()
