"""Which of the precisions that a bundle offers is used, by what was asked for and by the engine."""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.engines.tensorrt.built import PRECISIONS, built_precisions
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.runtime.manifest import Manifest


def choose_precision(manifest: Manifest, bundle: Path, precision: str | None, engine: str) -> str:
    """The precision to load on `engine`, "onnxruntime" or "tensorrt"; `bundle` is where the bundle lies.

    Without `precision`: for ONNX Runtime fp32; for TensorRT the fastest that was built, or else the fastest on
    offer, int8 before fp16 before fp32. One that must be calibrated again is passed over. Raises InputError for
    a precision that is not on offer, BundleError for one that must be calibrated again.
    """
    offers = manifest.precisions
    usable = [name for name, offer in offers.items() if not offer.stale] or list(offers)
    if precision is None:
        return _default(usable, bundle, engine)
    if precision not in offers:
        raise InputError(f"--precision {precision}: {bundle.name} offers {', '.join(offers)}; choose one of them")
    return precision


def refuse_stale(manifest: Manifest, bundle: Path, precision: str) -> None:
    """Raise BundleError where a re-fit has marked `precision` to be calibrated again.

    Refused and not warned of: values beyond their ranges are clipped, and a clipped fault sounds normal.
    """
    reason = manifest.precisions[precision].stale
    if reason:
        fresh = [name for name, offer in manifest.precisions.items() if not offer.stale]
        instead = f"use --precision {fresh[0]} until then" if fresh else "export the bundle again with fp32"
        raise BundleError(
            f"--precision {precision}: {bundle.name} needs it to be calibrated again "
            f"({' '.join(reason.split())[:200]}); {instead}"
        )


def _default(usable: list[str], bundle: Path, engine: str) -> str:
    if engine == "onnxruntime":
        return "fp32" if "fp32" in usable else usable[0]
    runnable = [name for name in PRECISIONS if name in usable]
    if not runnable:
        raise InputError(
            f"{bundle.name}: offers {', '.join(usable)}, TensorRT runs {', '.join(PRECISIONS)}; "
            "use --engine onnxruntime, or export the bundle with one of these"
        )
    built = [name for name in built_precisions(bundle) if name in runnable]
    return (built or runnable)[0]
