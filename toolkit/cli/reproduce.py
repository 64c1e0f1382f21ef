"""edgeasd reproduce."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import INTERRUPTED, print_error
from edgeasd.toolkit.cli._options import (
    AsJson,
    Cache,
    Channel,
    GroundTruth,
    IdAttribute,
    Root,
    Workspace,
    cache_folder,
    expand_options,
)
from edgeasd.toolkit.cli._output import print_table

if TYPE_CHECKING:
    from edgeasd.toolkit.reproduction.plan import What
    from edgeasd.toolkit.reproduction.request import Planned
    from edgeasd.toolkit.reproduction.runner import JobQueue
    from edgeasd.toolkit.reproduction.table import Cell


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """Which models an experiment is made of."""

    machine: Annotated[
        list[str] | None,
        typer.Option("--machine", help="Machine type, once for each; without it the six of the paper (DCASE 2020)."),
    ] = None
    id: Annotated[
        list[str] | None, typer.Option("--id", help="Machine ID, once for each; all that can be judged without it.")
    ] = None
    method: Annotated[
        list[str] | None, typer.Option("--method", help="bce, dsad, ddcsad, bce+dsad or bce+ddcsad; all five.")
    ] = None
    seeds: Annotated[str, typer.Option(help="How many seeds, or the seeds themselves: 3, or 0,4,7.")] = "1"
    preset: Annotated[str, typer.Option(help="paper (the published experiment) or quick (for CPUs).")] = "paper"
    backbone: Annotated[str | None, typer.Option(help="resnet38 or quick; the preset's by default.")] = None
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Iterations of a training; updates take half. The preset's by default.")
    ] = None
    counts: Annotated[
        str | None, typer.Option(help="fig2: numbers of known anomalies; 0,1,2,4,... up to --most by default.")
    ] = None
    most: Annotated[
        int | None, typer.Option(min=1, help="fig2: anomalies set apart for training; 64, or the largest count.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """What the models are made on."""

    jobs: Annotated[
        int | None, typer.Option(min=1, help="Models at the same time; one per GPU, or one on the CPU, by default.")
    ] = None
    accelerator: Annotated[str, typer.Option(help="Compute: auto, cpu, cuda or cuda:K.")] = "auto"
    ray: Annotated[
        str | None, typer.Option(help="Run the jobs on this Ray cluster: auto, or host:port as `ray start` prints it.")
    ] = None
    job_cpus: Annotated[float, typer.Option(min=0.01, help="With --ray: CPUs of a job.")] = 1.0
    job_gpus: Annotated[
        float | None, typer.Option(min=0.0, help="With --ray: GPUs of a job; 1 if the cluster has any.")
    ] = None


@expand_options
def reproduce(
    what: Annotated[str, typer.Argument(help="table2 or fig2.")],
    data: Root,
    experiment: ExperimentOptions,
    compute: ComputeOptions,
    ground_truth: GroundTruth = None,
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
    from edgeasd.toolkit.reproduction.request import Request, plan_request
    from edgeasd.toolkit.reproduction.runner import JobQueue

    asked = Request(
        what=_experiment(what, scale, experiment),
        root=data.absolute(),
        workspace=workspace.absolute(),
        cache=cache_folder(cache, workspace).absolute(),
        ground_truth=None if ground_truth is None else ground_truth.absolute(),
        machines=experiment.machine,
        ids=experiment.id,
        methods=experiment.method,
        seeds=experiment.seeds,
        preset=experiment.preset,
        backbone=experiment.backbone,
        iterations=experiment.iterations,
        counts=experiment.counts,
        most=experiment.most,
        id_attribute=id_attribute,
        channel=channel,
    )
    _check_output(output)
    planned = plan_request(asked, print_error)
    queue = JobQueue(planned.jobs, print_error)
    if queue.done:
        print_error(f"{len(queue.done)} of {queue.total} models are done already")
    stopped = False
    if queue.waiting:
        stopped = _run(queue, compute, asked.root, asked.workspace)
    _show(asked.what, planned, scale, output, as_json)
    if stopped:
        print_error(f"stopped with {len(queue.done)} of {queue.total} models done; go on with the same command")
        raise typer.Exit(INTERRUPTED)
    if queue.failed:
        raise CheckFailed(
            f"{len(queue.failed)} of {queue.total} models failed, see the lines above: {', '.join(queue.failed)}; "
            "the same command tries them again"
        )


def _experiment(what: str, scale: str, experiment: ExperimentOptions) -> What:
    """`what` as one of the experiments; InputError if it is none, or an option does not belong to it."""
    from edgeasd.toolkit.reproduction.plan import EXPERIMENTS

    named = next((one for one in EXPERIMENTS if one == what), None)
    if named is None:
        raise InputError(f"reproduce {what}: unknown; use one of {', '.join(EXPERIMENTS)}")
    if scale not in ("paper", "deploy"):
        raise InputError(f"--scale {scale}: unknown; use paper or deploy")
    if named == "table2" and (experiment.counts is not None or experiment.most is not None):
        raise InputError("--counts and --most: Table II has no known anomalies; use them with reproduce fig2")
    return named


def _check_output(output: Path | None) -> None:
    """Refuse, before hours of work, a folder that could not be written to; makes it if it is missing."""
    if output is None:
        return
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: is not a folder; name one, it is made if it is missing")
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK | os.X_OK):
        raise InputError(f"--output {output}: cannot be written to; name another folder or correct its permissions")


def _run(queue: JobQueue, compute: ComputeOptions, data: Path, workspace: Path) -> bool:
    """Make the models that wait; whether the user stopped it."""
    from edgeasd.toolkit.training.session import stop_requests

    print_error(f"{queue.waiting} models to make")
    if compute.ray is not None:
        from edgeasd.toolkit.reproduction.ray_runner import run_on_ray

        with stop_requests() as should_stop:
            run_on_ray(
                queue, compute.ray, data, workspace, compute.accelerator, compute.job_cpus, compute.job_gpus,
                compute.jobs, print_error, should_stop,
            )  # fmt: skip
            return should_stop()
    from edgeasd.toolkit.reproduction.runner import run_local, worker_accelerators

    accelerators = worker_accelerators(compute.accelerator, compute.jobs)
    print_error(f"{len(accelerators)} at a time on {', '.join(dict.fromkeys(accelerators))}")
    with stop_requests() as should_stop:
        run_local(queue, accelerators, workspace / "reproduce" / "logs", print_error, should_stop)
        return should_stop()


def _show(what: What, planned: Planned, scale: str, output: Path | None, as_json: bool) -> None:
    from edgeasd.toolkit.reproduction import table
    from edgeasd.toolkit.reproduction.table import summarise

    stored = {job.name: job.result() for job in planned.jobs}
    results = {name: result for name, result in stored.items() if result is not None}
    cells = summarise(planned.jobs, results, scale, planned.published)
    title = table.title_of(what, scale, planned.facts)
    whole = {**table.as_json(what, scale, cells), **planned.facts}
    if as_json:
        print(json.dumps(whole, indent=2))
    else:
        headings, rows = table.rows(cells)
        print(title)
        print_table(headings, rows, fold=headings[2:], indent=0)
        for remark in table.remarks(cells):
            print(remark)
    if output is not None:
        _write(what, title, cells, whole, output)


def _write(what: What, title: str, cells: list[Cell], whole: dict[str, Any], output: Path) -> None:
    from edgeasd.runtime.system.files import write_bytes, write_json
    from edgeasd.toolkit.reproduction import table
    from edgeasd.toolkit.reproduction.figure import figure_two

    stem = {"table2": "table2", "fig2": "figure2"}[what]
    write_json(output / f"{stem}.json", whole)
    write_bytes(output / f"{stem}.md", table.as_markdown(title, cells).encode())
    names = [f"{stem}.md", f"{stem}.json"]
    if what == "fig2":
        write_bytes(output / f"{stem}.svg", f"{figure_two(title, cells)}\n".encode())
        names.append(f"{stem}.svg")
    print_error(f"wrote {', '.join(names)} to {output}")
