"""edgeasd run: the service in the foreground, for systemd or a terminal; without a site file with one stream."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.toolkit.cli._errors import BAD_INPUT, INTERRUPTED, print_error
from edgeasd.toolkit.cli._options import (
    AlsaBackend,
    AlsaFormat,
    Build,
    Channel,
    EngineOptions,
    InputCommand,
    Mix,
    NoReopen,
    Once,
    PcmChannels,
    PcmFormat,
    ResampleLive,
    Workspace,
    expand_options,
    find_bundle,
)

if TYPE_CHECKING:
    from edgeasd.runtime.bundle.manifest import Manifest
    from edgeasd.runtime.config import ConfigReport, ServiceConfig
    from edgeasd.runtime.service.jsonl_records import RecordWriter
    from edgeasd.runtime.service.live_view import LiveView
    from edgeasd.runtime.service.service import Service

_POLL_SECONDS = 0.1
USERNAME, PASSWORD = "EDGEASD_MQTT_USERNAME", "EDGEASD_MQTT_PASSWORD"
"""Environment variables for the broker: every user of the device could read them on the command line."""
_HEADER = """\
# Written by `edgeasd run`, and again by the next run with this bundle and --mqtt or --metrics.
# To change more than its options can say, copy it and use `edgeasd run --config`.
"""


@expand_options
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
            metavar="URL", help="Run as a service that sends to this broker: mqtt://HOST:PORT or mqtts://HOST:PORT."
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
    *,
    compute: EngineOptions,
    build: Build = False,
    alsa_backend: AlsaBackend = "auto",
    alsa_format: AlsaFormat = "auto",
    config: Annotated[
        Path | None, typer.Option(help="Run the service that this site.toml describes; everything else is set there.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --config: look everything over, and start nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: machine-readable.")] = False,
    off_below: Annotated[
        str | None,
        typer.Option(
            metavar="DBFS",
            help="Level below which the machine is off; none for no such level. That of the bundle by default.",
        ),
    ] = None,
    schedule: Annotated[
        list[str] | None,
        typer.Option(help='Shift such as "Mon-Fri 06:00-22:00", in local time; off outside of all that are given.'),
    ] = None,
    log_level: Annotated[
        str, typer.Option(help="What is logged on standard error: debug, info, warning or error.")
    ] = "info",
) -> None:
    """Listen to a machine, score it, raise alarms.

    An alarm is raised when several clip scores in a row lie above the threshold of the bundle; none from unhealthy
    input. Shows alarm, score, health, level, latency and losses, and writes JSON lines with --jsonl. With --mqtt or
    --metrics it is a service of one stream, with stored events, evidence and outputs; with --config one of many.

    Example: edgeasd run --device hw:1 --bundle bundles/valve-id_00
    """
    gc.disable()
    _check_log_level(log_level)
    if config is not None:
        _refuse_beside_config(context)
        if check:
            _check(config, as_json)
        else:
            serve(_open_config(config), jsonl, log_level)
        return
    if check or as_json:
        raise InputError("--check and --json: are for --config; name a site file with it")
    source: dict[str, Any] = {"device": device, "input": input, "input_command": input_command}
    source |= {"channel": channel, "mix": mix}
    source |= {"resample": resample, "realtime": realtime, "loop": loop, "skip_bad": skip_bad, "once": once}
    source |= {"pace": pace, "format": pcm_format, "channels": pcm_channels}
    source |= {"alsa_backend": alsa_backend, "alsa_format": alsa_format}
    source["states"] = _states(off_below, schedule)
    is_service = mqtt is not None or metrics is not None
    if is_service:
        _refuse_beside_outputs(duration, no_reopen, input)
    _check_source(source)

    from edgeasd.runtime.bundle.bundle import Bundle

    with Bundle(find_bundle(bundle, workspace)) as opened:
        path, manifest = opened.path, opened.manifest
        if build:
            from edgeasd.toolkit.cli.build import build_missing

            # Before the source is opened: minutes of sound would not fit into any buffer.
            build_missing(
                opened, compute.precision, compute.engine, compute.accelerator, compute.head, compute.front_end
            )
    tables = _tables(path, manifest, source, vars(compute))
    if is_service:
        (stream,) = tables["streams"].values()
        if "input" in stream:
            # Relative paths of a site file are taken from its folder.
            stream["input"] = str(Path(stream["input"]).absolute())
        tables["outputs"] = _outputs(mqtt, metrics)
        described = _write_config(workspace / "service" / path.stem / "site.toml", tables)
        print(f"edgeasd: a service of one stream, described in {described.path}", file=sys.stderr, flush=True)
    else:
        described = _single_run(path, tables, duration, reopen=not no_reopen)
    serve(described, jsonl, log_level)


# What runs


def _check_log_level(level: str) -> None:
    from edgeasd.runtime.system.logs import LEVELS

    if level not in LEVELS:
        raise InputError(f"--log-level {level}: unknown; use {', '.join(LEVELS)}")


def _refuse_beside_config(context: typer.Context) -> None:
    """InputError for an option of the command line that the site file has a place for."""
    beside = {"config", "check", "as_json", "jsonl", "workspace", "log_level"}
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in beside and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{option.opts[0]}: is set in the site file with --config; leave it out")


def _refuse_beside_outputs(duration: float | None, no_reopen: bool, input: str | None) -> None:
    for name, is_given in {"--duration": duration is not None, "--no-reopen": no_reopen}.items():
        if is_given:
            raise InputError(f"{name}: is not for a service, which --mqtt and --metrics begin; leave it out")
    if input == "-":
        raise InputError("--input -: a service has no standard input; give --input-command 'cat PIPE'")


def _check_source(given: Mapping[str, Any]) -> None:
    """Refuse options that do not go together, in the words of the command line."""
    from edgeasd.runtime.sources.capture import PACES
    from edgeasd.runtime.sources.open import SourceSettings, check_source

    pace = given["pace"]
    if pace not in (None, *PACES):
        raise InputError(f"--pace {pace}: unknown; use {' or '.join(PACES)}")
    if given["mix"] and given["channel"] is not None:
        raise InputError("--channel and --mix exclude each other; pass one of them")
    if given["alsa_backend"] == "pyalsaaudio":
        raise InputError("--alsa-backend pyalsaaudio: pyalsaaudio is gone; arecord is used, leave it out")
    names = {"format": "pcm_format", "channels": "pcm_channels"}
    others = ("alsa_backend", "states")
    settings = {names.get(name, name): value for name, value in given.items() if name not in others}
    check_source(SourceSettings(**settings))


def _tables(bundle: Path, manifest: Manifest, source: Mapping[str, Any], engine: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a site file for one stream; what is None or False is left out."""
    kind = manifest.machine.type
    name = kind if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", kind) else "machine"
    stream = {"bundle": str(bundle.absolute()), "engine": "run", **source}
    host = "".join(c for c in socket.gethostname() if c.isalnum() or c in "._-")[:64] or "device"
    return {"site": host, "engines": {"run": _given(engine)}, "streams": {name: _given(stream)}}


def _states(off_below: str | None, schedule: list[str] | None) -> dict[str, Any] | None:
    """The `states` table of the stream; None without one."""
    from edgeasd.runtime.states import Schedule

    table: dict[str, Any] = {}
    if off_below == "none":
        table["level"] = False
    elif off_below is not None:
        try:
            table["off_below_dbfs"] = float(off_below)
        except ValueError:
            raise InputError(
                f"--off-below {off_below}: neither a level in dBFS nor none; give one such as -45"
            ) from None
        if not -120.0 <= table["off_below_dbfs"] <= 0.0:
            raise InputError(f"--off-below {off_below}: outside -120 to 0 dBFS; give a level such as -45")
    if schedule:
        try:
            Schedule.parse(schedule)
        except ValueError as error:
            raise InputError(f"--schedule: {str(error).removeprefix('schedule ')}") from None
        table["schedule"] = list(schedule)
    return table or None


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None and value is not False}


def _outputs(mqtt: str | None, metrics: str | None) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    if mqtt is not None:
        outputs["mqtt"] = {"type": "mqtt", "url": mqtt, **_credentials()}
    if metrics is not None:
        outputs["metrics"] = {"type": "prometheus", "address": metrics}
    return outputs


def _credentials() -> dict[str, Any]:
    user = os.environ.get(USERNAME)
    if user is None:
        if PASSWORD in os.environ:
            raise InputError(f"{PASSWORD}: is set without {USERNAME}; set both")
        return {}
    return {"username": user, **({"password_env": PASSWORD} if PASSWORD in os.environ else {})}


def _single_run(bundle: Path, tables: dict[str, Any], duration: float | None, *, reopen: bool) -> ServiceConfig:
    """The configuration of a run without a data folder: alarms by the rule of the bundle and nothing else."""
    from pydantic import ValidationError

    from edgeasd.runtime.alarms import AlarmSettings
    from edgeasd.runtime.config.settings import EngineSettings, ServiceConfig, ServiceSettings, StreamSettings
    from edgeasd.runtime.errors import describe_validation_error

    ((name, stream),) = tables["streams"].items()
    try:
        checked = StreamSettings.model_validate({**stream, "alarm": AlarmSettings(), "bundle": str(bundle)})
    except ValidationError as error:
        raise InputError(_option_words(describe_validation_error(error, StreamSettings))) from None
    # Not validated here: what opens the engine refuses it in the words of the command line. And no validator is
    # built for outputs that are not there.
    engines = {"run": EngineSettings.model_construct(**tables["engines"]["run"])}
    settings = ServiceSettings.model_construct(site=tables["site"], engines=engines, streams={name: checked})
    return ServiceConfig(
        None, settings, Path(), has_data=False, limit_seconds=duration, wait_for_source=False, reopen=reopen
    )


def _option_words(problem: str) -> str:
    """A problem of a table in the words of the command line."""
    place, _, rest = problem.partition(" ")
    return f"--{place.rpartition('.')[2].rstrip(':').replace('_', '-')} {rest}"


def _write_config(path: Path, tables: Mapping[str, Any]) -> ServiceConfig:
    """Write the tables as a site file, for the alarm commands and as a first one to change. Returns it as read."""
    from edgeasd.runtime.config import parse_config
    from edgeasd.runtime.system.files import write_bytes

    try:
        text = (_HEADER + "\n".join(_toml_lines(tables, "")) + "\n").encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object!r}: its name is not UTF-8; rename it") from None
    try:
        config = parse_config(text, path)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{path}: ")) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text)
    return config


def _toml_lines(table: Mapping[str, Any], name: str) -> Iterator[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if name and values:
        yield f"\n[{name}]"
    for key, value in values.items():
        yield f"{key} = {toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml_lines(value, f"{name}.{key}" if name else key)


def toml_value(value: str | int | bool | list[str]) -> str:
    """A value in TOML 1.0. JSON writes strings, numbers and true alike, except DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# --check


def _check(path: Path, as_json: bool) -> None:
    """Look a site file over; one line for each problem, and exit code 2 if there is one."""
    from edgeasd.runtime.config import check_config, error_of_file, read_config

    try:
        report = check_config(read_config(path))
    except InputError as error:
        if as_json:
            found = [error_of_file(str(path), str(error)).to_json()]
            print(json.dumps({"site": None, "data": None, "streams": [], "outputs": {}, "problems": found}, indent=2))
        raise
    print(json.dumps(report.to_json(), indent=2) if as_json else _report_text(report))
    for problem in report.problems:
        print_error(f"{path}: {problem}")
    if report.problems:
        raise typer.Exit(BAD_INPUT)


def _open_config(path: Path) -> ServiceConfig:
    """A site file, looked over. A stream that cannot run is reported; anything else is an InputError."""
    from edgeasd.runtime.config import check_config, read_config

    config = read_config(path)
    report = check_config(config)
    if report.fatal is not None:
        count = len(report.problems)
        more = f" (and {count - 1} more: pass --check to see them)" if count > 1 else ""
        raise InputError(f"{path}: {report.fatal}{more}")
    for problem in report.problems:
        print_error(f"{path}: {problem}")
    return config


def _report_text(report: ConfigReport) -> str:
    lines = [f"site {report.site}, data in {report.data}"]
    for one in report.streams:
        limit = "no threshold, no alarms" if one.threshold is None else f"alarm above {one.threshold:.4f}"
        engine = f"{one.precision} on {one.engine}, {one.accelerator}"
        lines.append(f"  {one.name}: {one.machine} ID {one.id} from {one.source} ({one.paced}); {engine}; {limit}")
    for name, kind in report.outputs.items():
        lines.append(f"  output {name}: {kind}")
    return "\n".join(lines)


# --jsonl


def open_records(jsonl: str) -> Callable[[], TextIO]:
    """Check where JSON lines are to go, and return what opens it: "-" is standard output.

    Raises InputError if the folder is missing or the file holds something else.
    """
    if jsonl == "-":
        # A file name that is not UTF-8 becomes the escapes that JSON has for it; a line is text for every reader.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        return lambda: sys.stdout
    path = Path(jsonl)
    if not path.parent.is_dir():
        raise InputError(f"--jsonl {path}: no such folder {path.parent}; make it first")
    if path.is_dir():
        raise InputError(f"--jsonl {path}: is a folder; name a file")
    _refuse_other_content(path)
    return lambda: _append_to(path)


def _append_to(path: Path) -> TextIO:
    from edgeasd.runtime.system.files import partial_last_line

    try:
        handle = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  closed by its writer
        # The next record must not be glued to half a line; a pipe has none.
        if path.is_file():
            with open(path, "rb") as before:
                if partial_last_line(before.fileno(), 1):
                    handle.write("\n")
    except OSError as error:
        error.filename = f"--jsonl {path}"
        raise
    return handle


def _refuse_other_content(path: Path) -> None:
    """Records are appended only to records: a wrong name must not spoil a recording, a bundle or a site file."""
    if not path.is_file():
        return
    with open(path, "rb") as handle:
        line = handle.readline(1 << 16)
    first = line.strip(b"\0\r\n")
    try:
        holds_records = not first or isinstance(json.loads(first), dict)
    except ValueError:
        # Half a record after a power cut is ours. A brace alone on its line begins any other JSON.
        begin = b'{"schema": '
        is_torn = begin.startswith(first) and (len(first) > 1 or not line.endswith(b"\n"))
        holds_records = is_torn or first.startswith(begin)
    if not holds_records:
        raise InputError(f"--jsonl {path}: holds something else than JSON lines; name another file")


# The service in the foreground


def serve(config: ServiceConfig, jsonl: str | None, log_level: str = "info") -> None:
    """Run the service until every stream has ended, or SIGTERM or Ctrl-C."""
    from edgeasd.runtime.service.jsonl_records import RecordWriter
    from edgeasd.runtime.service.service import Service
    from edgeasd.runtime.service.stream import END_OF_SOUND
    from edgeasd.runtime.sources import kill_commands
    from edgeasd.runtime.system.logs import start_logging

    start_logging(log_level)
    # What is imported by now lives as long as the process. To collect garbage among it takes 26 ms, each time.
    gc.freeze()
    gc.enable()
    records = None if jsonl is None else RecordWriter(open_records(jsonl))
    service = Service(config, records)
    out = None if jsonl == "-" else sys.stdout
    failure: BaseException | None = None
    with _signals() as requests:
        reason = "error"
        try:
            service.start()
            reason = _watch(service, requests, out, records)
        except (EdgeasdError, OSError) as error:
            failure = error
        is_whole = _end(service, records, reason, requests)
    if not is_whole:
        print_error("a thread had to be left behind; what outputs could not deliver waits in the data folder")
        code = INTERRUPTED if requests.interrupted else 0
        if isinstance(failure, EdgeasdError):
            print_error(str(failure))
            code = failure.exit_code
        if out is not None:
            sys.stdout.flush()
        # Nothing runs at the end of the process that would give a command a second to end.
        kill_commands()
        # A thread may be deep in a library that does not bear the interpreter's end; all files are closed.
        os._exit(code)
    if failure is not None:
        raise failure
    if records is not None and records.failure is not None:
        raise records.failure
    failures = service.supervisor.failures() if reason == END_OF_SOUND else []
    if failures and config.path is None:
        raise failures[0][1]
    if out is not None:
        _print_summary(service, out)
    if requests.interrupted:
        raise KeyboardInterrupt
    if failures:
        raise InputError("; ".join(f"{name}: {error}" for name, error in failures))


def _print_summary(service: Service, out: TextIO) -> None:
    from edgeasd.runtime.service.live_view import summary

    for stream in service.supervisor.statuses():
        if stream.segments:
            print(summary(stream), file=out)


class _Requests:
    """What signals have asked for.

    A handler runs in the middle of whatever the main thread does, so it may take no lock that the main thread may
    hold. An Event has one, the `put` of a SimpleQueue has none.
    """

    def __init__(self) -> None:
        self.interrupted, self.end, self.reload = False, False, False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """Something was requested. For handlers."""
        self._wake.put(None)

    def wait(self, seconds: float) -> None:
        """Until something is requested, or for so long."""
        with suppress(Empty):
            self._wake.get(timeout=seconds)


@contextmanager
def _signals() -> Iterator[_Requests]:
    requests = _Requests()

    def end(number: int, _: object) -> None:
        requests.interrupted, requests.end = number == signal.SIGINT, True
        requests.wake()

    def reload(*_: object) -> None:
        requests.reload = True
        requests.wake()

    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(service: Service, requests: _Requests, out: TextIO | None, records: RecordWriter | None) -> str:
    """Look after the running service; returns why it ends."""
    from edgeasd.runtime.service.live_view import LiveView
    from edgeasd.runtime.service.stream import END_OF_SOUND
    from edgeasd.runtime.service.systemd import SystemdNotifier

    notifier = SystemdNotifier()
    view = None if out is None else LiveView(out)
    is_ready, is_reloading = False, False
    try:
        while service.poll():
            requests.wait(_POLL_SECONDS)
            if requests.end:
                return "Ctrl-C" if requests.interrupted else "SIGTERM"
            if requests.reload:
                requests.reload = False
                if service.config.path is None:
                    return "SIGHUP"  # its terminal is gone
                notifier.reloading()
                service.reload()
                is_reloading = True
            if records is not None and records.failure is not None:
                return "records cannot be written"
            now = time.monotonic()
            config = service.config
            if (service.is_loaded and not is_ready) or (is_reloading and not service.is_reloading):
                is_ready, is_reloading = True, False
                notifier.ready(f"{config.name}: {len(config.streams)} streams")
            if service.is_healthy(now):
                notifier.watchdog(now)
            if view is not None and view.is_due(now):
                _show(service, view, now)
        if view is not None:
            _show(service, view, time.monotonic())
        return END_OF_SOUND
    finally:
        notifier.stopping()
        if view is not None:
            view.close()


def _show(service: Service, view: LiveView, now: float) -> None:
    status = service.status()
    # The error that ends a single run is its last line, and its only one.
    if service.config.path is not None or not service.supervisor.is_failing:
        view.update(status, now)


def _end(service: Service, records: RecordWriter | None, reason: str, requests: _Requests) -> bool:
    """Stop the service and write what is left. False if a thread had to be left behind."""
    from edgeasd.runtime.service.service import STOP_SECONDS
    from edgeasd.runtime.service.stream import END_OF_SOUND

    until = time.monotonic() + STOP_SECONDS
    is_whole = service.stop(reason)
    if records is None:
        return is_whole
    written = records.close(max(0.3, until - time.monotonic()))
    # Nothing waits for the service at the end of files: they are to have all of their records.
    while not written and reason == END_OF_SOUND and not requests.end:
        written = records.close(2 * _POLL_SECONDS)
    return is_whole and written
