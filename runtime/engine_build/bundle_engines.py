"""What of a bundle can become an engine, and whether one that is there may stay."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import edgeasd
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.bundle.front_end_check import beyond, compare_logmel, logmel_limit, proof_pair
from edgeasd.runtime.bundle.reference_segments import Deviation, check_reference_segments, deviation
from edgeasd.runtime.engine_build.builder import Plan, build_plan
from edgeasd.runtime.engine_build.inspector import Inspection, ask_inspector, inspect
from edgeasd.runtime.engine_build.progress import Report
from edgeasd.runtime.engine_build.timing_cache import cache_path, read_cache, write_cache
from edgeasd.runtime.engines.tensorrt import cuda
from edgeasd.runtime.engines.tensorrt.engine_file import (
    FRONT_END,
    BuildOptions,
    DeviceInfo,
    Sidecar,
    differences,
    engine_paths,
    read_sidecar,
)
from edgeasd.runtime.errors import BundleError, CheckFailed, InputError
from edgeasd.runtime.scoring.score import SegmentScores
from edgeasd.runtime.scoring.scorer import FrontEndDeviation, Head, Scorer
from edgeasd.runtime.system.files import temporary_sibling, write_bytes

PRECISIONS = ("fp32", "fp16", "int8")
"""What TensorRT can be given."""
HEAD = "head"


@dataclass(frozen=True, slots=True)
class Target:
    """One engine to have: a part of the bundle at a precision."""

    part: str
    precision: str
    file: str
    """ONNX file of the bundle."""

    @property
    def label(self) -> str:
        """As a user calls it."""
        return {"encoder": self.precision, FRONT_END: "front end"}.get(self.part, self.part)


def targets(bundle: Bundle, asked: list[str], head: bool, front_end: bool = False) -> list[Target]:
    """What to build. Raises InputError for a precision or a front end that TensorRT or the bundle has not.

    `asked` are precisions; none means all that the bundle offers for TensorRT, or head and front end alone where
    asked for.
    """
    offers, name = bundle.manifest.precisions, bundle.path.name
    for precision in asked:
        if precision not in PRECISIONS:
            meant = "it is made for ONNX Runtime on a CPU" if precision == "int8-cpu" else "unknown"
            raise InputError(f"--precision {precision}: {meant}; TensorRT is given {', '.join(PRECISIONS)}")
        if precision not in offers:
            raise InputError(f"--precision {precision}: {name} offers {', '.join(offers)}; choose one of them")
        if offers[precision].stale:
            raise BundleError(
                f"--precision {precision}: {name} needs it to be calibrated again ({offers[precision].stale}); "
                "run `edgeasd calibrate` on the workstation and copy the bundle"
            )
    usable = [precision for precision in PRECISIONS if precision in offers and not offers[precision].stale]
    alone = _alone(bundle, head, front_end)
    if not usable and not asked and not alone:
        raise InputError(f"{name}: offers {', '.join(offers)}, none of it for TensorRT; export it with fp32 or fp16")
    wanted = asked or ([] if alone else usable)
    return [*(Target("encoder", precision, offers[precision].file) for precision in dict.fromkeys(wanted)), *alone]


def _alone(bundle: Bundle, head: bool, front_end: bool) -> list[Target]:
    """Parts that are no encoder. Raises InputError for a front end that the bundle has not."""
    found = [Target(HEAD, "fp32", "head.onnx")] if head else []
    if front_end:
        offered = bundle.manifest.front_end
        if offered is None:
            raise InputError(
                f"--front-end: {bundle.path.name} has no front end; export it with `edgeasd export --front-end FOLDER`"
            )
        found.append(Target(FRONT_END, "fp32", offered.file))
    return found


def why_not(bundle: Bundle, target: Target, machine: DeviceInfo, options: BuildOptions) -> list[str]:
    """Why the engine that is there cannot be taken, one phrase each; empty where it can."""
    engine, beside = engine_paths(bundle.path, target.precision, target.part)
    if not engine.exists():
        return ["not built yet"]
    try:
        sidecar = read_sidecar(beside)
    except BundleError as error:
        return [str(error).rpartition(";")[0]]
    sha256 = bundle.manifest.files[target.file].sha256
    found = differences(sidecar, machine, onnx_sha256=sha256, precision=target.precision, flags=options.flags())
    if sidecar.max_batch != options.max_batch:
        found.append(f"max_batch {sidecar.max_batch}, asked for {options.max_batch}")
    size = engine.stat().st_size
    if size != sidecar.engine_size:
        found.append(f"{size} bytes, its sidecar says {sidecar.engine_size}")
    elif hash_file(engine) != sidecar.engine_sha256:
        found.append("its bytes are not those of its sidecar")
    return found


def verify_encoder(bundle: Bundle, precision: str, engine: Path, accelerator: str, max_batch: int) -> Deviation:
    """Run the reference segments on a built encoder. Raises CheckFailed where they are not reproduced, DeviceError."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTEngine

    manifest = bundle.manifest
    loaded = TensorRTEngine(engine, precision=precision, accelerator=accelerator, max_batch=max_batch)
    try:
        head = Head(bundle.file("head.onnx"))
        scorer = Scorer(loaded, head, manifest.features, manifest.amplitude, manifest.segments, manifest.score)
        return check_reference_segments(
            scorer, bundle.reference_segments(), manifest.precisions[precision].tolerance, bundle.path.name
        )
    finally:
        loaded.close()


def verify_head(bundle: Bundle, engine: Path, accelerator: str, max_batch: int) -> Deviation:
    """Run the golden embeddings through a built head. Raises as `verify_encoder`."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTHead

    manifest, golden = bundle.manifest, bundle.reference_segments()
    loaded = TensorRTHead(engine, accelerator=accelerator, max_batch=max_batch)
    try:
        made = SegmentScores.from_head(loaded(golden.z), manifest.score)
    finally:
        loaded.close()
    stored = SegmentScores.from_head({"logit": golden.logit, "q": golden.q, "d": golden.d}, manifest.score)
    found = deviation(golden.z, stored, golden.z, made, manifest.score)
    # The head is float32 whatever the encoder is; the tightest tolerance is that of fp32 where there is one.
    offers = manifest.precisions
    problems = found.beyond(offers.get("fp32", next(iter(offers.values()))).tolerance)
    if problems:
        raise CheckFailed(
            f"{bundle.path.name}: golden embeddings are not reproduced by {engine.name}: {'; '.join(problems)}; "
            "leave the head on the CPU"
        )
    return found


def verify_front_end(bundle: Bundle, engine: Path, accelerator: str, max_batch: int) -> FrontEndDeviation:
    """Run the noise of `edgeasd.runtime.bundle.front_end_check` through a built front end. Raises as `verify_encoder`."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTFrontEnd

    manifest = bundle.manifest
    assert manifest.front_end is not None
    frames, expected = proof_pair(manifest)
    loaded = TensorRTFrontEnd(engine, accelerator=accelerator, max_batch=max_batch)
    try:
        found = FrontEndDeviation(compare_logmel(loaded.logmel(frames), expected, bundle.path.name))
    finally:
        loaded.close()
    problems = beyond(found, logmel_limit(manifest.front_end))
    if problems:
        raise CheckFailed(
            f"{bundle.path.name}: the front end in {engine.name} is not that of the runtime: {'; '.join(problems)}; "
            "leave log-mel on the CPU"
        )
    return found


@dataclass(frozen=True, slots=True)
class BuildTarget:
    """Where engines are built: the library, the machine, the GPU's number."""

    trt: ModuleType
    machine: DeviceInfo
    index: int

    @property
    def accelerator(self) -> str:
        """ "cuda:K" """
        return f"cuda:{self.index}"


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine that is there now, and how it came about."""

    target: Target
    path: Path
    sidecar: Sidecar
    new: bool
    why: tuple[str, ...] = ()
    """What was wrong with the one before, where there was one."""
    seconds: float = 0.0
    deviation: Deviation | FrontEndDeviation | None = None
    """Of the reference segments, or of a front end's noise; None for an engine that was there."""


def have_engine(
    bundle: Bundle,
    target: Target,
    site: BuildTarget,
    options: BuildOptions,
    *,
    force: bool = False,
    report: Report,
    say: Callable[[str], None],
) -> BuiltEngine:
    """The engine of `target`: the one that is there, where it fits and nothing forces a new one, or a new one.

    A new one takes its name after its reference segments were reproduced; until then, and whatever goes wrong, the
    old one stays as it is. Raises what `build_plan` and the reference segments raise, and InputError where the disk
    is too full to begin.
    """
    path, beside = engine_paths(bundle.path, target.precision, target.part)
    model = bundle.file(target.file)
    why = why_not(bundle, target, site.machine, options)
    if not why and not force:
        return BuiltEngine(target, path, read_sidecar(beside), new=False)
    _require_room(path, model)
    say(f"{target.label}: building for {site.machine.gpu} with TensorRT {site.machine.tensorrt}: {_because(why)}")
    plan = _plan(bundle, model, site, options, report, say)
    seconds, quantised = plan.seconds, plan.quantised
    with _staged(path, beside) as (new_path, new_beside):
        write_bytes(new_path, plan.data)
        sidecar = _sidecar(bundle, target, site, options, plan)
        # What follows loads the engine; a small device has no memory for two of them.
        del plan
        _select(site.index)
        sidecar = _inspected(sidecar, inspect(ask_inspector(site.trt, new_path), quantised))
        write_bytes(new_beside, (sidecar.model_dump_json(indent=2) + "\n").encode())
        deviation = _prove(bundle, target, new_path, site, options)
    return BuiltEngine(target, path, sidecar, True, tuple(why), seconds, deviation)


def _plan(
    bundle: Bundle, model: Path, site: BuildTarget, options: BuildOptions, report: Report, say: Callable[[str], None]
) -> Plan:
    """Build with the timing cache of the bundle, and keep what was measured."""
    place = cache_path(bundle.path)
    cached, refused = read_cache(place, site.machine)

    def keep(measured: bytes) -> None:
        try:
            write_cache(place, site.machine, measured)
        except OSError as error:
            # An engine does without.
            say(f"{place}: not kept ({error.strerror}); the next build measures anew")

    plan = build_plan(
        site.trt,
        model,
        options,
        timing_cache=cached,
        report=report,
        stopping=lambda: say("stopping: TensorRT ends the step it is in"),
        keep=keep,
        on_thread=lambda: _select(site.index),
    )
    if cached and not plan.timing_cache_used:
        refused = "TensorRT refuses it"
    if refused:
        say(f"{place}: not used, {refused}; TensorRT measured anew")
    return plan


def _because(why: list[str]) -> str:
    return "; ".join(why) or "asked for with --force"


def _select(index: int) -> None:
    """CUDA's present device is one of each thread."""
    cuda.checked(cuda.bindings().cudaSetDevice(index), f"choosing GPU {index}")


def _require_room(path: Path, model: Path) -> None:
    """An engine is about as large as its ONNX; half an hour of building should not end in a full disk."""
    if path.parent.exists() and not path.parent.is_dir():
        raise InputError(f"{path.parent}: not a folder, and engines are kept in it; remove it")
    path.parent.mkdir(exist_ok=True)
    free, needed = shutil.disk_usage(path.parent).free, model.stat().st_size
    if free < needed:
        raise InputError(
            f"{path.parent}: {free / 2**20:.1f} MiB free, an engine of {model.name} takes about "
            f"{needed / 2**20:.1f} MiB; make room"
        )


@contextmanager
def _staged(path: Path, beside: Path) -> Iterator[tuple[Path, Path]]:
    """A private folder for a new engine and its sidecar, which take their names when the block ends without error.

    The engine goes first: a power cut between the two leaves an old sidecar with another hash, which nobody believes.
    """
    folder = temporary_sibling(path)
    folder.mkdir()
    try:
        yield folder / path.name, folder / beside.name
        os.replace(folder / path.name, path)
        os.replace(folder / beside.name, beside)
    except OSError as error:
        # The user knows the place by its own name.
        if error.filename is None or str(folder) in str(error.filename):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prove(
    bundle: Bundle, target: Target, path: Path, site: BuildTarget, options: BuildOptions
) -> Deviation | FrontEndDeviation:
    if target.part == HEAD:
        return verify_head(bundle, path, site.accelerator, options.max_batch)
    if target.part == FRONT_END:
        return verify_front_end(bundle, path, site.accelerator, options.max_batch)
    return verify_encoder(bundle, target.precision, path, site.accelerator, options.max_batch)


def _sidecar(bundle: Bundle, target: Target, site: BuildTarget, options: BuildOptions, plan: Plan) -> Sidecar:
    return Sidecar(
        **asdict(site.machine),
        onnx_sha256=bundle.manifest.files[target.file].sha256,
        precision=target.precision,
        max_batch=options.max_batch,
        flags=options.flags(),
        engine_sha256=hashlib.sha256(plan.data).hexdigest(),
        engine_size=plan.size,
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgeasd=edgeasd.__version__,
    )


def _inspected(sidecar: Sidecar, found: Inspection) -> Sidecar:
    told = {"layers": found.layers, "int8": len(found.int8), "not_int8": found.other, "unclear": list(found.unknown)}
    return sidecar.model_copy(update=told)
