"""The command line. Each command is a module of its own, imported when it is asked for; what is heavy when it runs."""

from __future__ import annotations

import os
import sys
from collections import ChainMap
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
import typer.core

import edgeasd
from edgeasd.toolkit.cli._errors import handle_errors, handle_signals, prepare_streams, print_error

_COMMANDS = (
    *("demo", "train", "finetune", "alpha", "evaluate", "compare", "seeds", "reproduce", "export", "calibrate"),
    *("grow", "accept", "triton", "verify", "build", "doctor", "bench", "score", "run", "status", "history"),
    *("devices", "record"),
)
"""Each is a function in the module of its name, in the order of `edgeasd --help`."""
_GROUPS = ("alarm", "data", "encoders", "events", "preset", "threshold")
"""Each is the `app` of the module of its name."""


@cache
def _command(name: str) -> Any:
    module = import_module(f"edgeasd.toolkit.cli.{name}")
    alone = typer.Typer(rich_markup_mode=None)
    if name in _GROUPS:
        alone.add_typer(module.app, name=name)
    else:
        alone.command(name)(getattr(module, name))
    return typer.main.get_group(alone).commands[name]


class _Commands(Mapping[str, Any]):
    """Commands by name. A device starts `run` often enough: it should not wait for the imports of all the others."""

    def __getitem__(self, name: str) -> Any:
        if name not in (*_COMMANDS, *_GROUPS):
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter((*_COMMANDS, *_GROUPS))

    def __len__(self) -> int:
        return len(_COMMANDS) + len(_GROUPS)


class _RootGroup(typer.core.TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = ChainMap(self.commands, _Commands())  # type: ignore[arg-type]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  typer's name
        return list(self.commands)


app = typer.Typer(
    name="edgeasd",
    cls=_RootGroup,
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
