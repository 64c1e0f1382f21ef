"""AUC per domain and harmonic means, as Task 2 of the DCASE challenges computes them.

Let N_d be the normal clips of domain d (source or target) in one machine ID or section, A_d its anomalous
clips, N and A those of both domains together, and auc(N, A) the share of pairs in which the anomaly scores higher.

| years        | AUC of domain d  | pAUC (FPR up to 0.1)                |
|--------------|------------------|-------------------------------------|
| 2021         | auc(N_d, A_d)    | pauc(N_d, A_d), one for each domain |
| 2022 to 2026 | auc(N_d, A)      | pauc(N, A), one for both            |

In 2021 the domain of a test clip was told, so each domain was a test of its own. Since 2022 (domain
generalisation) it is not: one threshold must serve both, so the normals of one domain face every anomaly.
Sources: the baseline systems of 2021 and 2022 (their 01_test.py) and of 2023 to 2026; the task descriptions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.metrics import auc, partial_auc

Variant = Literal["2021", "2022-2026"]
VARIANTS: tuple[Variant, ...] = ("2021", "2022-2026")
DOMAINS = ("source", "target")


def variant_of(year: int) -> Variant:
    """The definition that held in a year's challenge; InputError for years without domains."""
    if not 2021 <= year <= 2026:
        raise InputError(f"year {year}: no per-domain AUC is defined; the challenges of 2021 to 2026 have domains")
    return "2021" if year == 2021 else "2022-2026"


def domain_figures(
    scores: ArrayLike, anomalous: ArrayLike, domains: Sequence[str | None], variant: Variant = "2022-2026"
) -> dict[str, float]:
    """AUC by domain and pAUC of one machine ID, after the table above.

    `scores` (clips,) finite, higher = more anomalous; `anomalous` (clips,) bool; `domains` one of "source",
    "target" or None a clip. Clips without a domain take part nowhere in 2021, and since 2022 in the pAUC, and as
    anomalies. What is undefined (a class without clips) is left out.

    Keys: auc_source, auc_target and, for 2021, pauc_source, pauc_target, else pauc; and
    harmonic_mean over those, where all are there. Raises InputError for an unknown variant or lengths that differ.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant {variant!r} of the domain AUC is unknown; pass one of: {', '.join(VARIANTS)}")
    values, labels, names = np.asarray(scores, np.float64), np.asarray(anomalous, bool), np.asarray(domains, object)
    if not values.shape == labels.shape == names.shape == (values.size,):
        raise InputError(
            f"{values.shape} scores, {labels.shape} labels and {names.shape} domains; give one of each for every clip"
        )
    found: dict[str, float] = {}
    for domain in DOMAINS:
        here = names == domain
        normals = values[here & ~labels]
        anomalies = values[labels & here] if variant == "2021" else values[labels]
        if normals.size and anomalies.size:
            found[f"auc_{domain}"] = auc(normals, anomalies)
            if variant == "2021":
                found[f"pauc_{domain}"] = partial_auc(normals, anomalies)
    if variant != "2021" and labels.any() and not labels.all():
        found["pauc"] = partial_auc(values[~labels], values[labels])
    if len(found) == (4 if variant == "2021" else 3):
        found["harmonic_mean"] = harmonic_mean(found.values())
    return found


def harmonic_mean(values: Iterable[float]) -> float:
    """n / Σ 1/v over figures in [0, 1]; the official score is this over all AUCs and pAUCs of all IDs.

    One 0 makes it 0 (the official scripts put the smallest float in its place, with the same result
    to 15 digits). Raises InputError for no values, and for one that is negative or not finite.
    """
    given = [float(value) for value in values]
    if not given:
        raise InputError("0 figures have no harmonic mean; give at least one")
    bad = [value for value in given if not math.isfinite(value) or value < 0]
    if bad:
        raise InputError(f"{bad[0]} among {len(given)} figures; a harmonic mean takes finite numbers of 0 or more")
    if min(given) == 0:
        return 0.0
    # Dividing by the smallest first keeps 1/v finite for denormal values.
    smallest = min(given)
    return len(given) * smallest / sum(smallest / value for value in given)
