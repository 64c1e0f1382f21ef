"""edgeasd record."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.cli._errors import defer_signals
from edgeasd.toolkit.cli._options import (
    AlsaBackend,
    AlsaFormat,
    AsJson,
    Channel,
    InputCommand,
    Machine,
    Mix,
    NoReopen,
    Once,
    PcmChannels,
    PcmFormat,
    ResampleLive,
)
from edgeasd.toolkit.cli.record_summary import (
    COMPLETE,
    CTRL_C,
    DISK_FULL,
    END_OF_SOUND,
    SIGTERM,
    print_summary,
    summary,
)

if TYPE_CHECKING:
    from edgeasd.runtime.record import ClipFolder, Recorder
    from edgeasd.runtime.sources import Source
    from edgeasd.runtime.sources.capture import SampleQueue
    from edgeasd.toolkit.cli.level_meter import LevelMeter


def record(
    machine: Machine,
    id: Annotated[str, typer.Option("--id", help="Machine ID, the folder below the machine's.")],
    minutes: Annotated[float, typer.Option(min=0.01, max=100_000, help="Minutes of clips to have in the end.")],
    device: Annotated[
        str | None, typer.Option(help="ALSA capture device: hw:1, plughw:1,0 or any name that `edgeasd devices` lists.")
    ] = None,
    input_command: InputCommand = None,
    output: Annotated[Path, typer.Option(help="Data root that the clips go to.")] = Path("recordings"),
    label: Annotated[str, typer.Option(help="normal, or anomaly for a fault that is there on purpose.")] = "normal",
    clip_seconds: Annotated[float, typer.Option(min=1.0, max=600.0, help="Length of a clip.")] = 10.0,
    rate: Annotated[int, typer.Option(min=4000, max=192_000, help="Sample rate in Hz; training wants 16000.")] = 16000,
    resume: Annotated[bool, typer.Option("--resume", help="Count the clips that are there and go on.")] = False,
    channel: Channel = None,
    mix: Mix = False,
    resample: ResampleLive = False,
    alsa_backend: AlsaBackend = "auto",
    alsa_format: AlsaFormat = "auto",
    pcm_format: PcmFormat = "s16le",
    pcm_channels: PcmChannels = 1,
    once: Once = False,
    no_reopen: NoReopen = False,
    as_json: AsJson = False,
) -> None:
    """Collect clips of a machine on site, in the layout that train reads.

    Writes OUTPUT/MACHINE/ID/normal/clip_000001.flac and so on, with a level meter on standard error. Clips
    that span lost sound are thrown away. Clips that are silent, clipped or offset are kept and named at the
    end, with exit code 1. Ctrl-C keeps every finished clip; --resume goes on later.

    Example: edgeasd record --device hw:1 --machine valve --id 00 --minutes 30
    """
    from edgeasd.runtime.health import HealthMonitor, HealthSettings
    from edgeasd.runtime.record import ClipFolder, Recorder
    from edgeasd.runtime.sources import open_source
    from edgeasd.toolkit.cli.level_meter import LevelMeter

    if (device is None) == (input_command is None):
        raise InputError("one source is needed: pass either --device (such as hw:1) or --input-command")
    clips = ClipFolder(output, machine, id, label, sample_rate=rate, resume=resume)
    source = open_source(
        device=device,
        input_command=input_command,
        sample_rate=rate,
        channel=channel,
        mix=mix,
        resample=resample,
        once=once,
        reopen=not no_reopen,
        pcm_format=pcm_format,
        pcm_channels=pcm_channels,
        alsa_backend=alsa_backend,
        alsa_format=alsa_format,
    )
    # The folder comes after the source: a source that is not there leaves no empty folder.
    with closing(source), clips as folder:
        before = folder.clips
        bits, health = _bits(source, mix), HealthMonitor(HealthSettings(), rate)
        recorder = Recorder(folder, round(clip_seconds * rate), bits, round(minutes * 60 * rate), health)
        folder.check_disk(recorder.clips_left * recorder.clip_bytes)
        meter = LevelMeter(sys.stderr, f"{machine} {folder.machine_id} {label}")
        meter.say(f"edgeasd: {source.name} to {folder.path}, FLAC of {bits} bits; {before} clips there")
        ended = "error"
        try:
            ended = _collect(source, folder, recorder, meter, rate)
        except KeyboardInterrupt:
            ended = CTRL_C
            raise
        except SystemExit:
            ended = SIGTERM
            raise
        except CheckFailed:
            ended = DISK_FULL
            raise
        finally:
            meter.close()
            print_summary(summary(source, folder, recorder, before, ended, rate), as_json)
    if names := sorted(recorder.tally.complaints):
        raise CheckFailed(
            f"{folder.path}: {len(names)} clips with complaints, the first is {names[0]} "
            f"({', '.join(recorder.tally.complaints[names[0]])}); listen to them, and delete what is no good"
        )


def _bits(source: Source, mix: bool) -> int:
    """16 only where 16 bits hold the sound exactly: a mean and a resampled sound have more."""
    return 24 if mix or getattr(source, "converted", False) else int(getattr(source, "bits", 24))


def _collect(source: Source, folder: ClipFolder, recorder: Recorder, meter: LevelMeter, rate: int) -> str:
    """Record until there are enough clips, or the sound ends; returns which."""
    from edgeasd.runtime.record import measure
    from edgeasd.runtime.service.listen import BUFFER_SECONDS
    from edgeasd.runtime.sources.capture import Capture, SampleQueue

    queue = SampleQueue(BUFFER_SECONDS * rate, "drop" if source.live else "block")
    capture = Capture(source, queue)
    capture.start()
    try:
        while recorder.clips_left:
            block = _next_block(queue, source, meter)
            if block is None:
                return END_OF_SOUND
            with defer_signals():
                finished = recorder.accept(block)
            for clip in finished:
                if clip.complaints:
                    meter.say(f"edgeasd: {clip.path.name}: {', '.join(clip.complaints)}")
            meter.show(measure(block.samples), folder.clips, recorder.clips_left, recorder.seconds_left(rate))
        return COMPLETE
    finally:
        capture.stop()
        _say_events(source, meter)


def _next_block(queue: SampleQueue, source: Source, meter: LevelMeter) -> Any:
    block = queue.get(lambda: _say_events(source, meter), defer_signals)
    _say_events(source, meter)
    return block


def _say_events(source: Source, meter: LevelMeter) -> None:
    events = getattr(source, "events", None)
    while events:
        event = events.popleft()
        lost = f"; {event.lost_seconds:.2f} s of sound lost" if event.lost_seconds else ""
        meter.say(f"edgeasd: {event.state}: {event.detail}{lost}")
