"""The command line. Each command is a module of its own and imports what is heavy when it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

import edgeasd
from edgeasd.toolkit.cli import (
    accept,
    alarm,
    alpha,
    bench,
    build,
    calibrate,
    compare,
    data,
    demo,
    devices,
    doctor,
    encoders,
    evaluate,
    events,
    export,
    finetune,
    grow,
    history,
    preset,
    record,
    reproduce,
    run,
    score,
    seeds,
    status,
    threshold,
    train,
    triton,
    verify,
)
from edgeasd.toolkit.cli._errors import handle_errors, handle_signals, prepare_streams, print_error

app = typer.Typer(
    name="edgeasd",
    help="Hear a valve, fan or pump, and say early that it no longer sounds normal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(edgeasd.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options that come before the command."""


for _name, _command in (
    ("demo", demo.demo),
    ("train", train.train),
    ("finetune", finetune.finetune),
    ("alpha", alpha.alpha),
    ("evaluate", evaluate.evaluate),
    ("compare", compare.compare),
    ("seeds", seeds.seeds),
    ("reproduce", reproduce.reproduce),
    ("export", export.export),
    ("calibrate", calibrate.calibrate),
    ("grow", grow.grow),
    ("accept", accept.accept),
    ("triton", triton.triton),
    ("verify", verify.verify),
    ("build", build.build),
    ("doctor", doctor.doctor),
    ("bench", bench.bench),
    ("score", score.score),
    ("run", run.run),
    ("status", status.status),
    ("history", history.history),
    ("devices", devices.devices),
    ("record", record.record),
):
    app.command(_name)(_command)
app.add_typer(alarm.app, name="alarm")
app.add_typer(data.app, name="data")
app.add_typer(encoders.app, name="encoders")
app.add_typer(events.app, name="events")
app.add_typer(preset.app, name="preset")
app.add_typer(threshold.app, name="threshold")


def main() -> None:
    """Entry point of the `edgeasd` command."""
    prepare_streams()
    handle_signals()
    try:
        handle_errors(_run)(sys.argv[1:])
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    sys.exit(0)


def _run(arguments: list[str]) -> None:
    if "_EDGEASD_COMPLETE" in os.environ:
        app(prog_name="edgeasd")
    command = typer.main.get_command(app)
    try:
        # Not command.main(): it turns Ctrl-C and a closed pipe into exit code 1 before they can be handled.
        with command.make_context("edgeasd", arguments) as context:
            command.invoke(context)
    except Exception as error:
        # Complaints about options; the package of their classes differs between versions of typer.
        if not hasattr(error, "format_message"):
            raise
        _refuse_usage(error)


def _refuse_usage(error: Any) -> NoReturn:
    """One line for a missing or unknown option, as for every other wrong input."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        path = getattr(getattr(error, "ctx", None), "command_path", "edgeasd")
        print_error(f"{error.format_message().rstrip('.')}; see `{path} --help`")
    raise typer.Exit(int(error.exit_code))
