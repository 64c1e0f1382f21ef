"""edgeasd bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._errors import INTERRUPTED, print_error
from edgeasd.toolkit.cli._options import AsJson, FrontEndPlace, Threads
from edgeasd.toolkit.progress import ProgressCallback, progress

if TYPE_CHECKING:
    from edgeasd.runtime.bench.measure import BenchSettings
    from edgeasd.runtime.bench.runner import Row
    from edgeasd.runtime.bench.variants import Variant

_LARGEST_BATCH = 4096


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder or zip.")],
    precision: Annotated[
        str | None, typer.Option(help="Only these precisions of the bundle: fp32, or fp32,int8-cpu; all by default.")
    ] = None,
    engine: Annotated[str, typer.Option(help="onnxruntime or tensorrt; auto measures all that can run here.")] = "auto",
    accelerator: Annotated[
        str, typer.Option(help="Only this compute: cpu, cuda or cuda:K; auto measures all that is here.")
    ] = "auto",
    front_end: FrontEndPlace = "cpu",
    threads: Threads = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="How long to measure at each batch, and for streams and energy.")
    ] = 5.0,
    repeats: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Calls at each batch, in place of --seconds.")
    ] = None,
    batches: Annotated[str, typer.Option(help="Segments a call, with commas; 1 is always measured.")] = "1,4,16",
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on this machine: latency, throughput, streams, memory and energy.

    Every precision runs on every engine that is here, each in a process of its own, by turns with the bare
    engine. What cannot run is named with its reason. Ctrl-C prints what was measured until then.

    Example: edgeasd bench bundles/valve-id_00
    """
    from edgeasd.runtime.bench.measure import BenchSettings, busy, load, machine
    from edgeasd.runtime.bench.variants import find_variants
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.bundle.selection import check_front_end_offered
    from edgeasd.toolkit.cli.bench_table import print_bench

    settings = BenchSettings(_batches(batches), seconds, repeats, threads, front_end)
    with Bundle(bundle) as opened:
        manifest = opened.manifest
        check_front_end_offered(manifest, bundle, front_end)
        wanted = None if precision is None else list(dict.fromkeys(precision.split(",")))
        variants = find_variants(manifest, bundle, precisions=wanted, engine=engine, accelerator=accelerator)
    facts = machine()
    rows, stopped = _measure_all(bundle, variants, settings)
    facts |= {"load_at_end": load(), "busy": busy(facts)}
    if as_json:
        machine_facts = {"machine": manifest.machine.type, "id": manifest.machine.id}
        found = {**machine_facts, "backbone": manifest.network.backbone, "host": facts, "stopped": stopped}
        print(json.dumps({**found, "variants": [row.as_json() for row in rows]}, indent=2))
    else:
        print_bench(str(bundle), manifest, facts, rows)
    sys.stdout.flush()
    _end(rows, stopped)


def _batches(given: str) -> tuple[int, ...]:
    """Ascending, 1 among them; InputError for anything but numbers from 1."""
    found = {1}
    for word in given.split(","):
        if not word.strip().isdecimal() or not 1 <= int(word) <= _LARGEST_BATCH:
            raise InputError(f"--batches {given}: {word!r} is no number from 1 to {_LARGEST_BATCH}; write 1,4,16")
        found.add(int(word))
    return tuple(sorted(found))


def _measure_all(bundle: Path, variants: list[Variant], settings: BenchSettings) -> tuple[list[Row], bool]:
    """A row for each variant, and whether the user stopped it; then the rest has that as its reason."""
    from edgeasd.runtime.bench.runner import Row, run_variant

    rows: list[Row] = []
    try:
        with progress("measuring") as report:
            for index, variant in enumerate(variants):
                rows.append(run_variant(bundle, variant, settings, _part(report, index, len(variants), variant)))
    except KeyboardInterrupt:
        left = variants[len(rows) :]
        return [*rows, *(Row(variant, reason="stopped by Ctrl-C before it was measured") for variant in left)], True
    return rows, False


def _part(report: ProgressCallback, index: int, count: int, variant: Variant) -> Any:
    """The progress of one variant as a part of that of all."""

    def one(done: int, total: int, text: str) -> None:
        report(index * total + done, count * total, f"{variant.label}: {text}".removesuffix(": "))

    return one


def _end(rows: list[Row], stopped: bool) -> None:
    """Exit code 130 after Ctrl-C; that of the first failure where nothing at all was measured."""
    measured = sum(row.result is not None for row in rows)
    if stopped:
        print_error(
            f"stopped by Ctrl-C: {measured} of {len(rows)} variants were measured, shown above; the rest was not"
        )
        raise typer.Exit(INTERRUPTED)
    if measured == 0:
        worst = next((row for row in rows if row.exit_code), rows[0])
        print_error(f"nothing was measured: {worst.variant.label}: {worst.reason}")
        raise typer.Exit(worst.exit_code or InputError.exit_code)
