"""Options that several commands share, with one wording each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime, timezone
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.system.files import one_name

if TYPE_CHECKING:
    from edgeasd.runtime.sources import SourceSettings


def _one_name(name: str | None) -> str | None:
    """Composed Unicode, as the data set is read: a name that is typed on a Mac is that of any other system."""
    return None if name is None else one_name(name)


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
    str,
    typer.Option(
        callback=_one_name,
        help="Machine type, as its folder in the data root is called: valve, pump, ToyCar, …",
    ),
]
MachineId = Annotated[
    str | None, typer.Option("--id", callback=_one_name, help="One machine ID; all IDs of the machine without it.")
]
Root = Annotated[Path, typer.Option("--data", help="Data root: the folder with one folder per machine type.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without the files that cannot be used; each is named.")
]
KeepUnhealthy = Annotated[
    bool,
    typer.Option("--keep-unhealthy", help="Take normal clips too that are silent, stuck, clipped or full of holes."),
]
Tile = Annotated[
    bool,
    typer.Option("--tile", help="Learn from clips too that are shorter than a segment, repeated until they fill one."),
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
    str, typer.Option(help="auto (TensorRT if it is installed, else ONNX Runtime), onnxruntime or tensorrt.")
]
Build = Annotated[
    bool, typer.Option("--build", help="Build the TensorRT engine first if none that fits is there; takes minutes.")
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
Device = Annotated[
    str | None, typer.Option(help="ALSA capture device: hw:1, plughw:1,0 or any name that `edgeasd devices` lists.")
]
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
Scoring = Annotated[
    str | None,
    typer.Option(
        "--scoring",
        help="What d is measured to: centroid, or knn (the nearest stored normal); what the model was trained for by "
        "default.",
    ),
]
Update = Annotated[
    str | None,
    typer.Option(help="An update by name (n004-s0), or none for the model without known anomalies; newest by default."),
]


TrustWeights = Annotated[
    bool, typer.Option("--trust-weights", help="Take a file whose hash is not the published one; it runs nothing.")
]
TrainingPrecision = Annotated[
    str, typer.Option("--training-precision", help="auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Fuse the network with torch.compile first: for long runs on a GPU.")
]
GroundTruth = Annotated[
    Path | None, typer.Option(help="Folder with published labels of unlabelled test clips (DCASE), as CSV.")
]


def cache_folder(cache: Path | None, workspace: Path) -> Path:
    """Where features are cached."""
    return cache if cache is not None else workspace / "cache"


def checked_scoring(scoring: str | None) -> str | None:
    """--scoring as given; InputError for a name that is none."""
    if scoring not in (None, "centroid", "knn"):
        raise InputError(f"--scoring {scoring}: unknown; use centroid or knn")
    return scoring


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


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Clips of a machine type, and how they are read."""

    root: Root
    machine: Machine
    workspace: Workspace = Path()
    id_attribute: IdAttribute = None
    channel: Channel = None
    skip_bad: SkipBad = False
    keep_unhealthy: KeepUnhealthy = False
    cache: Cache = None

    @property
    def cache_folder(self) -> Path:
        """Where features are cached."""
        return cache_folder(self.cache, self.workspace)


@dataclass(frozen=True, kw_only=True)
class RunDataOptions(DataOptions):
    """Clips for a model that is trained."""

    channel: ChannelOfRun = None


@dataclass(frozen=True, kw_only=True)
class LabelledDataOptions(RunDataOptions):
    """Test clips for a model that is trained."""

    ground_truth: GroundTruth = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a training runs."""

    iterations: Annotated[int | None, typer.Option(min=1, help="Iterations; the preset's by default.")] = None
    tile: Tile = False
    settings: Settings = field(default_factory=list)
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Decides splits, first weights, batches and chosen anomalies.")
    ] = 0
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint, exactly.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard what an earlier training left here.")] = False
    accelerator: Annotated[str, typer.Option(help="Compute: auto (a GPU if there is one), cpu, cuda or cuda:K.")] = (
        "auto"
    )
    training_precision: TrainingPrecision = "auto"
    compile_network: Compile = False

    def check(self) -> None:
        """InputError if two of them exclude each other."""
        if self.resume and self.overwrite:
            raise InputError(
                "--resume and --overwrite: one goes on with a training, the other discards it; pass one of them"
            )


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """A pretrained encoder and the file of its weights."""

    encoder: Annotated[
        str | None,
        typer.Option(help="A pretrained encoder, mn04 for example: `edgeasd encoders` lists them. As --backbone."),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option(help="File with its weights; where `edgeasd encoders fetch` puts them by default."),
    ] = None
    trust_weights: TrustWeights = False


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What computes the scores."""

    precision: PrecisionChoice = None
    engine: Engine = "auto"
    accelerator: Accelerator = "auto"
    head: HeadPlace = "cpu"
    front_end: FrontEndPlace = "cpu"
    threads: Threads = None


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """A device or a command as the source of live sound."""

    device: Device = None
    input_command: InputCommand = None
    channel: Channel = None
    mix: Mix = False
    resample: ResampleLive = False
    alsa_backend: AlsaBackend = "auto"
    """Checked by its callback, and of no other effect."""
    alsa_format: AlsaFormat = "auto"
    pcm_format: PcmFormat = "s16le"
    pcm_channels: PcmChannels = 1
    once: Once = False
    no_reopen: NoReopen = False

    def settings(self) -> SourceSettings:
        """What `open_source` takes."""
        from edgeasd.runtime.sources import SourceSettings

        return SourceSettings(
            device=self.device,
            input_command=self.input_command,
            channel=self.channel,
            mix=self.mix,
            resample=self.resample,
            once=self.once,
            reopen=not self.no_reopen,
            pcm_format=self.pcm_format,
            pcm_channels=self.pcm_channels,
            alsa_format=self.alsa_format,
        )


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Turn each parameter that is a dataclass into one option for each of its fields, for typer and for callers."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    parameters: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            parameters += _options_of(kind)
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind))

    @wraps(command)
    def run(**options: Any) -> None:
        values = {
            name: kind(**{one.name: options.pop(one.name) for one in fields(kind) if one.name in options})
            for name, kind in groups.items()
        }
        command(**values, **options)

    # Help lists required options first.
    parameters.sort(key=lambda parameter: parameter.default is not Parameter.empty)
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(kind: type) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for one in fields(kind):
        default = Parameter.empty if one.default is MISSING else one.default
        if one.default_factory is not MISSING:
            default = one.default_factory()
        found.append(Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[one.name]))
    return found


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def parse_time(text: str, option: str, now: float) -> float:
    """Seconds since 1970 of `2027-01-31`, `2027-01-31T08:00` (UTC unless it says otherwise), or `24h` before `now`.

    Raises InputError that names `option`.
    """
    if found := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
        return max(0.0, now - int(found[1]) * _UNITS[found[2]])
    try:
        # Python 3.10 does not know the Z of our own messages.
        value = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text))
        seconds = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        shown = "".join(c if c.isprintable() else "?" for c in text)[:80]
        raise InputError(f"{option} {shown}: not a time; give 2027-01-31, 2027-01-31T08:00, 24h or 7d") from None
    return max(0.0, seconds)
