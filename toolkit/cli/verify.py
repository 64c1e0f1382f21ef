"""edgeasd verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeasd.toolkit.cli.options import Accelerator, AsJson, Engine, Threads


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder or zip.")],
    precision: Annotated[
        str | None, typer.Option(help="Only this precision of the bundle; all of them by default.")
    ] = None,
    engine: Engine = "auto",
    accelerator: Accelerator = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle: every hash, and its golden segments.

    Runs the golden segments at every precision the bundle offers, or at one, less those that a re-fit has marked
    to be calibrated again. Exit code 1 where they are not reproduced, 2 where a file is damaged, 3 where the
    engine is not available.

    Example: edgeasd verify bundles/valve-id_00
    """
    from dataclasses import asdict

    from edgeasd.runtime.bundle import Bundle
    from edgeasd.runtime.records import engine_facts, machine_facts

    with Bundle(bundle) as opened:
        manifest = opened.manifest
        opened.verify_files()
        results = []
        stale = {name: offer.stale for name, offer in manifest.precisions.items() if offer.stale}
        for chosen in manifest.precisions if precision is None else [precision]:
            if precision is None and chosen in stale and len(stale) < len(manifest.precisions):
                continue
            scorer, found = opened.open_scorer(
                precision=chosen, engine=engine, accelerator=accelerator, threads=threads
            )
            results.append({**engine_facts(scorer), "golden_deviation": asdict(found)})
            scorer.close()
    facts = {
        **machine_facts(manifest),
        "status": manifest.status,
        "files": len(manifest.files),
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "engines": results,
        "recalibrate": stale,
        "threshold": None if manifest.threshold is None else manifest.threshold.model_dump(mode="json"),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{bundle}: {manifest.machine.type} ID {manifest.machine.id}, {manifest.network.backbone}, {manifest.status}")
    print(f"  {facts['files']} files, {facts['bytes']} bytes, every hash as listed")
    for result in results:
        worst = ", ".join(f"{name} {value:.1e}" for name, value in result["golden_deviation"].items())
        print(f"  {result['precision']} on {result['engine']}: golden segments reproduced ({worst})")
    for precision, reason in stale.items():
        print(f"  {precision} is not in use until it is calibrated again: {reason}")
    if manifest.threshold is None:
        print("  uncalibrated: it scores and raises no alarms; export again with --clips")
    else:
        limit = manifest.threshold
        interval = limit.describe_interval()
        print(
            f"  threshold {limit.clip:.4f}{interval}, {limit.consecutive} in a row; {limit.found_by}, {limit.clips} clips"
        )
        if limit.promise is not None:
            print(f"    {limit.promise.describe()}")
