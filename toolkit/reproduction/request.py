"""What a user asked of an experiment, made into jobs; all that can be refused is refused here, before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.layouts import find_clips
from edgeasd.toolkit.progress import progress
from edgeasd.toolkit.reproduction.choices import counts_of, presets_of, seeds_of
from edgeasd.toolkit.reproduction.dcase2020 import differs, is_dcase2020, require_all
from edgeasd.toolkit.reproduction.paper import paper_rows
from edgeasd.toolkit.reproduction.plan import DataSource, ModelJob, What, expand
from edgeasd.toolkit.reproduction.survey import MachineFound, check_most, find_machine

Say = Callable[[str], None]
PublishedFigures = Mapping[str, Mapping[str, tuple[float, float]]]
"""Machine type -> method -> (AUC, half-width), as shares of 1."""


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


def plan_request(asked: Request, say: Say) -> Planned:
    """Jobs for `asked`; `say` is told what is left out and why. Raises InputError for all that cannot be done."""
    presets = presets_of(asked.preset, asked.methods, asked.backbone, asked.iterations)
    seeds = seeds_of(asked.seeds)
    counts, most = counts_of(asked.counts, asked.most) if asked.what == "fig2" else ([0], 0)
    clips = find_clips(asked.root, id_attribute=asked.id_attribute)
    if not asked.machines:
        require_all(asked.root, clips, asked.ground_truth)
    found, published = _survey(asked, clips, say)
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


def _survey(asked: Request, clips: Sequence[Clip], say: Say) -> tuple[list[MachineFound], PublishedFigures]:
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
            say(f"{name}: the paper's figures are not shown beside ours: {'; '.join(unlike)}")
        else:
            published[name] = paper_rows()[name].auc
    for one in found:
        for left, why in one.left_out.items():
            say(f"{one.machine} ID {left} is left out: {why}")
    return found, published


def _source(asked: Request, found: MachineFound) -> DataSource:
    return DataSource(
        root=asked.root,
        cache=asked.cache,
        id_attribute=asked.id_attribute,
        channel=asked.channel,
        ground_truth=asked.ground_truth,
        listing=found.listing(asked.root),
    )
