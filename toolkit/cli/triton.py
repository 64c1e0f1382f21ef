"""edgeasd triton, and what `edgeasd export --triton` shares with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeasd.toolkit.cli._errors import interruptible
from edgeasd.toolkit.cli._options import AsJson

if TYPE_CHECKING:
    from edgeasd.export.triton import TritonOptions

Repository = Annotated[
    Path | None,
    typer.Option("--triton", metavar="DIR", help="Also write, or add to, a Triton model repository in this folder."),
]


def triton(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle folders or zips.")],
    output: Annotated[Path, typer.Option(help="Model repository: a new or empty folder, or one made by this command.")],
    platform: Annotated[
        str, typer.Option(help="onnx, or tensorrt with an engine that `edgeasd build` made on the server.")
    ] = "onnx",
    precision: Annotated[str | None, typer.Option(help="A precision that suits the platform; fp32 by default.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="Most segments in one batch.")] = 64,
    queue_delay: Annotated[
        int, typer.Option(min=0, max=10_000_000, help="Microseconds a request may wait for others.")
    ] = 5000,
    instances: Annotated[int, typer.Option(min=1, max=64, help="Copies of each encoder.")] = 1,
    kind: Annotated[str, typer.Option(help="Where encoders run: gpu or cpu.")] = "gpu",
    as_json: AsJson = False,
) -> None:
    """Write bundles as a model repository for a Triton server.

    Each bundle becomes an encoder, a head and the ensemble of both that clients ask. Other models in the
    repository stay; a bundle that is there already gets the next version.

    Example: edgeasd triton bundles/valve-id_00 --output models
    """
    from edgeasd.export.triton import TritonOptions

    options = TritonOptions(platform, precision, max_batch, queue_delay, instances, kind)
    serve(bundles, output, as_json, options)


def serve(bundles: Sequence[Path], folder: Path, as_json: bool, options: TritonOptions | None = None) -> None:
    """Write the repository and say what is in it: a line, or with --json an object, for each bundle."""
    from dataclasses import asdict

    from edgeasd.export.triton import write_repository

    with interruptible() as check:
        served = write_repository(bundles, folder, options, lambda text: _step(text, check))
    for model in served:
        if as_json:
            print(json.dumps({"repository": str(folder), **asdict(model)}))
            continue
        what = f"{model.platform} {model.precision}, batches up to {model.max_batch}"
        print(f"{folder / model.name}: {model.machine} ID {model.id}, version {model.version}, {what}")


def _step(text: str, check: Callable[[], None]) -> None:
    check()
    print(f"edgeasd: {text}", file=sys.stderr)
