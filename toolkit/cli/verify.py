"""edgeasd verify."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.toolkit.cli._options import AsJson, EngineOptions, expand_options

if TYPE_CHECKING:
    from edgeasd.runtime.bundle.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(EngineOptions):
    """What is checked."""

    precision: Annotated[
        str | None, typer.Option(help="Only this precision of the bundle; all of them by default.")
    ] = None
    engine: Annotated[
        str,
        typer.Option(help="onnxruntime, tensorrt (the engines that were built), or auto (the one that `run` takes)."),
    ] = "onnxruntime"


@expand_options
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder or zip.")],
    options: VerifyOptions,
    as_json: AsJson = False,
) -> None:
    """Check a bundle: every hash, and its reference segments.

    Runs the reference segments at one precision or at all that the bundle offers, except those that a re-fit has
    marked to be calibrated again; with --engine tensorrt at every precision that was built. Exit code 1 if they
    are not reproduced, 2 if a file is damaged, 3 if the engine is not available. With --front-end graph the
    front end is checked too, on noise.

    Example: edgeasd verify bundles/valve-id_00
    """
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.scoring.scorer import GraphFrontEndScorer
    from edgeasd.runtime.service.jsonl_records import engine_info

    with Bundle(bundle) as opened:
        manifest = opened.manifest
        opened.verify_files()
        results = []
        stale = {name: offer.stale for name, offer in manifest.precisions.items() if offer.stale}
        one = options.precision
        for precision in [one] if one is not None else _precisions(opened, options.engine):
            scorer, found = opened.open_scorer(**asdict(replace(options, precision=precision)))
            results.append({**engine_info(scorer), "golden_deviation": asdict(found)})
            if isinstance(scorer, GraphFrontEndScorer):
                results[-1]["front_end_deviation"] = asdict(scorer.front_end_deviation)
            scorer.close()
    facts = {
        "machine": manifest.machine.type,
        "id": manifest.machine.id,
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
        print(f"  {result['precision']} on {result['engine']}: reference segments reproduced ({worst})")
        if "front_end_deviation" in result:
            off = ", ".join(f"{name} {value:.1e}" for name, value in result["front_end_deviation"].items())
            print(f"    its log-mel of noise is that of the runtime ({off})")
    for name, reason in stale.items():
        print(f"  {name} is not in use until it is calibrated again: {reason}")
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


def _precisions(bundle: Bundle, engine: str) -> list[str | None]:
    """What to verify; None is what `run` would take."""
    from edgeasd.runtime.engines.tensorrt.engine_file import built_precisions

    offers = bundle.manifest.precisions
    usable = [name for name, offer in offers.items() if not offer.stale] or list(offers)
    if engine == "onnxruntime":
        return list(usable)
    built = [name for name in built_precisions(bundle.path) if name in usable] if engine == "tensorrt" else []
    return [*built] or [None]
