"""edgeasd bench."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli._errors import INTERRUPTED, print_error
from edgeasd.toolkit.cli._options import AsJson, FrontEndPlace, Threads
from edgeasd.toolkit.cli._output import print_table
from edgeasd.toolkit.progress import ProgressCallback, progress

if TYPE_CHECKING:
    from edgeasd.runtime.bench.measure import BenchSettings
    from edgeasd.runtime.bench.runner import Row
    from edgeasd.runtime.bench.variants import Variant
    from edgeasd.runtime.bundle.manifest import Manifest

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

    Every precision runs on every engine of this machine, each in a process of its own, by turns with the bare
    engine. What cannot run is named with its reason. Ctrl-C prints what was measured so far.

    Example: edgeasd bench bundles/valve-id_00
    """
    from edgeasd.runtime.bench.measure import BenchSettings, device_info, is_busy, load
    from edgeasd.runtime.bench.variants import find_variants
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.bundle.selection import check_front_end_offered

    settings = BenchSettings(_batches(batches), seconds, repeats, threads, front_end)
    with Bundle(bundle) as opened:
        manifest = opened.manifest
        check_front_end_offered(manifest, bundle, front_end)
        wanted = None if precision is None else list(dict.fromkeys(precision.split(",")))
        variants = find_variants(manifest, bundle, precisions=wanted, engine=engine, accelerator=accelerator)
    facts = device_info()
    rows, stopped = _measure_all(bundle, variants, settings)
    facts |= {"load_at_end": load(), "busy": is_busy(facts)}
    if as_json:
        machine_facts = {"machine": manifest.machine.type, "id": manifest.machine.id}
        found = {**machine_facts, "backbone": manifest.network.backbone, "host": facts, "stopped": stopped}
        print(json.dumps({**found, "variants": [row.as_json() for row in rows]}, indent=2))
    else:
        print_bench(str(bundle), manifest, facts, rows)
    sys.stdout.flush()
    _end(rows, stopped)


def _batches(text: str) -> tuple[int, ...]:
    """Ascending, 1 among them; InputError for anything but numbers from 1."""
    sizes = {1}
    for word in text.split(","):
        if not word.strip().isdecimal() or not 1 <= int(word) <= _LARGEST_BATCH:
            raise InputError(f"--batches {text}: {word!r} is no number from 1 to {_LARGEST_BATCH}; write 1,4,16")
        sizes.add(int(word))
    return tuple(sorted(sizes))


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
    """Exit code 130 after Ctrl-C; that of the first failure if nothing was measured."""
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


def print_bench(title: str, manifest: Manifest, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """The machine, two tables of what was measured, energy, notes, and a line for what was not measured."""
    from edgeasd.runtime.bench.measure import device_line, is_busy

    network = manifest.network
    hop = manifest.segments.hop * manifest.features.hop_length / manifest.features.sample_rate
    billions = network.macs_per_segment / 1e9
    macs = f"{billions:.3g} GMAC a segment" if billions >= 1 else f"{1e3 * billions:.3g} MMAC a segment"
    print(f"{title}: {manifest.machine.type} ID {manifest.machine.id}, {network.backbone}, {macs}, hop {hop:.3f} s")
    print(f"  {device_line(facts)}")
    if is_busy(facts):
        print("  the machine was busy with other work: times are too long; compare ratios only")
    measured = [row for row in rows if row.result is not None]
    if measured:
        _print_summary(measured)
        _print_batches(measured)
        print()
        _print_streams(measured)
        _print_energy(measured)
    _print_notes(rows)


def _print_summary(measured: Sequence[Row]) -> None:
    lines = []
    for row in measured:
        assert row.result is not None
        first, streams, memory = row.result["batches"][0], row.result["streams"], row.result["memory_mib"]
        lines.append(
            [
                row.variant.precision,
                _engine(row),
                f"{first['median_ms']:.2f}",
                _number(first["p95_ms"]),
                _number(first["p99_ms"]),
                f"{first['over_bare']['median']:.2f}",
                f"{streams['real_time_factor']:.3g}",
                str(streams["sustained"]),
                f"{memory['loaded']:.0f}",
                f"{memory['peak']:.0f}",
            ]
        )
    numbers = ("median ms", "p95 ms", "p99 ms", "over bare", "× real time", "streams", "MiB loaded", "peak")
    print()
    print_table(
        ("precision", "engine", *numbers),
        lines,
        title="One segment a call, streams and memory",
        right=numbers,
        fold=("engine", *numbers),
    )


def _print_batches(measured: Sequence[Row]) -> None:
    lines = []
    for row in measured:
        assert row.result is not None
        for batch in row.result["batches"]:
            ratio = batch["over_bare"]
            lines.append(
                [
                    row.variant.precision,
                    _engine(row),
                    str(batch["batch"]),
                    f"{batch['median_ms']:.2f}",
                    f"{batch['segments_per_second']:.4g}",
                    f"{ratio['median']:.2f}",
                    f"{ratio['low']:.2f} to {ratio['high']:.2f}",
                    str(batch["calls"]),
                ]
            )
    numbers = ("batch", "median ms", "segments/s", "over bare", "80 % of rounds", "calls")
    print()
    print_table(
        ("precision", "engine", *numbers), lines, title="By batch", right=numbers, fold=("engine", "80 % of rounds")
    )


def _print_streams(measured: Sequence[Row]) -> None:
    for row in measured:
        assert row.result is not None
        streams = row.result["streams"]
        input_cost = "log-mel" if row.result["front_end"] == "cpu" else "keeping samples"
        cost = f"{input_cost} {streams['logmel_ms']:.3g} ms + scoring {streams['scoring_ms']:.3g} ms a segment"
        hop = f"every {1e3 * streams['hop_seconds']:.0f} ms; CPU time {streams['cpu_ms']:.3g} ms"
        print(f"  streams, {_label(row)}: {cost} at batch {streams['batch']}, {hop}")


def _print_energy(measured: Sequence[Row]) -> None:
    from edgeasd.runtime.bench.energy import NOT_REPORTED

    if all(row.result is not None and row.result["energy"] is None for row in measured):
        print(f"  energy: {NOT_REPORTED}")
        return
    for row in measured:
        assert row.result is not None
        energy = row.result["energy"]
        if energy is None:
            print(f"  energy, {_label(row)}: {NOT_REPORTED}")
            continue
        drawn = f"{energy['watts']:.3g} W at work, {energy['idle_watts']:.3g} W idle"
        print(
            f"  energy, {_label(row)}: {energy['joules_per_segment']:.3g} J a segment at batch {energy['batch']}, "
            f"{drawn}; {energy['source']}"
        )


def _print_notes(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.reason is not None:
            print(f"  not measured, {row.variant.label}: {row.reason}")
            continue
        assert row.result is not None
        if row.variant.note:
            print(f"  note, {_label(row)}: {row.variant.note}")
        if beyond := row.result["batches_beyond_engine"]:
            batches = ", ".join(map(str, beyond))
            print(f"  note, {_label(row)}: takes no batch of {batches}; the engine was made for smaller ones")


def _engine(row: Row) -> str:
    """As the engine states itself, with the accelerator if the name does not say it."""
    assert row.result is not None
    return str(row.result["engine_in_use"]).replace("ExecutionProvider", "")


def _label(row: Row) -> str:
    return f"{row.variant.precision} on {row.variant.engine} {row.variant.accelerator}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
