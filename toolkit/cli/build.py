"""edgeasd build, and --build of the commands that score."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, DeviceError, InputError
from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.engine_build.bundle_engines import BuildResult
    from edgeasd.runtime.engines.tensorrt.engine_file import DeviceInfo


_NAMED = 5


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; engines are put into its engines/.")],
    precision: Annotated[
        str | None,
        typer.Option(help="Which of fp32,fp16,int8 to build, with commas; all that the bundle offers by default."),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch, in segments.")] = 10,
    opt_batch: Annotated[
        int, typer.Option(min=1, help="Batch that the engine is made fastest for; a listening device has 1.")
    ] = 1,
    workspace_limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="MIB", help="Memory that a layer may work in, in MiB; no limit by default."),
    ] = None,
    optimisation_level: Annotated[
        int, typer.Option(min=0, max=5, help="From 0 (builds quickly) to 5 (searches longest).")
    ] = 3,
    head: Annotated[
        bool, typer.Option("--head", help="Build an engine of the head too, or alone if no --precision is given.")
    ] = False,
    front_end: Annotated[
        bool,
        typer.Option("--front-end", help="Build an engine of frontend.onnx too, or alone if no --precision is given."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there and fits.")] = False,
    accelerator: Annotated[str, typer.Option(help="The GPU to build on and for: cuda or cuda:K.")] = "cuda:0",
    as_json: AsJson = False,
) -> None:
    """Build TensorRT engines of a bundle, on the device that will run them.

    An engine that is there and fits this machine is kept. A new one takes its place after the reference segments
    were reproduced; Ctrl-C leaves the old one as it was. Exit code 1 if they are not, or if a front end is not
    that of the runtime (the new engine is not kept), or if quantised convolutions do not run as INT8 (it is
    kept); 3 without TensorRT or a GPU.

    Example: edgeasd build bundles/valve-id_00 --precision int8
    """
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.engine_build.bundle_engines import BuildTarget, ensure_engine, select_parts
    from edgeasd.runtime.engines.tensorrt import library
    from edgeasd.runtime.engines.tensorrt.engine import gpu_index
    from edgeasd.runtime.engines.tensorrt.engine_file import BuildOptions, this_machine
    from edgeasd.toolkit.progress import progress

    options = BuildOptions(max_batch, opt_batch, workspace_limit, optimisation_level)
    options.check()
    index = gpu_index(accelerator, "TensorRT builds on a GPU; use cuda or cuda:K")
    if bundle.is_file():
        raise InputError(f"{bundle}: engines are built into a folder, and this is a file; unpack the zip and name that")
    done: list[BuildResult] = []
    with Bundle(bundle) as opened:
        wanted = select_parts(opened, [] if precision is None else precision.split(","), head, front_end)
        trt = library.load()
        site = BuildTarget(trt, this_machine(index, trt), index)
        for target in wanted:
            with progress(f"building {target.label}") as report:
                made = ensure_engine(opened, target, site, options, force=force, report=report, say=print_error)
            done.append(made)
            if not as_json:
                _print(made)
            if made.sidecar.unclear:
                print_error(f"warning: {_unclear(made)}")
    if as_json:
        print(json.dumps(_facts(bundle, site.machine, done), indent=2))
    failed = [_not_int8(made) for made in done if made.sidecar.not_int8]
    if failed:
        raise CheckFailed("; ".join(failed))


def _facts(bundle: Path, machine: DeviceInfo, done: list[BuildResult]) -> dict[str, Any]:
    from dataclasses import asdict

    engines = [
        {
            "part": made.part.name,
            "precision": made.part.precision,
            "path": str(made.path),
            "new": made.new,
            "why": list(made.why),
            "seconds": round(made.seconds, 1) if made.new else None,
            "golden_deviation": None if made.deviation is None else asdict(made.deviation),
            "sidecar": made.sidecar.model_dump(mode="json"),
        }
        for made in done
    ]
    return {"bundle": str(bundle), "machine": asdict(machine), "engines": engines}


def _print(made: BuildResult) -> None:
    sidecar = made.sidecar
    what = f"built in {made.seconds:.0f} s" if made.new else "fits this machine, nothing to do (--force builds again)"
    print(f"{made.path}: {what}, {sidecar.engine_size / 2**20:.1f} MiB")
    on = f"{sidecar.gpu} (compute capability {sidecar.compute_capability})"
    l4t = "" if sidecar.l4t is None else f", L4T {sidecar.l4t}"
    print(f"  TensorRT {sidecar.tensorrt}, {on}{l4t}, batches of 1 to {sidecar.max_batch}")
    if made.deviation is not None:
        from dataclasses import asdict

        from edgeasd.runtime.engines.tensorrt.engine_file import FRONT_END

        found = {name: value for name, value in asdict(made.deviation).items() if value is not None}
        worst = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
        proven = "log-mel of noise reproduced" if made.part.name == FRONT_END else "reference segments reproduced"
        print(f"  {proven} ({worst})")
    counted = ", ".join(f"{count} {name}" for name, count in sidecar.layers.items())
    print(f"  layers by precision: {counted or 'unknown to the inspector'}")
    if quantised := sidecar.int8 + len(sidecar.not_int8) + len(sidecar.unclear):
        print(f"  quantised convolutions: {sidecar.int8} of {quantised} run as INT8")


def _not_int8(made: BuildResult) -> str:
    missed = made.sidecar.not_int8
    named = ", ".join(f"{name} {precision}" for name, precision in list(missed.items())[:_NAMED])
    more = f" and {len(missed) - _NAMED} more" if len(missed) > _NAMED else ""
    return (
        f"{made.path}: {len(missed)} of {made.sidecar.int8 + len(missed)} quantised convolutions do not run as INT8 "
        f"({named}{more}); the engine is kept, it is right but slower than it should be; compare it with fp16 by "
        "`edgeasd bench`"
    )


def _unclear(made: BuildResult) -> str:
    count = len(made.sidecar.unclear)
    return (
        f"{made.path}: TensorRT's inspector does not name {count} quantised convolution{'s' if count > 1 else ''}, so "
        "whether they run as INT8 is not known; compare its speed with fp16"
    )


def build_missing(
    bundle: Bundle, precision: str | None, engine: str, accelerator: str, head: str, front_end: str = "cpu"
) -> None:
    """Build the engines that this choice needs and that are missing or do not fit; those that fit stay.

    Raises InputError if the choice is ONNX Runtime, DeviceError if TensorRT or a GPU is not there; ends with the
    exit code of `edgeasd build` if that fails.
    """
    from edgeasd.runtime.bundle.selection import check_built, select
    from edgeasd.runtime.engines import select_engine
    from edgeasd.runtime.engines.tensorrt import library
    from edgeasd.runtime.engines.tensorrt.engine_file import NotBuilt

    if engine == "auto" and accelerator != "cpu" and precision != "int8-cpu":
        # --build asks for TensorRT: say so if it is missing.
        library.load()
    if select_engine(engine, accelerator, precision).engine != "tensorrt":
        raise InputError("--build: there is nothing to build for ONNX Runtime on the CPU; leave it out")
    plan = select(bundle.manifest, bundle.path, precision, engine, accelerator, head, front_end)
    exit_codes: dict[str, int] = {}
    while True:
        try:
            return check_built(bundle.manifest, bundle.path, plan)
        except NotBuilt as missing:
            line = shlex.join(missing.arguments)
            # `edgeasd build` ends with 1 also for an engine that is kept though it is slow: that one is not missing.
            if line in exit_codes:
                if exit_codes[line] == 0:
                    raise
                raise typer.Exit(exit_codes[line]) from None
            print_error(f"{missing.what}; now: edgeasd {line}")
            exit_codes[line] = _build_in_process(missing.arguments)


def _build_in_process(arguments: list[str]) -> int:
    """Run `edgeasd build` in a process of its own, whose memory is given back; its exit code."""
    # Standard output is for the scores.
    with subprocess.Popen([sys.executable, "-m", "edgeasd", *arguments], stdout=sys.stderr) as process:
        try:
            code = process.wait()
        except BaseException:
            # It ends in its own way, and leaves the old engine whole. A second request changes nothing.
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code < 0:
        raise DeviceError(f"edgeasd build: ended by signal {-code}; see the system log, or build on its own first")
    return code
