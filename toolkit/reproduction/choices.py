"""What a user may ask of an experiment: methods, seeds and counts of known anomalies, checked."""

from __future__ import annotations

from collections.abc import Sequence

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.losses import METHODS, method_named
from edgeasd.toolkit.presets import Preset, load_preset

MOST = 64
"""Known anomalies set apart in the paper (section IV-C)."""
_LARGEST_SEED = 2**31 - 1


def seeds_of(text: str) -> list[int]:
    """`3` is the seeds 0, 1, 2; `0,4,7` and `4,` are those named. Raises InputError."""
    numbers = _numbers(text, "--seeds", "a number of seeds like 3, or the seeds themselves like 0,4,7")
    if "," not in text:
        if not 1 <= numbers[0] <= 1000:
            raise InputError(f"--seeds {text}: not a number of seeds; give 1 to 1000, or one seed as `{text},`")
        return list(range(numbers[0]))
    if max(numbers) > _LARGEST_SEED:
        raise InputError(f"--seeds {text}: a seed is at most {_LARGEST_SEED}")
    return numbers


def counts_of(text: str | None, most: int | None) -> tuple[list[int], int]:
    """(numbers of known anomalies with 0 in front, how many are set apart for all of them).

    By default 0, 1, 2, 4 and so on up to `most`, 64 as in the paper. Raises InputError.
    """
    if text is None:
        limit = MOST if most is None else most
        counts = [0]
        while (following := max(1, 2 * counts[-1])) <= limit:
            counts.append(following)
        return counts, limit
    counts = sorted({0, *_numbers(text, "--counts", "numbers of known anomalies like 0,1,2,4")})
    limit = counts[-1] if most is None else most
    if counts[-1] > limit:
        raise InputError(f"--counts {text}: {counts[-1]} is more than the {limit} of --most; raise it or leave it out")
    if limit < 1:
        raise InputError(f"--counts {text}: 0 alone is Table II; add a number of known anomalies, like 0,1,2,4")
    return counts, limit


def presets_of(
    preset: str, methods: Sequence[str] | None, backbone: str | None, iterations: int | None
) -> list[Preset]:
    """One preset for each method, in the order of the paper's table.

    `iterations` stands for those of a training, and half of them for those of an update, as 4,000 and 2,000
    in the paper. Raises InputError.
    """
    wanted = {method_named(name).name for name in methods or METHODS}
    base = load_preset(preset).changed(backbone=backbone, iterations=iterations)
    if iterations is not None:
        base = base.changed(finetune={**base.finetune.model_dump(), "iterations": max(1, iterations // 2)})
    return [base.changed(method=name) for name in METHODS if name in wanted]


def _numbers(text: str, option: str, form: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
        raise InputError(f"{option} {text}: expected {form}")
    return list(dict.fromkeys(int(word) for word in words))
