"""Options that several commands share, with one wording each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeasd.runtime.errors import InputError


def _check_alsa_backend(backend: str) -> str:
    if backend == "pyalsaaudio":
        raise InputError("--alsa-backend pyalsaaudio: pyalsaaudio is gone; arecord is used, leave the option out")
    if backend not in ("auto", "arecord"):
        raise InputError(f"--alsa-backend {backend}: unknown; arecord is used, leave the option out")
    return backend


Workspace = Annotated[
    Path, typer.Option(help="Folder that holds runs/ and bundles/.", envvar="EDGEASD_WORKSPACE", show_default="here")
]
Machine = Annotated[
    str, typer.Option(help="Machine type, as its folder in the data root is called: valve, pump, ToyCar, …")
]
MachineId = Annotated[str | None, typer.Option("--id", help="One machine ID; all IDs of the machine without it.")]
Root = Annotated[Path, typer.Option("--data", help="Data root: the folder with one folder per machine type.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without the files that cannot be used; each is named.")
]
IdAttribute = Annotated[
    str | None,
    typer.Option(help="File-name attribute that is the machine ID in DCASE layouts (car, …), or 'section'."),
]
Cache = Annotated[
    Path | None,
    typer.Option(help="Folder for cached features; cache/ in the workspace by default.", envvar="EDGEASD_CACHE"),
]
Accelerator = Annotated[
    str, typer.Option(help="Compute, not sound: auto (a GPU for TensorRT, else the CPU), cpu, cuda or cuda:K.")
]
Engine = Annotated[
    str, typer.Option(help="auto (TensorRT where it is installed, else ONNX Runtime), onnxruntime or tensorrt.")
]
Build = Annotated[
    bool, typer.Option("--build", help="Build the TensorRT engine first where none that fits is there; takes minutes.")
]
HeadPlace = Annotated[
    str, typer.Option("--head", help="cpu, or tensorrt: the head as an engine of its own, built before.")
]
FrontEndPlace = Annotated[
    str,
    typer.Option(
        "--front-end", help="cpu, or graph: log-mel by the bundle's frontend.onnx, on the accelerator of the encoder."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="CPU threads of the engine; as many as there are processors by default."),
]
PrecisionChoice = Annotated[
    str | None,
    typer.Option(
        "--precision", help="A precision the bundle offers; fp32 by default, with TensorRT the fastest that was built."
    ),
]
Channel = Annotated[int | None, typer.Option(min=0, help="Channel to use of several, counted from 0.")]
ChannelOfRun = Annotated[
    int | None, typer.Option("--channel", min=0, help="As for train; the one the model was trained on by default.")
]
Mix = Annotated[bool, typer.Option("--mix", help="Use the mean of all channels.")]
Resample = Annotated[bool, typer.Option("--resample", help="Convert a file of another sample rate (soxr HQ).")]
InputCommand = Annotated[
    str | None,
    typer.Option(
        help="Command that writes raw PCM to its standard output; run without a shell, and again when it ends."
    ),
]
Once = Annotated[
    bool, typer.Option("--once", help="The input command is a converter: wait for it, and end when it ends with 0.")
]
NoReopen = Annotated[
    bool, typer.Option("--no-reopen", help="End with an error when the device or the input command stops.")
]
AlsaBackend = Annotated[str, typer.Option(hidden=True, callback=_check_alsa_backend, help="Of no effect.")]
AlsaFormat = Annotated[
    str, typer.Option(help="Samples of a device: auto, S16_LE, S24_3LE, S24_LE, S32_LE or FLOAT_LE.")
]
PcmFormat = Annotated[
    str,
    typer.Option(
        "--format", help="Samples of standard input or of a command: s16le, s24le, s32le, f32le or s24in32le."
    ),
]
PcmChannels = Annotated[
    int, typer.Option("--channels", min=1, max=64, help="Channels of standard input or of a command.")
]
ResampleLive = Annotated[
    bool, typer.Option("--resample", help="Convert a file or device of another sample rate (soxr HQ).")
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field of the preset; may be repeated. `edgeasd preset show` lists them.",
        show_default=False,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="α of equation 5, from 0 (distance alone) to 1 (classifier alone)."),
]
Update = Annotated[
    str | None,
    typer.Option(help="An update by name (n004-s0), or none for the model without known anomalies; newest by default."),
]


def cache_folder(cache: Path | None, workspace: Path) -> Path:
    """Where features are cached."""
    return cache if cache is not None else workspace / "cache"


def find_bundle(bundle: Path | None, workspace: Path) -> Path:
    """--bundle or EDGEASD_BUNDLE, else the only bundle of the workspace; InputError with the list otherwise."""
    if bundle is not None:
        return bundle
    folder = workspace / "bundles"
    found = sorted(p.parent for p in folder.glob("*/manifest.json")) or sorted(folder.glob("*.zip"))
    if len(found) == 1:
        return found[0]
    there = ", ".join(str(p) for p in found) or "none"
    raise InputError(f"{folder}: {len(found)} bundles ({there}); name one with --bundle or EDGEASD_BUNDLE")


TrainingPrecision = Annotated[
    str, typer.Option("--training-precision", help="auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Fuse the network with torch.compile first: for long runs on a GPU.")
]
GroundTruth = Annotated[
    Path | None, typer.Option(help="Folder with published labels of unlabelled test clips (DCASE), as CSV.")
]
