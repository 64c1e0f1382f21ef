"""What is wrong with a site: one line for people, and its parts for programs."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Machine, Manifest
from edgeasd.runtime.bundle.selection import select
from edgeasd.runtime.config.load import ConfigError
from edgeasd.runtime.config.settings import EngineSettings, ServiceConfig, StreamSettings
from edgeasd.runtime.errors import EdgeasdError, InputError, redact
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.health.settings import level_range
from edgeasd.runtime.outputs import check_output
from edgeasd.runtime.outputs.settings import JsonlSettings, OutputSettings, shared_client_ids
from edgeasd.runtime.sources import open_source
from edgeasd.runtime.sources.command import split_command
from edgeasd.runtime.sources.open import check_choice
from edgeasd.runtime.sources.shared import sharing_problems


@dataclass(frozen=True, slots=True)
class StreamReport:
    """One stream as it would run."""

    name: str
    machine: str
    id: str
    source: str
    bundle: str
    precision: str
    engine: str
    accelerator: str
    threshold: float | None
    """The `on` threshold in force; None where no alarm can be raised."""
    paced: str
    """block or drop."""


@dataclass(frozen=True, slots=True)
class ConfigReport:
    """What `--check` found."""

    site: str
    data: str
    streams: list[StreamReport]
    outputs: dict[str, str]
    """Name to type."""
    problems: list[ConfigError]
    """Empty where all is well."""

    @property
    def fatal(self) -> ConfigError | None:
        """The first problem with which nothing can run; None where some stream can, or all is well."""
        alone = [one for one in self.problems if one.stream is None]
        found = alone or ([] if self.streams else self.problems)
        return found[0] if found else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "problems": [one.to_json() for one in self.problems]}


def check_config(config: ServiceConfig) -> ConfigReport:
    """Look everything over. Problems are collected, not raised; no device is opened and no command run."""
    problems: list[ConfigError] = []
    streams: list[StreamReport] = []
    features: dict[str, FeatureSettings] = {}
    for name, stream in config.streams.items():
        try:
            streams.append(_check_stream(config, name, stream, features))
        except (EdgeasdError, OSError) as error:
            problems.append(ConfigError(f"streams.{name}", _one_line(error), name))
    problems += _same_machines(streams)
    recorded = {name: one.recorded_rate for name, one in features.items()}
    sources = {
        name: replace(stream.source(), recorded_rate=recorded.get(name)) for name, stream in config.streams.items()
    }
    rates = {name: one.sample_rate for name, one in features.items()}
    problems += [ConfigError(f"streams.{name}", line) for name, line in sharing_problems(sources, rates)]
    for name, output in config.outputs.items():
        try:
            _check_output(config, output)
        except (EdgeasdError, OSError) as error:
            problems.append(ConfigError(f"outputs.{name}", _one_line(error)))
    problems += [ConfigError(f"outputs.{name}", line) for name, line in shared_client_ids(config.outputs).items()]
    problems += _check_data(config.data)
    kinds: dict[str, str] = {name: output.type for name, output in config.outputs.items()}
    return ConfigReport(config.name, str(config.data), streams, kinds, problems)


def named_manifest(manifest: Manifest, stream: StreamSettings) -> Manifest:
    """`manifest` with the machine and ID that the site gives it."""
    machine = Machine(type=stream.machine or manifest.machine.type, id=stream.id or manifest.machine.id)
    return manifest.model_copy(update={"machine": machine})


def _check_stream(
    config: ServiceConfig, name: str, stream: StreamSettings, features: dict[str, FeatureSettings]
) -> StreamReport:
    settings: EngineSettings = config.engine(stream)
    with Bundle(Path(stream.bundle)) as bundle:
        bundle.verify_files()
        manifest = named_manifest(bundle.manifest, stream)
        asked = (settings.precision, settings.engine, settings.accelerator, settings.head, settings.front_end)
        offer = select(manifest, bundle.path, *asked)
    features[name] = manifest.features
    levels = stream.alarm.levels(manifest.threshold)
    level_range(stream.health, manifest.amplitude, manifest.level)
    _check_source(stream, manifest.features)
    return StreamReport(
        name=name,
        machine=manifest.machine.type,
        id=manifest.machine.id,
        source=stream.source().label,
        bundle=stream.bundle,
        precision=offer.precision,
        engine=offer.engine.engine,
        accelerator=offer.engine.accelerator,
        threshold=None if levels is None else levels.on,
        paced="drop" if stream.drops else "block",
    )


def _check_source(stream: StreamSettings, features: FeatureSettings) -> None:
    """Check what can be known of a source without sound from it. Raises what the start would raise."""
    if stream.input is not None:
        # Opening reads the header of the file, or of every file of a folder.
        settings = replace(stream.source(), recorded_rate=features.recorded_rate)
        open_source(settings, features.sample_rate).close()
    if stream.input_command is not None:
        program = split_command(stream.input_command)[0]
        if shutil.which(program) is None:
            why = "Permission denied" if os.path.exists(program) else "No such file or directory"
            raise InputError(f"{program}: cannot be started ({why}); check its name, or give its whole path")
        check_choice(stream.source())


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return redact(f"{error.filename}: {error.strerror}; correct the path or its permissions")
    return str(error)


def _same_machines(streams: list[StreamReport]) -> list[ConfigError]:
    seen: dict[tuple[str, str], str] = {}
    problems = []
    for stream in streams:
        first = seen.setdefault((stream.machine, stream.id), stream.name)
        if first != stream.name:
            same = f"is machine {stream.machine} {stream.id}, as {first} is; give one of them another id"
            problems.append(ConfigError(f"streams.{stream.name}", same))
    return problems


def _check_output(config: ServiceConfig, output: OutputSettings) -> None:
    """What opening it needs is there: secrets, certificates, packages, folders. Nothing is connected to."""
    for field in ("ca_file", "certificate_file", "key_file"):
        path = getattr(output, field, None)
        if path is not None and not Path(path).is_file():
            raise InputError(f"{field} {path}: no such file; correct it")
    # The data folder itself is made at the start.
    if not isinstance(output, JsonlSettings) or Path(output.path).parent != config.data:
        check_output(output, config.name)


def _check_data(data: Path) -> list[ConfigError]:
    """Whether the data folder is there, or can be made, and can be written to."""
    nearest = data
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return [ConfigError("data", f"{data}: {nearest} is no folder; name another one")]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [ConfigError("data", f"{data}: cannot write to {nearest}; give this user the folder")]
    inside = [data / name for name in ("queues", "evidence")]
    return [
        ConfigError("data", f"{data}: {one} is no folder; move it away")
        for one in inside
        if one.exists() and not one.is_dir()
    ]
