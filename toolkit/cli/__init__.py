"""The command line. Each command is a module of its own and imports what is heavy when it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

import edgeasd
from edgeasd.toolkit.cli import (
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
    evaluate,
    events,
    export,
    finetune,
    preset,
    record,
    reproduce,
    run,
    score,
    seeds,
    status,
    train,
    triton,
    verify,
)
from edgeasd.toolkit.cli._errors import handle_errors, print_error

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
    ("triton", triton.triton),
    ("verify", verify.verify),
    ("build", build.build),
    ("doctor", doctor.doctor),
    ("bench", bench.bench),
    ("score", score.score),
    ("run", run.run),
    ("status", status.status),
    ("devices", devices.devices),
    ("record", record.record),
):
    app.command(_name)(handle_errors(_command))
app.add_typer(alarm.app, name="alarm")
app.add_typer(data.app, name="data")
app.add_typer(events.app, name="events")
app.add_typer(preset.app, name="preset")


def main() -> None:
    """Entry point of the `edgeasd` command."""
    # Closed by who started us, as some init scripts do: Python then has None there.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # A pipe or file may have another encoding; names and messages are UTF-8 and must not crash there.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Commands guard themselves; help pages come from outside of them.
        code = handle_errors(app)(standalone_mode=False)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except Exception as error:
        # Typer's own complaints about options: which package their classes live in changes with its version.
        if not hasattr(error, "format_message"):
            raise
        sys.exit(_wrong_use(error))
    finally:
        _forget_interrupts()
    sys.exit(code if isinstance(code, int) else 0)


def _forget_interrupts() -> None:
    """Keep CPython from replacing the exit code by death from SIGINT.

    A Ctrl-C that arrives inside `exec` of a text (an import of a library that generates code, say) leaves a mark
    that `python -m` obeys at its very end, though the exception was handled; evaluating any text clears it.
    """
    eval("0")  # noqa: S307 - a constant


def _wrong_use(error: Any) -> int:
    """One line for a missing or unknown option, as for every other wrong input; returns the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        path = getattr(getattr(error, "ctx", None), "command_path", "edgeasd")
        print_error(f"{error.format_message().rstrip('.')}; see `{path} --help`")
    return int(error.exit_code)
