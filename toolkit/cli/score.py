"""edgeasd score."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import InputError, escaped
from edgeasd.toolkit.cli._errors import print_error
from edgeasd.toolkit.cli._options import (
    AsJson,
    Build,
    Channel,
    EngineOptions,
    Mix,
    Resample,
    SkipBad,
    expand_options,
)

if TYPE_CHECKING:
    from edgeasd.runtime.features.logmel import Float32Array
    from edgeasd.runtime.scoring.clip import ClipScore

_SUFFIXES = (".wav", ".flac")


@expand_options
def score(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder or zip.")],
    files: Annotated[list[Path], typer.Argument(help="WAV or FLAC files, or folders of them.")],
    live: Annotated[
        bool, typer.Option("--live", help="The live rule: a JSON record for every segment, as from `run`.")
    ] = False,
    tile: Annotated[
        bool, typer.Option("--tile", help="Repeat a clip that is shorter than a segment until it fills one.")
    ] = False,
    anchored: Annotated[bool, typer.Option("--anchored", help="Let the last segment end with the clip.")] = False,
    segments: Annotated[bool, typer.Option("--segments", help="Add every segment's values (with --json).")] = False,
    *,
    compute: EngineOptions,
    build: Build = False,
    channel: Channel = None,
    mix: Mix = False,
    resample: Resample = False,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Score recordings with a bundle, one line for each.

    CSV with a header, or a JSON object a line with --json. A score is the mean over ten segments spread
    over the recording. All files are checked before the first is scored.

    Example: edgeasd score bundles/valve-id_00 recordings/*.wav
    """
    from edgeasd.runtime.audio.reader import read_audio
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.scoring.clip import score_sound
    from edgeasd.runtime.service.jsonl_records import engine_info
    from edgeasd.runtime.service.stream import live_records

    if live and (tile or anchored or segments):
        raise InputError("--live: goes by the live rule, segment by segment; leave out --tile, --anchored, --segments")
    paths = list(expand(files))
    with Bundle(bundle) as opened:
        manifest = opened.manifest
        rate, need = manifest.features.sample_rate, manifest.features.sample_count(manifest.segments.frames)

        def load(path: Path, on_note: Callable[[str], object] | None = None) -> Float32Array:
            sound = read_audio(
                path,
                sample_rate=rate,
                channel=channel,
                mix=mix,
                resample=resample,
                recorded_rate=manifest.features.recorded_rate,
                on_note=on_note,
            )
            if sound.size < need and not tile:
                raise InputError(_too_short(path, need - sound.size, need, rate))
            return sound

        if not skip_bad:
            _check_all(paths, load)
        if build:
            from edgeasd.toolkit.cli.build import build_missing

            build_missing(
                opened, compute.precision, compute.engine, compute.accelerator, compute.head, compute.front_end
            )
        scorer, _ = opened.open_scorer(**vars(compute))
        print("edgeasd: {precision} on {engine}".format(**engine_info(scorer)), file=sys.stderr)
        output = _Output(as_json or live)
        for path in paths:
            try:
                sound = load(path, print_error)
                states = _judge(path, sound, rate, skip_bad)
            except InputError as error:
                print_error(f"left out: {error}")
                continue
            if live:
                for record in live_records(scorer, manifest, sound):
                    output.write({"file": str(path), **record})
                continue
            clip = score_sound(scorer, sound, tile_short=tile, anchored=anchored)
            above = None if manifest.threshold is None else bool(clip.score > manifest.threshold.clip)
            record = {"file": str(path), "score": clip.score, "segments": len(clip.starts)}
            record |= {"above_threshold": above, "tiled": clip.tiled}
            if as_json:
                record["health"] = list(states)
            if segments and as_json:
                record["values"] = _values(clip)
            output.write(record)
        scorer.close()


def _judge(path: Path, sound: Float32Array, rate: int, skip_bad: bool) -> tuple[str, ...]:
    """Health states of a recording, named on standard error. InputError for one to skip: it holds no machine's sound."""
    from edgeasd.runtime.health.clip import clip_states, describe_states, is_usable

    states = clip_states(sound, rate)
    if states and skip_bad and not is_usable(states):
        raise InputError(f"{path}: {describe_states(states)}")
    if states:
        print_error(f"{path}: {describe_states(states)}; its score says little of the machine")
    return states


class _Output:
    """CSV with a header, or one JSON object a line, flushed line by line so that a reader sees progress."""

    def __init__(self, as_json: bool) -> None:
        self._csv = None if as_json else csv.writer(sys.stdout, lineterminator="\n")
        self._begun = False

    def write(self, record: dict[str, Any]) -> None:
        if self._csv is None:
            print(json.dumps(record))
        else:
            if not self._begun:
                self._csv.writerow(record)
            if sys.stdout.isatty():  # programs get names as they are
                record = {**record, "file": escaped(record["file"])}
            self._csv.writerow(
                "" if v is None else str(v).lower() if isinstance(v, bool) else v for v in record.values()
            )
        self._begun = True
        sys.stdout.flush()


def _check_all(paths: list[Path], load: Callable[[Path], object]) -> None:
    """Read every file before the first score is printed; one InputError names all that cannot be used."""
    bad = []
    for path in paths:
        try:
            load(path)
        except InputError as error:
            bad.append(str(error))
    if len(bad) == 1:
        raise InputError(bad[0])
    if bad:
        listed = "; ".join(f"({i}) {line}" for i, line in enumerate(bad, start=1))
        raise InputError(
            f"{len(bad)} of {len(paths)} files cannot be scored; pass --skip-bad to leave them out: {listed}"
        )


def _too_short(path: Path, missing: int, need: int, rate: int) -> str:
    return (
        f"{path}: {missing} samples ({missing / rate:.2f} s) short of the {need} that one segment takes; "
        "use a longer recording or pass --tile"
    )


def expand(files: list[Path]) -> Iterator[Path]:
    """Files as given; for a folder the WAV and FLAC files below it, sorted. InputError for an empty folder."""
    for path in files:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))
        if not inside:
            raise InputError(f"{path}: a folder without WAV or FLAC files; name files or another folder")
        yield from inside


def _values(clip: ClipScore) -> list[dict[str, float]]:
    names = ("score", "q", "d", "d_prime", "logit")
    return [
        {"start_frame": start, **{name: float(getattr(clip.segments, name)[row]) for name in names}}
        for row, start in enumerate(clip.starts)
    ]
