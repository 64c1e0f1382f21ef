"""edgeasd encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgeasd.toolkit.cli._errors import interruptible, print_error
from edgeasd.toolkit.cli._options import AsJson, TrustWeights
from edgeasd.toolkit.cli._output import print_table

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def list_encoders(context: typer.Context, as_json: AsJson = False) -> None:
    """List the pretrained encoders that are known, and which of them are here.

    An encoder is a network that has heard many sounds before. `train --encoder NAME` compares a machine with its
    stored normals through it. Cost is for 10 s of sound.

    Example: edgeasd encoders
    """
    if context.invoked_subcommand is not None:
        return
    from edgeasd.toolkit.encoders.table import ENCODERS, encoders_folder

    folder = encoders_folder()
    here = {name: (folder / one.file).is_file() for name, one in ENCODERS.items()}
    if as_json:
        print(
            json.dumps({"folder": str(folder), "encoders": [_facts(name, here[name]) for name in ENCODERS]}, indent=2)
        )
        return
    rows = [
        (
            name,
            "yes" if here[name] else "-",
            f"{one.parameters / 1e6:.1f} M",
            f"{one.macs / 1e9:.2g} GMAC" if one.macs < 1e10 else f"{one.macs / 1e9:.0f} GMAC",
            f"{one.size / 1e6:.0f} MB" if one.size else "?",
            f"{one.features.sample_rate // 1000} kHz, {one.features.n_mels} mel",
            one.licence,
            one.title if one.has_known_hash else f"{one.title} (hash not known)",
        )
        for name, one in ENCODERS.items()
    ]
    headings = ("encoder", "here", "size", "10 s cost", "file", "hears", "licence", "what it is")
    print_table(headings, rows, right=("size", "10 s cost", "file"), indent=0)
    print(f"\nweights: {folder}; get one with `edgeasd encoders fetch NAME`")


def _facts(name: str, is_here: bool) -> dict[str, object]:
    from edgeasd.toolkit.encoders.table import ENCODERS

    one = ENCODERS[name]
    return {
        "name": name,
        "title": one.title,
        "is_here": is_here,
        "file": one.file,
        "bytes": one.size,
        "sha256": one.sha256,
        "md5": one.md5,
        "licence": one.licence,
        "source": one.source,
        "url": one.url,
        "parameters": one.parameters,
        "macs_10_s": one.macs,
        "front_end": one.features.model_dump(),
    }


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="An encoder that `edgeasd encoders` lists.")],
    to: Annotated[
        Path | None,
        typer.Option(help="Folder for the file; that of EDGEASD_ENCODERS, else ~/.cache/edgeasd/encoders by default."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Another address of the same file, such as a mirror of your own.")
    ] = None,
    trust_weights: TrustWeights = False,
    as_json: AsJson = False,
) -> None:
    """Download the weights of a pretrained encoder from where its authors publish them.

    The only command that downloads anything. A download that broke off goes on where it stopped. The file takes its
    name when its hash is the published one.

    Example: edgeasd encoders fetch mn04
    """
    from edgeasd.toolkit.encoders.download import fetch as download
    from edgeasd.toolkit.encoders.table import encoder_named, encoders_folder
    from edgeasd.toolkit.progress import progress

    encoder = encoder_named(name, "encoders fetch")
    folder = encoders_folder() if to is None else to
    print_error(f"{encoder.title}, licence {encoder.licence}, from {url or encoder.url}")
    with (
        interruptible("stopped by Ctrl-C; the same command goes on where it stopped") as check,
        progress(encoder.file) as show,
    ):

        def report(done: int, total: int, text: str = "") -> None:
            check()
            show(done, total, text)

        path, sha256 = download(encoder, folder, report, url=url, trust_unknown=trust_weights)
    if as_json:
        print(json.dumps({"name": name, "file": str(path), "sha256": sha256, "is_known": encoder.has_known_hash}))
        return
    print(path)
    if not encoder.has_known_hash:
        print_error(f"taken on trust: no published hash is known; sha256 {sha256}")
