"""edgeasd record."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import defer_signals
from edgeasd.toolkit.cli._options import AsJson, CaptureOptions, Machine, expand_options

if TYPE_CHECKING:
    from edgeasd.runtime.record import ClipFigures, ClipFolder, ClipRecorder
    from edgeasd.runtime.sources import Source

_BUFFER_SECONDS = 60
_COMPLETE, _END_OF_SOUND = "complete", "end of sound"
_REFRESH_SECONDS, _PLAIN_LINE_SECONDS = 0.1, 10.0


@expand_options
def record(
    source_options: CaptureOptions,
    machine: Machine,
    id: Annotated[str, typer.Option("--id", help="Machine ID, the folder below the machine's.")],
    minutes: Annotated[float, typer.Option(min=0.01, max=100_000, help="Minutes of clips to have in the end.")],
    output: Annotated[Path, typer.Option(help="Data root that the clips go to.")] = Path("recordings"),
    label: Annotated[str, typer.Option(help="normal, or anomaly for a fault that is there on purpose.")] = "normal",
    mode: Annotated[
        str | None, typer.Option(help="Mode that the machine runs in, such as fast; it is in the names of the clips.")
    ] = None,
    clip_seconds: Annotated[float, typer.Option(min=1.0, max=600.0, help="Length of a clip.")] = 10.0,
    rate: Annotated[int, typer.Option(min=4000, max=192_000, help="Sample rate in Hz; training wants 16000.")] = 16000,
    resume: Annotated[bool, typer.Option("--resume", help="Count the clips that are there and go on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Collect clips of a machine on site, in the layout that train reads.

    Writes OUTPUT/MACHINE/ID/normal/clip_000001.flac and so on, with a level meter on standard error. Clips
    that span lost sound are thrown away. Clips that are silent, clipped or offset are kept and named at the
    end, with exit code 1. Ctrl-C keeps every finished clip; --resume goes on later.

    Example: edgeasd record --device hw:1 --machine valve --id 00 --minutes 30
    """
    from edgeasd.runtime.health import HealthMonitor, HealthSettings
    from edgeasd.runtime.record import ClipFolder, ClipRecorder
    from edgeasd.runtime.sources import open_source

    if (source_options.device is None) == (source_options.input_command is None):
        raise InputError("one source is needed: pass either --device (such as hw:1) or --input-command")
    clips = ClipFolder(output, machine, id, label, sample_rate=rate, resume=resume, mode=mode)
    # The folder comes after the source: a source that is not there must not leave an empty folder.
    with closing(open_source(source_options.settings(), rate)) as source, clips as folder:
        clips_before, bits = folder.clips, source.status.bits or 24
        health = HealthMonitor(HealthSettings(), rate)
        recorder = ClipRecorder(folder, round(clip_seconds * rate), bits, round(minutes * 60 * rate), health)
        folder.check_disk(recorder.clips_left * recorder.clip_bytes)
        meter = LevelMeter(f"{machine} {folder.machine_id} {label}{'' if mode is None else f', {mode}'}")
        meter.print(f"edgeasd: {source.name} to {folder.path}, FLAC of {bits} bits; {clips_before} clips there")
        ended = "error"
        try:
            ended = _collect(source, folder, recorder, meter, rate)
        except KeyboardInterrupt:
            ended = "Ctrl-C"
            raise
        except SystemExit:
            ended = "SIGTERM"
            raise
        except CheckFailed:
            ended = "full disk"
            raise
        finally:
            meter.close()
            _print_summary(_summary(source, folder, recorder, clips_before, ended, rate), as_json)
    if names := sorted(recorder.totals.complaints):
        raise CheckFailed(
            f"{folder.path}: {len(names)} clips with complaints, the first is {names[0]} "
            f"({', '.join(recorder.totals.complaints[names[0]])}); listen to them, and delete what is no good"
        )


def _collect(source: Source, folder: ClipFolder, recorder: ClipRecorder, meter: LevelMeter, rate: int) -> str:
    """Record until there are enough clips, or the sound ends; returns which."""
    from edgeasd.runtime.record import measure
    from edgeasd.runtime.sources.capture import CaptureThread, SampleQueue

    queue = SampleQueue(_BUFFER_SECONDS * rate, "drop" if source.live else "block")
    capture = CaptureThread(source, queue)
    capture.start()
    try:
        while recorder.clips_left:
            # An exception of a signal handler inside a lock would leave it taken, or a clip uncounted.
            with defer_signals():
                chunk = queue.get(timeout=0.5)
                _print_events(source, meter)
                if chunk is not None:
                    for clip in recorder.accept(chunk, has_wrong_rate=bool(source.status.rate_fault)):
                        if clip.complaints:
                            meter.print(f"edgeasd: {clip.path.name}: {', '.join(clip.complaints)}")
                    seconds_left = recorder.seconds_left(rate)
                    meter.show(measure(chunk.samples), folder.clips, recorder.clips_left, seconds_left)
                elif queue.ended:
                    return _END_OF_SOUND
        return _COMPLETE
    finally:
        capture.stop()
        _print_events(source, meter)


def _print_events(source: Source, meter: LevelMeter) -> None:
    for event in source.take_events():
        lost = f"; {event.lost_seconds:.2f} s of sound lost" if event.lost_seconds else ""
        meter.print(f"edgeasd: {event.kind}: {event.detail}{lost}")


class LevelMeter:
    """Level, peak and progress on standard error: one live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._shown_at: float | None = None

    def show(self, figures: ClipFigures, clips: int, clips_left: int, seconds_left: float) -> None:
        """Show the level of the latest sound, at most ten times a second; in plain lines every ten seconds."""
        from rich.text import Text

        now = time.monotonic()
        pause = _REFRESH_SECONDS if self._is_live else _PLAIN_LINE_SECONDS
        if self._shown_at is not None and now - self._shown_at < pause:
            return
        self._shown_at = now
        filled = min(10, max(0, round((figures.level_dbfs + 60.0) / 6.0)))
        minutes, seconds = divmod(round(seconds_left), 60)
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{self._title}  clip {clips}/{clips + clips_left}  level {figures.level_dbfs:6.1f} dBFS ")
        line.append("█" * filled, "green").append("·" * (10 - filled), "dim")
        line.append(f"  peak {figures.peak_dbfs:6.1f}  {minutes}:{seconds:02d} left")
        if figures.complaints:
            line.append(f"  {', '.join(figures.complaints)}", "bold red")
        if not self._is_live:
            self.print(line.plain)
            return
        if not self._live.is_started:
            self._live.start()
        self._live.update(line, refresh=True)

    def print(self, text: str) -> None:
        """Print a line above the meter."""
        if self._live.is_started:
            self._console.print(text)
        else:
            # One write, so that lines of two writers do not mix.
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Remove the live line."""
        self._live.stop()


def _summary(
    source: Source, folder: ClipFolder, recorder: ClipRecorder, clips_before: int, ended: str, rate: int
) -> dict[str, Any]:
    totals, status = recorder.totals, source.status

    def rounded(level: float | None) -> float | None:
        return None if level is None else round(level, 1)

    return {
        "type": "record",
        "version": 1,
        "machine": folder.machine,
        "id": folder.machine_id,
        "label": folder.label,
        "mode": folder.mode,
        "folder": str(folder.path),
        "source": source.name,
        "ended": ended,
        "clips": totals.clips,
        "seconds": round(totals.samples / rate, 3),
        "clips_before": clips_before,
        "clips_left": recorder.clips_left,
        "level_dbfs": {"lowest": rounded(totals.lowest_dbfs), "highest": rounded(totals.highest_dbfs)},
        "clipped_share": totals.clipped / totals.samples if totals.samples else 0.0,
        "thrown_away": totals.thrown_away,
        "lost_seconds": round(totals.lost_samples / rate, 3),
        "losses": totals.losses,
        "overruns": status.overruns,
        "reopened": status.reconnects,
        "complaints": {name: list(states) for name, states in sorted(totals.complaints.items())},
    }


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, ensure_ascii=False), flush=True)
        return
    clips, level = summary["clips"], summary["level_dbfs"]
    lines = [f"{summary['folder']}: {clips} clips, {summary['seconds']:.0f} s, beside {summary['clips_before']} before"]
    if clips:
        lines.append(
            f"level {level['lowest']} to {level['highest']} dBFS, {100 * summary['clipped_share']:.3f} % clipped, "
            f"{len(summary['complaints'])} clips with complaints"
        )
    if summary["losses"]:
        lines.append(
            f"{summary['thrown_away']} clips thrown away for lost sound: {summary['losses']} gaps, "
            f"{summary['lost_seconds']:.2f} s, {summary['overruns']} overruns, reopened {summary['reopened']} times"
        )
    if summary["ended"] != _COMPLETE:
        lines.append(f"ended by {summary['ended']}, {summary['clips_left']} clips are missing; --resume goes on")
    print("\n".join(lines), flush=True)
