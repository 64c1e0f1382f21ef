"""The engines of a bundle: build one, prove it, and only then give it its name."""

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
from edgeasd.runtime.atomic import temporary_sibling, write_bytes
from edgeasd.runtime.bundle import Bundle
from edgeasd.runtime.engines.tensorrt import cuda
from edgeasd.runtime.engines.tensorrt.build import BuildOptions, Plan, build_plan
from edgeasd.runtime.engines.tensorrt.cache import cache_path, read_cache, write_cache
from edgeasd.runtime.engines.tensorrt.inspector import Inspection, ask_inspector, inspect
from edgeasd.runtime.engines.tensorrt.machine import MachineFacts
from edgeasd.runtime.engines.tensorrt.monitor import Report
from edgeasd.runtime.engines.tensorrt.proof import prove_encoder, prove_front_end, prove_head
from edgeasd.runtime.engines.tensorrt.sidecar import FRONT_END, Sidecar, engine_paths, read_sidecar
from edgeasd.runtime.engines.tensorrt.targets import HEAD, Target, why_not
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.front_end import FrontEndDeviation
from edgeasd.runtime.golden import Deviation


@dataclass(frozen=True, slots=True)
class Site:
    """Where engines are built: the library, the machine, the GPU's number."""

    trt: ModuleType
    machine: MachineFacts
    index: int

    @property
    def accelerator(self) -> str:
        """ "cuda:K" """
        return f"cuda:{self.index}"


@dataclass(frozen=True, slots=True)
class Built:
    """An engine that is there now, and how it came about."""

    target: Target
    path: Path
    sidecar: Sidecar
    new: bool
    why: tuple[str, ...] = ()
    """What was wrong with the one before, where there was one."""
    seconds: float = 0.0
    deviation: Deviation | FrontEndDeviation | None = None
    """Of the golden segments, or of a front end's noise; None for an engine that was there."""


def have_engine(
    bundle: Bundle,
    target: Target,
    site: Site,
    options: BuildOptions,
    *,
    force: bool = False,
    report: Report,
    say: Callable[[str], None],
) -> Built:
    """The engine of `target`: the one that is there, where it fits and nothing forces a new one, or a new one.

    A new one takes its name after its golden segments were reproduced; until then, and whatever goes wrong, the
    old one stays as it is. Raises what `build_plan` and the golden segments raise, and InputError where the disk
    is too full to begin.
    """
    path, beside = engine_paths(bundle.path, target.precision, target.part)
    model = bundle.file(target.file)
    why = why_not(bundle, target, site.machine, options)
    if not why and not force:
        return Built(target, path, read_sidecar(beside), new=False)
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
    return Built(target, path, sidecar, True, tuple(why), seconds, deviation)


def _plan(
    bundle: Bundle, model: Path, site: Site, options: BuildOptions, report: Report, say: Callable[[str], None]
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
    bundle: Bundle, target: Target, path: Path, site: Site, options: BuildOptions
) -> Deviation | FrontEndDeviation:
    if target.part == HEAD:
        return prove_head(bundle, path, site.accelerator, options.max_batch)
    if target.part == FRONT_END:
        return prove_front_end(bundle, path, site.accelerator, options.max_batch)
    return prove_encoder(bundle, target.precision, path, site.accelerator, options.max_batch)


def _sidecar(bundle: Bundle, target: Target, site: Site, options: BuildOptions, plan: Plan) -> Sidecar:
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
