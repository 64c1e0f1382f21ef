"""The tables of site.toml as strict models: an unknown key is an error, and secrets are named, never held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgeasd.runtime.alarms.settings import OLD_KEYS, SERVICE, AlarmSettings
from edgeasd.runtime.errors import accept_old_keys
from edgeasd.runtime.evidence import ClipSettings, KeepSettings
from edgeasd.runtime.health.settings import HealthSettings
from edgeasd.runtime.outputs.settings import (
    JsonlSettings,
    MqttSettings,
    OutputSettings,
    PrometheusSettings,
    WebhookSettings,
)
from edgeasd.runtime.sources import SourceSettings
from edgeasd.runtime.states import OperationSettings

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$"

_Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]
_MachineName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
_Name = Annotated[str, Field(pattern=NAME)]
_Days = Annotated[float, Field(ge=0.01, le=36_500.0, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=1.0, le=3600.0, allow_inf_nan=False)]
_Output = Annotated[JsonlSettings | MqttSettings | WebhookSettings | PrometheusSettings, Field(discriminator="type")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class EngineSettings(_Strict):
    """What streams are scored with. Streams of the same bundle and engine table share one engine."""

    engine: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """auto: TensorRT if it is installed, else ONNX Runtime."""
    accelerator: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")] = "auto"
    """auto, cpu, cuda or cuda:K."""
    precision: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] | None = None
    """A precision that the bundles offer; as for `run` by default."""
    head: Literal["cpu", "tensorrt"] = "cpu"
    """tensorrt: the head runs as an engine of its own."""
    front_end: Literal["cpu", "graph"] = "cpu"
    """graph: the log-mel graph of the bundle, on the accelerator of the encoder."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """CPU threads of the engine; as many as there are processors by default."""
    max_batch: Annotated[int, Field(ge=1, le=64)] = 10
    """Segments of all its streams that are scored at once, at most."""


class StreamSettings(_Strict):
    """One sound through one bundle. Exactly one of `device`, `input` and `input_command`."""

    bundle: _Text
    """Bundle folder or zip."""
    device: _Text | None = None
    """ALSA capture device, such as hw:1."""
    input: _Text | None = None
    """WAV or FLAC file, or a folder of them."""
    input_command: _Text | None = None
    """Command that writes raw PCM to its standard output; run without a shell."""
    enabled: bool = True
    """false: as if the stream were not there."""
    machine: _MachineName | None = None
    """Machine type in messages and events; that of the bundle by default."""
    id: _MachineName | None = None
    """Machine ID in messages and events; that of the bundle by default."""
    engine: _Name | None = None
    """A table of `engines`; the defaults of one without it."""
    pace: Literal["block", "drop"] | None = None
    """When scoring is late: the source waits, or sound is skipped, then lost, and counted. As for `run` by default."""
    channel: Annotated[int, Field(ge=0, le=1023)] | None = None
    """Channel to use of several, counted from 0."""
    mix: bool = False
    """Use the mean of all channels."""
    resample: bool = False
    """Convert a file or device of another sample rate."""
    realtime: bool = False
    """Play files at their own speed."""
    loop: bool = False
    """Begin again after the last sample of the last file."""
    skip_bad: bool = False
    """Leave out files of a folder that cannot be used; each is named."""
    once: bool = False
    """The command is a converter: wait for it, and stop when it ends with 0."""
    format: Literal["s16le", "s24le", "s32le", "f32le", "s24in32le"] = "s16le"
    """Samples of a command."""
    channels: Annotated[int, Field(ge=1, le=64)] = 1
    """Channels of a command."""
    alsa_backend: Literal["auto", "arecord"] = "auto"
    """Of no effect: arecord is used. Kept for older files."""
    alsa_format: Literal["auto", "S16_LE", "S24_3LE", "S24_LE", "S32_LE", "FLOAT_LE"] = "auto"
    alarm: AlarmSettings = SERVICE
    """See docs/reference/alarms.md."""
    health: HealthSettings = HealthSettings()
    """See docs/reference/health.md."""
    states: OperationSettings = OperationSettings()
    """See docs/how-to/off-and-modes.md."""
    evidence: ClipSettings = ClipSettings()
    """See docs/how-to/events.md."""

    @field_validator("alarm", mode="before")
    @classmethod
    def _as_a_service(cls, value: Any) -> Any:
        # Old keys first: the defaults have the new ones.
        value = accept_old_keys(value, OLD_KEYS)
        return {**SERVICE.model_dump(exclude_unset=True), **value} if isinstance(value, Mapping) else value

    @field_validator("alsa_backend", mode="before")
    @classmethod
    def _pyalsaaudio_is_gone(cls, value: Any) -> Any:
        if value == "pyalsaaudio":
            raise ValueError("pyalsaaudio is gone; arecord is used, leave it out")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> StreamSettings:
        given = [name for name in ("device", "input", "input_command") if getattr(self, name) is not None]
        if len(given) != 1:
            what = "none is given" if not given else " and ".join(given) + " are given"
            raise ValueError(f"{what}; give one of device, input and input_command")
        kind = given[0]
        allowed = {
            "device": {"resample"},
            "input": {"resample", "realtime", "loop", "skip_bad"},
            "input_command": {"once"},
        }
        for name in ("resample", "realtime", "loop", "skip_bad", "once"):
            if getattr(self, name) and name not in allowed[kind]:
                raise ValueError(f"{name} is not for {kind}; leave it out")
        if self.mix and self.channel is not None:
            raise ValueError("channel and mix are both given; give one")
        return self

    @property
    def live(self) -> bool:
        """Whether sound that is not read in time is lost."""
        return self.source().is_live

    @property
    def drops(self) -> bool:
        """Whether sound is lost when scoring is late; otherwise the source waits."""
        return self.source().drops_sound

    def source(self) -> SourceSettings:
        """All that decides what is captured: two streams with equal ones capture the same."""
        return SourceSettings(
            device=self.device,
            input=self.input,
            input_command=self.input_command,
            channel=self.channel,
            mix=self.mix,
            resample=self.resample,
            realtime=self.realtime,
            loop=self.loop,
            skip_bad=self.skip_bad,
            once=self.once,
            pcm_format=self.format,
            pcm_channels=self.channels,
            alsa_format=self.alsa_format,
            pace=self.pace,
        )


class RetentionSettings(_Strict):
    """How long the event store keeps things, in days; see docs/how-to/events.md."""

    scores_days: _Days = 2.0
    """Every clip score."""
    minutes_days: _Days = 92.0
    """Summaries of one minute."""
    hours_days: _Days = 1098.0
    """Summaries of one hour."""
    events_days: _Days = 1098.0
    """Events and their transitions; an open event stays."""


class ServiceSettings(_Strict):
    """The whole file."""

    site: _MachineName
    """Name of this site, in every message."""
    data: _Text = "data"
    """Folder for the event database, evidence, the command socket and files of outputs: all that the service writes."""
    status_seconds: _Seconds = 30.0
    """A status message of every stream each so many seconds."""
    score_seconds: _Seconds = 10.0
    """A score message of every stream each so many seconds."""
    engines: dict[_Name, EngineSettings] = Field(default={}, max_length=32)
    """A table for each engine, by name."""
    streams: Annotated[dict[_Name, StreamSettings], Field(min_length=1, max_length=64)]
    """A table for each stream, by name."""
    outputs: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], _Output] = Field(
        default={}, max_length=32
    )
    """See docs/how-to/outputs.md. The path of a jsonl output is inside the data folder."""
    retention: RetentionSettings = RetentionSettings()
    """How long the event store keeps things."""
    evidence: KeepSettings = KeepSettings()
    """How long evidence stays; see docs/how-to/events.md."""

    @model_validator(mode="after")
    def _known_engines(self) -> ServiceSettings:
        for name, stream in self.streams.items():
            if stream.engine is not None and stream.engine not in self.engines:
                known = ", ".join(self.engines) or "none"
                raise ValueError(f"streams.{name}.engine {stream.engine!r}: no such table in engines ({known})")
        if not any(stream.enabled for stream in self.streams.values()):
            raise ValueError("no stream is enabled; enable one")
        return self


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """All that a service is told: the settings of a site file with absolute paths, or the options of one `run`."""

    path: Path | None
    """The site file; None for a `run` without one."""
    settings: ServiceSettings
    data: Path
    """Resolved: without links and `..`."""
    has_data: bool = True
    """Without a data folder there is no store, no output and no evidence."""
    limit_seconds: float | None = None
    """Every stream ends after so much sound."""
    wait_for_source: bool = True
    """A source that is not there yet is tried until it is; otherwise the start fails."""
    reopen: bool = True
    """A source that stops is opened again."""

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.settings.site

    @property
    def streams(self) -> dict[str, StreamSettings]:
        """The streams that are enabled."""
        return {name: stream for name, stream in self.settings.streams.items() if stream.enabled}

    @property
    def outputs(self) -> dict[str, OutputSettings]:
        """The outputs by name."""
        return dict(self.settings.outputs)

    def engine(self, stream: StreamSettings) -> EngineSettings:
        """The engine table of a stream."""
        return EngineSettings() if stream.engine is None else self.settings.engines[stream.engine]

    def source(self, stream: StreamSettings) -> SourceSettings:
        """What a stream listens to, and how."""
        return replace(stream.source(), reopen=self.reopen)
