"""Builds the engines of a bundle, verifies them on its reference segments, and keeps those that still fit."""

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
from edgeasd.runtime.bundle.front_end_check import beyond, compare_logmel, logmel_limit, self_test_pair
from edgeasd.runtime.bundle.reference_segments import Deviation, check_reference_segments, deviation
from edgeasd.runtime.engine_build.builder import Plan, build_plan
from edgeasd.runtime.engine_build.inspector import Inspection, ask_inspector, inspect
from edgeasd.runtime.engine_build.progress import ProgressCallback
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
"""Precisions that TensorRT runs."""
HEAD = "head"


@dataclass(frozen=True, slots=True)
class EnginePart:
    """A part of a bundle at a precision, which becomes one engine."""

    name: str
    """ "encoder", "head" or "frontend"."""
    precision: str
    file: str
    """ONNX file of the bundle."""

    @property
    def label(self) -> str:
        """The name for users."""
        return {"encoder": self.precision, FRONT_END: "front end"}.get(self.name, self.name)


def select_parts(bundle: Bundle, asked: list[str], head: bool, front_end: bool = False) -> list[EnginePart]:
    """The parts to build. Raises InputError for a precision or a front end that TensorRT or the bundle lacks.

    `asked` are precisions. Without any, all that the bundle offers for TensorRT, or only head and front end if these
    are asked for.
    """
    offers, name = bundle.manifest.precisions, bundle.path.name
    for precision in asked:
        if precision not in PRECISIONS:
            meant = "it is made for ONNX Runtime on a CPU" if precision == "int8-cpu" else "unknown"
            raise InputError(f"--precision {precision}: {meant}; TensorRT runs {', '.join(PRECISIONS)}")
        if precision not in offers:
            raise InputError(f"--precision {precision}: {name} offers {', '.join(offers)}; choose one of them")
        if offers[precision].stale:
            raise BundleError(
                f"--precision {precision}: {name} needs it to be calibrated again ({offers[precision].stale}); "
                "run `edgeasd calibrate` on the workstation and copy the bundle"
            )
    usable = [precision for precision in PRECISIONS if precision in offers and not offers[precision].stale]
    others = _other_parts(bundle, head, front_end)
    if not usable and not asked and not others:
        raise InputError(f"{name}: offers {', '.join(offers)}, none of it for TensorRT; export it with fp32 or fp16")
    wanted = asked or ([] if others else usable)
    return [*(EnginePart("encoder", precision, offers[precision].file) for precision in dict.fromkeys(wanted)), *others]


def _other_parts(bundle: Bundle, head: bool, front_end: bool) -> list[EnginePart]:
    """Head and front end as asked for. Raises InputError if the bundle has no front end."""
    found = [EnginePart(HEAD, "fp32", "head.onnx")] if head else []
    if front_end:
        offered = bundle.manifest.front_end
        if offered is None:
            raise InputError(
                f"--front-end: {bundle.path.name} has no front end; export it with `edgeasd export --front-end FOLDER`"
            )
        found.append(EnginePart(FRONT_END, "fp32", offered.file))
    return found


def rebuild_reasons(bundle: Bundle, part: EnginePart, machine: DeviceInfo, options: BuildOptions) -> list[str]:
    """Why the present engine must be built again, one phrase each; empty if it can stay."""
    engine, beside = engine_paths(bundle.path, part.precision, part.name)
    if not engine.exists():
        return ["not built yet"]
    try:
        sidecar = read_sidecar(beside)
    except BundleError as error:
        return [str(error).rpartition(";")[0]]
    sha256 = bundle.manifest.files[part.file].sha256
    found = differences(sidecar, machine, onnx_sha256=sha256, precision=part.precision, flags=options.flags())
    if sidecar.max_batch != options.max_batch:
        found.append(f"max_batch {sidecar.max_batch}, asked for {options.max_batch}")
    size = engine.stat().st_size
    if size != sidecar.engine_size:
        found.append(f"{size} bytes, its sidecar says {sidecar.engine_size}")
    elif hash_file(engine) != sidecar.engine_sha256:
        found.append("its bytes are not those of its sidecar")
    return found


def verify_encoder(bundle: Bundle, precision: str, engine: Path, accelerator: str, max_batch: int) -> Deviation:
    """Run the reference segments on a built encoder. Raises CheckFailed if they are not reproduced, DeviceError."""
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
    """Run the reference embeddings through a built head. Raises as `verify_encoder`."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTHead

    manifest, reference = bundle.manifest, bundle.reference_segments()
    loaded = TensorRTHead(engine, accelerator=accelerator, max_batch=max_batch)
    try:
        scores = SegmentScores.from_head(loaded(reference.z), manifest.score)
    finally:
        loaded.close()
    stored = SegmentScores.from_head({"logit": reference.logit, "q": reference.q, "d": reference.d}, manifest.score)
    found = deviation(reference.z, stored, reference.z, scores, manifest.score)
    # The head is always float32; the tightest tolerance is that of fp32, if the bundle offers it.
    offers = manifest.precisions
    problems = found.beyond(offers.get("fp32", next(iter(offers.values()))).tolerance)
    if problems:
        raise CheckFailed(
            f"{bundle.path.name}: reference embeddings are not reproduced by {engine.name}: {'; '.join(problems)}; "
            "leave the head on the CPU"
        )
    return found


def verify_front_end(bundle: Bundle, engine: Path, accelerator: str, max_batch: int) -> FrontEndDeviation:
    """Run the self-test sound through a built front end. Raises as `verify_encoder`."""
    from edgeasd.runtime.engines.tensorrt.engine import TensorRTFrontEnd

    manifest = bundle.manifest
    assert manifest.front_end is not None
    frames, expected = self_test_pair(manifest)
    loaded = TensorRTFrontEnd(engine, accelerator=accelerator, max_batch=max_batch)
    try:
        found = FrontEndDeviation(
            compare_logmel(loaded.logmel(frames), expected, bundle.path.name, manifest.features.decade)
        )
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
    """The device that engines are built for: the library, the machine, the number of the GPU."""

    trt: ModuleType
    machine: DeviceInfo
    index: int

    @property
    def accelerator(self) -> str:
        """ "cuda:K" """
        return f"cuda:{self.index}"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """An engine that is now in the bundle, and how it got there."""

    part: EnginePart
    path: Path
    sidecar: Sidecar
    new: bool
    why: tuple[str, ...] = ()
    """Why it was built."""
    seconds: float = 0.0
    deviation: Deviation | FrontEndDeviation | None = None
    """On the reference segments, or on the self-test sound for a front end; None if it was not built now."""


def ensure_engine(
    bundle: Bundle,
    part: EnginePart,
    device: BuildTarget,
    options: BuildOptions,
    *,
    force: bool = False,
    report: ProgressCallback,
    say: Callable[[str], None],
) -> BuildResult:
    """Build the engine of `part`, unless the present one fits and nothing forces a new one.

    A new engine replaces the old one after it has been verified; until then, and on any error, the old one stays.
    Raises as `build_plan` and the verification, and InputError if the disk is too full.
    """
    path, beside = engine_paths(bundle.path, part.precision, part.name)
    model = bundle.file(part.file)
    why = rebuild_reasons(bundle, part, device.machine, options)
    if not why and not force:
        return BuildResult(part, path, read_sidecar(beside), new=False)
    _require_room(path, model)
    say(f"{part.label}: building for {device.machine.gpu} with TensorRT {device.machine.tensorrt}: {_because(why)}")
    plan = _plan(bundle, model, device, options, report, say)
    seconds, quantised = plan.seconds, plan.quantised
    with _staged(path, beside) as (new_path, new_beside):
        write_bytes(new_path, plan.data)
        sidecar = _sidecar(bundle, part, device, options, plan)
        # The inspector loads the engine; a small device has no memory for two of them.
        del plan
        _select(device.index)
        sidecar = _inspected(sidecar, inspect(ask_inspector(device.trt, new_path), quantised))
        write_bytes(new_beside, (sidecar.model_dump_json(indent=2) + "\n").encode())
        deviation = _verify(bundle, part, new_path, device, options)
    return BuildResult(part, path, sidecar, True, tuple(why), seconds, deviation)


def _plan(
    bundle: Bundle,
    model: Path,
    device: BuildTarget,
    options: BuildOptions,
    report: ProgressCallback,
    say: Callable[[str], None],
) -> Plan:
    """Build with the timing cache of the bundle, and keep what was measured."""
    place = cache_path(bundle.path)
    cached, refused = read_cache(place, device.machine)

    def keep(measured: bytes) -> None:
        try:
            write_cache(place, device.machine, measured)
        except OSError as error:
            # The engine does not need it.
            say(f"{place}: not kept ({error.strerror}); the next build measures again")

    plan = build_plan(
        device.trt,
        model,
        options,
        timing_cache=cached,
        report=report,
        stopping=lambda: say("stopping: TensorRT ends the step it is in"),
        keep=keep,
        on_thread=lambda: _select(device.index),
    )
    if cached and not plan.timing_cache_used:
        refused = "TensorRT refuses it"
    if refused:
        say(f"{place}: not used, {refused}; TensorRT measured again")
    return plan


def _because(why: list[str]) -> str:
    return "; ".join(why) or "asked for with --force"


def _select(index: int) -> None:
    """CUDA's current device is set per thread."""
    cuda.checked(cuda.bindings().cudaSetDevice(index), f"choosing GPU {index}")


def _require_room(path: Path, model: Path) -> None:
    """Raise InputError if the disk is too full. An engine is about as large as its ONNX file."""
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
    """Paths in a private folder for a new engine and its sidecar, which take their names if the block ends without error.

    The engine goes first: after a power cut between the two, the hash of the old sidecar does not fit.
    """
    folder = temporary_sibling(path)
    folder.mkdir()
    try:
        yield folder / path.name, folder / beside.name
        os.replace(folder / path.name, path)
        os.replace(folder / beside.name, beside)
    except OSError as error:
        # Errors name the final place.
        if error.filename is None or str(folder) in str(error.filename):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verify(
    bundle: Bundle, part: EnginePart, path: Path, device: BuildTarget, options: BuildOptions
) -> Deviation | FrontEndDeviation:
    if part.name == HEAD:
        return verify_head(bundle, path, device.accelerator, options.max_batch)
    if part.name == FRONT_END:
        return verify_front_end(bundle, path, device.accelerator, options.max_batch)
    return verify_encoder(bundle, part.precision, path, device.accelerator, options.max_batch)


def _sidecar(bundle: Bundle, part: EnginePart, device: BuildTarget, options: BuildOptions, plan: Plan) -> Sidecar:
    return Sidecar(
        **asdict(device.machine),
        onnx_sha256=bundle.manifest.files[part.file].sha256,
        precision=part.precision,
        max_batch=options.max_batch,
        flags=options.flags(),
        engine_sha256=hashlib.sha256(plan.data).hexdigest(),
        engine_size=plan.size,
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgeasd=edgeasd.__version__,
    )


def _inspected(sidecar: Sidecar, found: Inspection) -> Sidecar:
    result = {"layers": found.layers, "int8": len(found.int8), "not_int8": found.other, "unclear": list(found.unknown)}
    return sidecar.model_copy(update=result)
