"""edgeasd reproduce."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli.guard import INTERRUPTED, complain
from edgeasd.toolkit.cli.options import AsJson, Cache, Channel, IdAttribute, Root, Workspace, cache_folder

if TYPE_CHECKING:
    from edgeasd.toolkit.reproduction.board import Board
    from edgeasd.toolkit.reproduction.plan import ModelJob


@dataclass(frozen=True)
class Cluster:
    """Where --ray points, what its nodes must see, and what a job takes of it."""

    address: str
    data: Path
    job_cpus: float
    job_gpus: float | None


def reproduce(
    what: Annotated[str, typer.Argument(help="table2 or fig2.")],
    data: Root,
    machine: Annotated[
        list[str] | None,
        typer.Option("--machine", help="Machine type, once for each; without it the six of the paper (DCASE 2020)."),
    ] = None,
    id: Annotated[
        list[str] | None, typer.Option("--id", help="Machine ID, once for each; all that can be judged without it.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="bce, dsad, ddcsad, bce+dsad or bce+ddcsad; all five.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds, or the seeds themselves: 3, or 0,4,7.")] = "1",
    preset: Annotated[str, typer.Option(help="paper (the published experiment) or quick (for CPUs).")] = "paper",
    backbone: Annotated[str | None, typer.Option(help="resnet38 or quick; the preset's by default.")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Iterations of a training; updates take half. The preset's by default.")
    ] = None,
    counts: Annotated[
        str | None, typer.Option(help="fig2: numbers of known anomalies; 0,1,2,4,... up to --most by default.")
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="fig2: anomalies set apart for training; 64, or the largest count.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Models at the same time; one per GPU, or one on the CPU, by default.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="Compute: auto, cpu, cuda or cuda:K.")] = "auto",
    ray: Annotated[
        str | None, typer.Option(help="Run the jobs on this Ray cluster: auto, or host:port as `ray start` prints it.")
    ] = None,
    job_cpus: Annotated[float, typer.Option(min=0.01, help="With --ray: CPUs of a job.")] = 1.0,
    job_gpus: Annotated[
        float | None, typer.Option(min=0.0, help="With --ray: GPUs of a job; 1 where the cluster has any.")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Folder with published labels of unlabelled test clips (DCASE), as CSV.")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Range of d′: paper (that of the test clips) or deploy (frozen before them).")
    ] = "paper",
    output: Annotated[Path | None, typer.Option(help="Folder for the table or figure as files.")] = None,
    workspace: Workspace = Path(),
    id_attribute: IdAttribute = None,
    channel: Channel = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Run the paper's experiments: methods x machine IDs x seeds, and for Figure 2 x known anomalies.

    Every model is a job with a folder of its own in reproduce/. The same command again skips what is done and
    goes on with what was begun.

    Example: edgeasd reproduce table2 --data dcase2020/ --ground-truth labels/
    """
    from edgeasd.toolkit.reproduction.board import Board

    _check_choices(what, scale, counts, most, output)
    planned, facts = _plan(
        what, data, machine, id, method, seeds, preset, backbone, iterations, counts, most, ground_truth, workspace,
        id_attribute, channel, cache,
    )  # fmt: skip
    board = Board(planned, complain)
    if board.done:
        complain(f"{len(board.done)} of {len(planned)} models are done already")
    stopped = False
    if board.waiting:
        cluster = None if ray is None else Cluster(ray, data.absolute(), job_cpus, job_gpus)
        stopped = _run(board, accelerator, jobs, workspace.absolute(), cluster)
    _show(what, planned, facts, scale, output, as_json)
    if stopped:
        complain(f"stopped with {len(board.done)} of {len(planned)} models done; go on with the same command")
        raise typer.Exit(INTERRUPTED)
    if board.failed:
        raise CheckFailed(
            f"{len(board.failed)} of {len(planned)} models failed, see the lines above: {', '.join(board.failed)}; "
            "the same command tries them again"
        )


def _check_choices(what: str, scale: str, counts: str | None, most: int | None, output: Path | None) -> None:
    from edgeasd.toolkit.reproduction.plan import EXPERIMENTS

    if what not in EXPERIMENTS:
        raise InputError(f"reproduce {what}: unknown; use one of {', '.join(EXPERIMENTS)}")
    if scale not in ("paper", "deploy"):
        raise InputError(f"--scale {scale}: unknown; use paper or deploy")
    if what == "table2" and (counts is not None or most is not None):
        raise InputError("--counts and --most: Table II has no known anomalies; use them with reproduce fig2")
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is not a folder; name one, it is made where it is missing")


def _plan(
    what: Any,
    root: Path,
    machines: list[str] | None,
    ids: list[str] | None,
    methods: list[str] | None,
    seeds: str,
    preset: str,
    backbone: str | None,
    iterations: int | None,
    counts: str | None,
    most: int | None,
    ground_truth: Path | None,
    workspace: Path,
    id_attribute: str | None,
    channel: int | None,
    cache: Path | None,
) -> tuple[list[ModelJob], dict[str, Any]]:
    """Every job, and what the table says of them; all that can be refused is refused here."""
    from edgeasd.toolkit.data.layouts import find_clips
    from edgeasd.toolkit.progress import progress
    from edgeasd.toolkit.reproduction.choices import counts_of, presets_of, seeds_of
    from edgeasd.toolkit.reproduction.dcase2020 import differs, is_dcase2020, require_all
    from edgeasd.toolkit.reproduction.paper import paper_rows
    from edgeasd.toolkit.reproduction.plan import DataSource, expand
    from edgeasd.toolkit.reproduction.survey import check_most, find_machine

    chosen, of_seeds = presets_of(preset, methods, backbone, iterations), seeds_of(seeds)
    numbers, apart = counts_of(counts, most) if what == "fig2" else ([0], 0)
    # Absolute: workers and other nodes have working folders of their own.
    root, workspace = root.absolute(), workspace.absolute()
    labels = None if ground_truth is None else ground_truth.absolute()
    clips = find_clips(root, id_attribute=id_attribute)
    if not machines:
        require_all(root, clips, labels)
    wanted = list(dict.fromkeys(machines)) if machines else list(paper_rows())
    published = {}
    found = []
    for name in wanted:
        of_paper = is_dcase2020(clips, name)
        # Table II is on the evaluation IDs; figures of development IDs must not stand beside it.
        there = {clip.id for clip in clips if clip.machine == name}
        judged = [one for one in paper_rows()[name].evaluation_ids if one in there] if of_paper else []
        found.append(find_machine(clips, name, ids or judged or None, labels))
        if of_paper and (unlike := ["other IDs were asked for"] if ids else differs(clips, name, labels)):
            complain(f"{name}: the paper's figures are not shown beside ours: {'; '.join(unlike)}")
        elif of_paper:
            published[name] = paper_rows()[name].auc
    for one in found:
        for left, why in one.left_out.items():
            complain(f"{one.machine} ID {left} is left out: {why}")
    if apart:
        with progress("counting anomalies") as report:
            check_most(found, apart, report)
    features = cache_folder(cache, workspace).absolute()
    sources = []
    for one in found:
        source = DataSource(
            root=root,
            cache=features,
            id_attribute=id_attribute,
            channel=channel,
            ground_truth=labels,
            listing=one.listing(root),
        )
        sources.append((one.machine, one.ids, source))
    facts = {
        "preset": preset,
        "backbone": chosen[0].backbone,
        "iterations": chosen[0].iterations,
        "seeds": of_seeds,
        "published": published,
    }
    return expand(what, sources, chosen, of_seeds, numbers, apart, workspace), facts


def _run(board: Board, accelerator: str, jobs: int | None, workspace: Path, cluster: Cluster | None) -> bool:
    """Do what waits; whether the user stopped it."""
    from edgeasd.toolkit.training.stop import stop_requests

    complain(f"{board.waiting} models to make")
    if cluster is not None:
        from edgeasd.toolkit.reproduction.ray_backend import run_on_ray

        with stop_requests() as should_stop:
            run_on_ray(
                board, cluster.address, cluster.data, workspace, accelerator, cluster.job_cpus, cluster.job_gpus, jobs,
                complain, should_stop,
            )  # fmt: skip
            return should_stop()
    from edgeasd.toolkit.reproduction.local import run_local, slots

    accelerators = slots(accelerator, jobs)
    complain(f"{len(accelerators)} at a time on {', '.join(dict.fromkeys(accelerators))}")
    with stop_requests() as should_stop:
        run_local(board, accelerators, workspace / "reproduce" / "logs", complain, should_stop)
        return should_stop()


def _show(
    what: Any, jobs: list[ModelJob], facts: dict[str, Any], scale: str, output: Path | None, as_json: bool
) -> None:
    from edgeasd.runtime.atomic import write_bytes, write_json
    from edgeasd.toolkit.reproduction import table
    from edgeasd.toolkit.reproduction.figure import figure_two
    from edgeasd.toolkit.reproduction.summary import summarise

    stored = {job.name: job.result() for job in jobs}
    results = {name: result for name, result in stored.items() if result is not None}
    cells = summarise(jobs, results, scale, facts["published"])
    title = table.title_of(what, scale, facts)
    whole = {**table.as_json(what, scale, cells), **{name: facts[name] for name in facts if name != "published"}}
    print(json.dumps(whole, indent=2) if as_json else table.as_text(title, cells))
    if output is not None:
        stem = {"table2": "table2", "fig2": "figure2"}[what]
        write_json(output / f"{stem}.json", whole)
        write_bytes(output / f"{stem}.md", table.as_markdown(title, cells).encode())
        names = [f"{stem}.md", f"{stem}.json"]
        if what == "fig2":
            write_bytes(output / f"{stem}.svg", f"{figure_two(title, cells)}\n".encode())
            names.append(f"{stem}.svg")
        complain(f"wrote {', '.join(names)} to {output}")
