"""A site looked over without starting anything: bundles opened, sources named, secrets read, nothing written."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeasd.runtime.bundle import Bundle
from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.runtime.health.settings import level_range
from edgeasd.runtime.manifest import Machine, Manifest
from edgeasd.runtime.offer import choose
from edgeasd.runtime.outputs.secret import read_secret
from edgeasd.runtime.outputs.settings import MqttSettings, OutputSettings, WebhookSettings
from edgeasd.runtime.site.reading import read_site
from edgeasd.runtime.site.settings import EngineSettings, Site, StreamSettings
from edgeasd.runtime.site.sharing import check_choice, sharing_problems
from edgeasd.runtime.sources.command import split_command


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
class SiteReport:
    """What `--check` found."""

    site: str
    data: str
    streams: list[StreamReport]
    outputs: dict[str, str]
    """Name to type."""
    problems: list[str]
    """One line for each; empty where all is well."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_site(site: Site) -> SiteReport:
    """Look everything over. Problems are collected, not raised; no device is opened and no command run."""
    problems: list[str] = []
    streams: list[StreamReport] = []
    rates: dict[str, int] = {}
    for name, stream in site.streams.items():
        try:
            streams.append(_check_stream(site, name, stream, rates))
        except (EdgeasdError, OSError) as error:
            problems.append(f"streams.{name}: {error}")
    problems += _same_machines(streams) + sharing_problems(site.streams, rates)
    for name, output in site.outputs.items():
        try:
            _check_output(name, output)
        except (EdgeasdError, OSError) as error:
            problems.append(f"outputs.{name}: {error}")
    problems += _check_data(site.data)
    kinds: dict[str, str] = {name: output.type for name, output in site.outputs.items()}
    return SiteReport(site.name, str(site.data), streams, kinds, problems)


def named_manifest(manifest: Manifest, stream: StreamSettings) -> Manifest:
    """`manifest` with the machine and ID that the site gives it."""
    machine = Machine(type=stream.machine or manifest.machine.type, id=stream.id or manifest.machine.id)
    return manifest.model_copy(update={"machine": machine})


def describe_source(stream: StreamSettings) -> str:
    """The source as it is asked for, in few words."""
    what = stream.device or stream.input or f"command {stream.input_command}"
    return what if stream.channel is None else f"{what}, channel {stream.channel}"


def _check_stream(site: Site, name: str, stream: StreamSettings, rates: dict[str, int]) -> StreamReport:
    settings: EngineSettings = site.engine(stream)
    with Bundle(Path(stream.bundle)) as bundle:
        bundle.verify_files()
        manifest = named_manifest(bundle.manifest, stream)
        asked = (settings.precision, settings.engine, settings.accelerator, settings.head, settings.front_end)
        offer = choose(manifest, bundle.path, *asked)
    rates[name] = manifest.features.sample_rate
    levels = stream.alarm.levels(manifest.threshold)
    level_range(stream.health, manifest.amplitude, manifest.level)
    if stream.input is not None and not Path(stream.input).exists():
        raise InputError(f"{stream.input}: no such file or folder; correct input")
    if stream.input_command is not None:
        split_command(stream.input_command)
    check_choice(stream)
    return StreamReport(
        name=name,
        machine=manifest.machine.type,
        id=manifest.machine.id,
        source=describe_source(stream),
        bundle=stream.bundle,
        precision=offer.precision,
        engine=offer.engine.engine,
        accelerator=offer.engine.accelerator,
        threshold=None if levels is None else levels.on,
        paced="drop" if stream.drops else "block",
    )


def _same_machines(streams: list[StreamReport]) -> list[str]:
    seen: dict[tuple[str, str], str] = {}
    problems = []
    for stream in streams:
        first = seen.setdefault((stream.machine, stream.id), stream.name)
        if first != stream.name:
            problems.append(
                f"streams.{stream.name}: is machine {stream.machine} {stream.id}, as {first} is; "
                "give one of them another id"
            )
    return problems


def _check_output(name: str, output: OutputSettings) -> None:
    """Secrets are read, and nothing is connected to."""
    if isinstance(output, MqttSettings):
        read_secret(output.password_file, output.password_env, f"password of {name}")
    elif isinstance(output, WebhookSettings):
        read_secret(output.secret_file, output.secret_env, f"secret of {name}")
        read_secret(output.token_file, output.token_env, f"token of {name}")
    for field in ("ca_file", "certificate_file", "key_file"):
        path = getattr(output, field, None)
        if path is not None and not Path(path).is_file():
            raise InputError(f"{field} {path}: no such file; correct it")


def _check_data(data: Path) -> list[str]:
    """Whether the data folder is there, or can be made, and can be written to."""
    nearest = data
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return [f"data {data}: {nearest} is no folder; name another one"]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [f"data {data}: cannot write to {nearest}; give this user the folder"]
    inside = [data / name for name in ("queues", "evidence")]
    return [f"data {data}: {one} is no folder; move it away" for one in inside if one.exists() and not one.is_dir()]


def open_site(path: Path) -> Site:
    """Read a site file and look it over as `--check` does; InputError with the first problem."""
    site = read_site(path)
    problems = check_site(site).problems
    if problems:
        more = f" (and {len(problems) - 1} more: pass --check to see them)" if len(problems) > 1 else ""
        raise InputError(f"{path}: {problems[0]}{more}")
    return site
