"""The options of an experiment, checked and made into jobs before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.layouts import find_clips
from edgeasd.toolkit.losses import METHODS, method_named
from edgeasd.toolkit.presets import Preset, load_preset
from edgeasd.toolkit.progress import progress
from edgeasd.toolkit.reproduction.inventory import JudgeableMachine, check_most, find_machine
from edgeasd.toolkit.reproduction.paper import differs, is_dcase2020, paper_rows, require_all
from edgeasd.toolkit.reproduction.plan import DataSource, ModelJob, What, expand

MOST = 64
"""Known anomalies set apart in the paper (section IV-C)."""
_LARGEST_SEED = 2**31 - 1
PublishedFigures = Mapping[str, Mapping[str, tuple[float, float]]]
"""Machine type -> method -> (AUC, half-width), as shares of 1."""


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


@dataclass(frozen=True)
class Request:
    """The options of one command, as given; None is "not given". Paths are absolute: workers and nodes have
    working folders of their own."""

    what: What
    root: Path
    workspace: Path
    cache: Path
    ground_truth: Path | None
    machines: Sequence[str] | None
    ids: Sequence[str] | None
    methods: Sequence[str] | None
    seeds: str
    preset: str
    backbone: str | None
    iterations: int | None
    counts: str | None
    most: int | None
    id_attribute: str | None
    channel: int | None


@dataclass(frozen=True)
class Planned:
    """Every job of an experiment, and what its table says of them."""

    jobs: list[ModelJob]
    facts: dict[str, Any]
    """preset, backbone, iterations and seeds."""
    published: PublishedFigures
    """Of the machine types that are judged on the paper's own clips."""


def plan_request(asked: Request, print_line: Callable[[str], None]) -> Planned:
    """Jobs for `asked`; `print_line` takes what is left out and why. Raises InputError for all that cannot be done."""
    presets = presets_of(asked.preset, asked.methods, asked.backbone, asked.iterations)
    seeds = seeds_of(asked.seeds)
    counts, most = counts_of(asked.counts, asked.most) if asked.what == "fig2" else ([0], 0)
    clips = find_clips(asked.root, id_attribute=asked.id_attribute)
    if not asked.machines:
        require_all(asked.root, clips, asked.ground_truth)
    found, published = _find_machines(asked, clips, print_line)
    if most:
        with progress("counting anomalies") as report:
            check_most(found, most, report)
    machines = [(one.machine, one.ids, _source(asked, one)) for one in found]
    jobs = expand(asked.what, machines, presets, seeds, counts, most, asked.workspace)
    facts = {
        "preset": asked.preset,
        "backbone": presets[0].backbone,
        "iterations": presets[0].iterations,
        "seeds": seeds,
    }
    return Planned(jobs, facts, published)


def _find_machines(
    asked: Request, clips: Sequence[Clip], print_line: Callable[[str], None]
) -> tuple[list[JudgeableMachine], PublishedFigures]:
    """The machine types with the IDs that can be judged, and the paper's figures where they may stand beside ours."""
    found, published = [], {}
    for name in dict.fromkeys(asked.machines or paper_rows()):
        of_paper = is_dcase2020(clips, name)
        # Table II is on the evaluation IDs; figures of development IDs must not stand beside it.
        there = {clip.id for clip in clips if clip.machine == name}
        judged = [one for one in paper_rows()[name].evaluation_ids if one in there] if of_paper else []
        found.append(find_machine(clips, name, asked.ids or judged or None, asked.ground_truth))
        if not of_paper:
            continue
        unlike = ["other IDs were asked for"] if asked.ids else differs(clips, name, asked.ground_truth)
        if unlike:
            print_line(f"{name}: the paper's figures are not shown beside ours: {'; '.join(unlike)}")
        else:
            published[name] = paper_rows()[name].auc
    for one in found:
        for left, why in one.left_out.items():
            print_line(f"{one.machine} ID {left} is left out: {why}")
    return found, published


def _source(asked: Request, found: JudgeableMachine) -> DataSource:
    return DataSource(
        root=asked.root,
        cache=asked.cache,
        id_attribute=asked.id_attribute,
        channel=asked.channel,
        ground_truth=asked.ground_truth,
        listing=found.listing(asked.root),
    )
