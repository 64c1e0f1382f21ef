"""What `edgeasd bench` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeasd.runtime.bench.energy import NOT_REPORTED
from edgeasd.runtime.bench.measure import busy, machine_line
from edgeasd.runtime.bench.runner import Row
from edgeasd.runtime.bundle.manifest import Manifest

_SUMMARY = (
    "precision",
    "engine",
    "median ms",
    "p95 ms",
    "p99 ms",
    "over bare",
    "× real time",
    "streams",
    "MiB loaded",
    "peak",
)
_BATCHES = ("precision", "engine", "batch", "median ms", "segments/s", "over bare", "80 % of rounds", "calls")


def print_bench(title: str, manifest: Manifest, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """The machine, two tables of what was measured, energy, notes, and a line for all that was not."""
    network = manifest.network
    hop = manifest.segments.hop * manifest.features.hop_length / manifest.features.sample_rate
    billions = network.macs_per_segment / 1e9
    macs = f"{billions:.3g} GMAC a segment" if billions >= 1 else f"{1e3 * billions:.3g} MMAC a segment"
    print(f"{title}: {manifest.machine.type} ID {manifest.machine.id}, {network.backbone}, {macs}, hop {hop:.3f} s")
    print(f"  {machine_line(facts)}")
    if busy(facts):
        print("  the machine was busy with other work: times are longer than its own, and ratios are what holds")
    measured = [row for row in rows if row.result is not None]
    if measured:
        _print_table("One segment a call, streams and memory", _SUMMARY, [_summary(row) for row in measured])
        _print_table("By batch", _BATCHES, [line for row in measured for line in _batches(row)])
        _print_streams(measured)
        _print_energy(measured)
    _print_notes(rows)


def _summary(row: Row) -> list[str]:
    assert row.result is not None
    first, streams, memory = row.result["batches"][0], row.result["streams"], row.result["memory_mib"]
    return [
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


def _batches(row: Row) -> list[list[str]]:
    assert row.result is not None
    return [
        [
            row.variant.precision,
            _engine(row),
            str(found["batch"]),
            f"{found['median_ms']:.2f}",
            f"{found['segments_per_second']:.4g}",
            f"{found['over_bare']['median']:.2f}",
            f"{found['over_bare']['low']:.2f} to {found['over_bare']['high']:.2f}",
            str(found["calls"]),
        ]
        for found in row.result["batches"]
    ]


def _print_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    print(f"\n{title}")
    for line in [header, *lines]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_streams(measured: Sequence[Row]) -> None:
    print()
    for row in measured:
        assert row.result is not None
        found = row.result["streams"]
        heard = "log-mel" if row.result["front_end"] == "cpu" else "keeping samples"
        cost = f"{heard} {found['logmel_ms']:.3g} ms + scoring {found['scoring_ms']:.3g} ms a segment"
        rate = (
            f"at batch {found['batch']}, every {1e3 * found['hop_seconds']:.0f} ms; CPU time {found['cpu_ms']:.3g} ms"
        )
        print(f"  streams, {_label(row)}: {cost} {rate}")


def _print_energy(measured: Sequence[Row]) -> None:
    if all(row.result is not None and row.result["energy"] is None for row in measured):
        print(f"  energy: {NOT_REPORTED}")
        return
    for row in measured:
        assert row.result is not None
        found = row.result["energy"]
        if found is None:
            print(f"  energy, {_label(row)}: {NOT_REPORTED}")
            continue
        drawn = f"{found['watts']:.3g} W at work, {found['idle_watts']:.3g} W idle"
        print(
            f"  energy, {_label(row)}: {found['joules_per_segment']:.3g} J a segment at batch {found['batch']}, "
            f"{drawn}; {found['source']}"
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
    """As the engine states itself, with the accelerator where the name does not say it."""
    assert row.result is not None
    name = str(row.result["engine_in_use"])
    return name.replace("ExecutionProvider", "")


def _label(row: Row) -> str:
    return f"{row.variant.precision} on {row.variant.engine} {row.variant.accelerator}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
