"""edgeasd doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeasd.toolkit.cli._options import AsJson

DEVICE_NOT_AVAILABLE = 3


def doctor(
    root: Annotated[
        Path, typer.Option(help="Look at a mounted image or a copy of system files below this folder.", metavar="DIR")
    ] = Path("/"),
    venv: Annotated[
        str | None,
        typer.Option(help="With --root: the virtual environment in it that will run edgeasd.", metavar="DIR"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Look also at what the service of this site.toml keeps in its data folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything around edgeasd that it depends on.

    Board and JetPack, Python, TensorRT, GPU, power, memory, ONNX Runtime, sound, permissions, storage and time. What
    could be better comes with the reason and the command that mends it. Changes nothing. Exit code 3 where
    something is a problem, 0 otherwise: what this machine lacks and does not need is no problem.

    Example: edgeasd doctor
    """
    import edgeasd
    from edgeasd.runtime.doctor import examine, worst
    from edgeasd.toolkit.cli.doctor_table import print_findings
    from edgeasd.toolkit.progress import progress

    # A provider that builds an engine first may take a minute or two.
    with progress("doctor") as report:
        findings = examine(root, venv, report)
    if config is not None:
        from edgeasd.runtime.config import read_config
        from edgeasd.runtime.doctor.service import check_service

        findings += check_service(read_config(config).data)
    if as_json:
        fields = ("area", "name", "state", "found", "why", "command")
        listed = [{field: getattr(found, field) for field in fields} for found in findings]
        facts = {"type": "doctor", "version": 1, "edgeasd": edgeasd.__version__, "root": str(root)}
        print(json.dumps({**facts, "worst": worst(findings), "findings": listed}, indent=2))
    else:
        print_findings(findings, root)
    if worst(findings) == "problem":
        raise typer.Exit(DEVICE_NOT_AVAILABLE)
