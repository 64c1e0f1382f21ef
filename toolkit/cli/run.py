"""edgeasd run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli import run_service
from edgeasd.toolkit.cli._errors import defer_signals
from edgeasd.toolkit.cli._options import (
    Accelerator,
    AlsaBackend,
    AlsaFormat,
    Build,
    Channel,
    Engine,
    FrontEndPlace,
    HeadPlace,
    InputCommand,
    Mix,
    NoReopen,
    Once,
    PcmChannels,
    PcmFormat,
    PrecisionChoice,
    ResampleLive,
    Threads,
    Workspace,
    find_bundle,
)
from edgeasd.toolkit.cli.build import build_missing
from edgeasd.toolkit.cli.json_lines import json_sink, write_record
from edgeasd.toolkit.cli.one_stream import write_site
from edgeasd.toolkit.cli.record_summary import END_OF_SOUND

if TYPE_CHECKING:
    from edgeasd.runtime.service.listen import Record, Session


class _Terminated(BaseException):
    """SIGTERM: the orderly end of a service. No `Exception`: what catches those blames the model for it."""


def run(
    context: typer.Context,
    device: Annotated[
        str | None, typer.Option(help="ALSA capture device: hw:1, plughw:1,0 or any name that `edgeasd devices` lists.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="WAV or FLAC file, folder of them, or - for raw PCM on standard input.")
    ] = None,
    input_command: InputCommand = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle folder or zip; the only one in the workspace by default.", envvar="EDGEASD_BUNDLE"),
    ] = None,
    workspace: Workspace = Path(),
    mqtt: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Run as a service that tells this broker: mqtt://HOST:PORT or mqtts://HOST:PORT."
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Run as a service with a page for Prometheus here.")
    ] = None,
    jsonl: Annotated[str | None, typer.Option(help="Append JSON lines to this file, or - for standard output.")] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Play files at their own speed.")] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again after the last sample of the last file.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files of a folder that cannot be used; each is named.")
    ] = False,
    once: Once = False,
    no_reopen: NoReopen = False,
    duration: Annotated[float | None, typer.Option(min=0.001, help="Stop after this many seconds of sound.")] = None,
    pace: Annotated[
        str | None,
        typer.Option(
            help="When scoring is late: block (the source waits) or drop (sound is lost and counted); a device drops, "
            "all else blocks by default."
        ),
    ] = None,
    pcm_format: PcmFormat = "s16le",
    pcm_channels: PcmChannels = 1,
    channel: Channel = None,
    mix: Mix = False,
    resample: ResampleLive = False,
    precision: PrecisionChoice = None,
    engine: Engine = "auto",
    accelerator: Accelerator = "auto",
    head: HeadPlace = "cpu",
    front_end: FrontEndPlace = "cpu",
    build: Build = False,
    threads: Threads = None,
    alsa_backend: AlsaBackend = "auto",
    alsa_format: AlsaFormat = "auto",
    config: Annotated[
        Path | None, typer.Option(help="Run the service that this site.toml describes; all else is said there.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --config: look everything over, and start nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: machine-readable.")] = False,
) -> None:
    """Listen to a machine, score it, raise alarms.

    One record for every segment, and an alarm when several clip scores in a row lie above the threshold of
    the bundle; none from sick input. Shows level, score, status, health, latency and losses as text, or writes JSON
    lines with --jsonl. With --mqtt or --metrics it is a service of one stream, with alarms with events, evidence and
    outputs; with --config one of many.

    Example: edgeasd run --device hw:1 --bundle bundles/valve-id_00
    """
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.service.listen import Session
    from edgeasd.runtime.sources import open_source
    from edgeasd.runtime.sources.capture import PACES

    if config is not None:
        _refuse_beside_config(context)
        run_service.check(config, as_json) if check else run_service.serve(config, lambda: json_sink(jsonl))
        return
    if check or as_json:
        raise InputError("--check and --json: are for --config; name a site file with it")
    if pace not in (None, *PACES):
        raise InputError(f"--pace {pace}: unknown; use {' or '.join(PACES)}")
    where = {"device": device, "input": input, "input_command": input_command, "channel": channel, "mix": mix}
    how = {"resample": resample, "realtime": realtime, "loop": loop, "skip_bad": skip_bad, "once": once}
    capture: dict[str, Any] = {**where, **how, "alsa_backend": alsa_backend, "alsa_format": alsa_format}
    choice = {"precision": precision, "engine": engine, "accelerator": accelerator, "threads": threads}
    choice |= {"head": head, "front_end": front_end}
    if mqtt is not None or metrics is not None:
        _refuse_beside_outputs(duration, no_reopen)
        stream = {**capture, "pace": pace, "format": pcm_format, "channels": pcm_channels}
        with Bundle(find_bundle(bundle, workspace)) as opened:
            if build:
                build_missing(opened, precision, engine, accelerator, head, front_end)
            site = write_site(workspace, opened.path, opened.manifest, stream, choice, mqtt, metrics)
        print(f"edgeasd: a service of one stream, described in {site}", file=sys.stderr, flush=True)
        run_service.serve(site, lambda: json_sink(jsonl))
        return
    with _terminable(), Bundle(find_bundle(bundle, workspace)) as opened:
        rate = opened.manifest.features.sample_rate
        if build:
            # Before the source is opened: minutes of sound would not fit into any buffer.
            build_missing(opened, precision, engine, accelerator, head, front_end)
        source = open_source(
            **capture,
            sample_rate=rate,
            reopen=not no_reopen,
            pcm_format=pcm_format,
            pcm_channels=pcm_channels,
        )
        limit = None if duration is None else max(1, round(duration * rate))
        session = Session(opened, source, pace=pace, limit=limit)
        # The log comes after the source: a source that is not there leaves no empty file.
        with json_sink(jsonl) as sink:
            session.start()
            ended = _listen(session, choice, sink, rate)
        if ended["reason"] == END_OF_SOUND:
            _refuse_too_short(ended["samples"], opened.manifest, input or input_command)


def _refuse_beside_config(context: typer.Context) -> None:
    """InputError for an option that the site file has a place for, where it was given on the command line."""
    beside = {"config", "check", "as_json", "jsonl", "workspace"}
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in beside and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{option.opts[0]}: is said in the site file with --config; leave it out")


def _refuse_beside_outputs(duration: float | None, no_reopen: bool) -> None:
    for name, given in {"--duration": duration is not None, "--no-reopen": no_reopen}.items():
        if given:
            raise InputError(f"{name}: is not for a service, which --mqtt and --metrics begin; leave it out")


def _listen(session: Session, choice: dict[str, Any], sink: TextIO | None, rate: int) -> Record:
    """Load, listen and stop, whatever ends it; returns the end record."""
    from edgeasd.runtime.service.terminal import TerminalView

    view = None if sink is sys.stdout else TerminalView(sys.stdout, rate, standing=session.standing)
    reason = "error"
    try:
        started = session.load(**choice)
        print(_introduction(started), file=sys.stderr, flush=True)
        write_record(sink, started)
        listener = session.listener
        assert listener is not None

        def emit(record: Record) -> None:
            write_record(sink, record)
            if view is not None:
                view.update(record, listener.level)

        session.listen(emit, defer_signals)
        reason = END_OF_SOUND
    except KeyboardInterrupt:
        reason = "Ctrl-C"
        raise
    except _Terminated:
        reason = "SIGTERM"
    finally:
        ended = session.stop(reason)
        if any(ended[name] for name in ("dropped_samples", "overruns", "reopened", "skipped_segments")):
            text = "{dropped_samples} samples dropped, {overruns} overruns, reopened {reopened} times"
            text += ", {skipped_segments} segments skipped" if ended["skipped_segments"] else ""
            print(f"edgeasd: {text.format(**ended)}", file=sys.stderr)
        # Before the view: a reader that has left standard output must not cost the log its last line.
        write_record(sink, ended)
        if view is not None:
            view.close()
    return ended


def _introduction(record: Record) -> str:
    limit = "uncalibrated, no alarms" if record["threshold"] is None else f"threshold {record['threshold']:.4f}"
    return (
        f"edgeasd: {record['machine']} ID {record['id']} from {record['source']}; "
        f"{record['precision']} on {record['engine']}, accelerator {record['accelerator']}; {limit}"
    )


def _refuse_too_short(samples: int, manifest: Any, input: str | None) -> None:
    need = manifest.features.sample_count(manifest.segments.frames)
    if samples < need:
        missing = need - samples
        raise InputError(
            f"{input or 'source'}: ended after {samples} samples; the first score takes {need}, "
            f"{missing} ({missing / manifest.features.sample_rate:.2f} s) more; use a longer recording"
        )


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM an exception for the time of the block, so that everything is flushed and closed."""

    def stop(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Terminated:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
