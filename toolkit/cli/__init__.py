"""The command line. Each command is a module of its own and imports what is heavy when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import edgeasd
from edgeasd.toolkit.cli import data, demo, evaluate, export, run, score, train, verify
from edgeasd.toolkit.cli.guard import guarded

app = typer.Typer(
    name="edgeasd",
    help="Hear a valve, fan or pump, and say early that it no longer sounds normal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print(edgeasd.__version__)
        raise typer.Exit


for _name, _command in (
    ("demo", demo.demo),
    ("train", train.train),
    ("evaluate", evaluate.evaluate),
    ("export", export.export),
    ("verify", verify.verify),
    ("score", score.score),
    ("run", run.run),
):
    app.command(_name)(guarded(_command))
app.add_typer(data.app, name="data")


def main() -> None:
    """Entry point of the `edgeasd` command."""
    # A pipe or file may have another encoding; names and messages are UTF-8 and must not crash there.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app()
