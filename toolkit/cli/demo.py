"""edgeasd demo."""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeasd.runtime.errors import CheckFailed, InputError

_MACHINE, _ID, _FAULT = "valve", "00", "leak"
_IDS = ("00", "02", "04")
_NORMALS, _ANOMALIES = 100, 20
_FAULT_SNR_DB = -6.0
_STREAM_SECONDS, _FAULT_AT_SECONDS = 60.0, 30.0
_SEED = 0
_MARK = "made-by-edgeasd-demo.txt"


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for everything the demo makes; that of an earlier demo is replaced.")
    ] = Path("edgeasd-demo"),
    iterations: Annotated[int | None, typer.Option(min=1, help="Training iterations; the preset's by default.")] = None,
) -> None:
    """Train, export and listen, with synthetic machines.

    Renders valves, pumps and fans, trains the quick backbone on one valve against the others, judges it,
    exports a bundle, and plays a minute of sound through it in which a leak begins half-way. Exit code 1
    if the alarm does not come, or comes before the leak.

    Example: edgeasd demo
    """
    from edgeasd.toolkit.cli.evaluate import evaluate
    from edgeasd.toolkit.cli.export import export
    from edgeasd.toolkit.cli.train import train

    started = time.monotonic()
    data, stream = output / "recordings", output / "stream.wav"
    _claim(output)
    _say(1, "sounds of three kinds of machine, all of them synthetic: no microphone was near them")
    _make_sounds(data, stream)
    _say(2, f"training the quick backbone on {_MACHINE} {_ID} against the other machines")
    train(root=data, machine=_MACHINE, id=_ID, workspace=output, iterations=iterations, seed=_SEED)
    _say(3, "judging it on clips it has not heard")
    evaluate(root=data, machine=_MACHINE, id=_ID, workspace=output, baseline=True)
    _say(4, "exporting the bundle, the only thing that travels to a device")
    export(machine=_MACHINE, id=_ID, workspace=output)
    bundle = output / "bundles" / f"{_MACHINE}-id_{_ID}"
    _say(5, f"listening to {_STREAM_SECONDS:.0f} s in which a {_FAULT} begins at {_FAULT_AT_SECONDS:.0f} s")
    records = _listen(bundle, stream)
    _conclude(records, output, data, bundle, stream, time.monotonic() - started)


def _say(step: int, text: str) -> None:
    print(f"\n[{step}/5] {text}", flush=True)


def _claim(output: Path) -> None:
    """Make the folder, or empty the one an earlier demo made; anything else there is not touched."""
    if output.exists():
        if not (output / _MARK).is_file():
            raise InputError(f"{output}: is there and was not made by the demo; choose another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / _MARK).write_text("Everything in this folder was made by `edgeasd demo` and may be deleted.\n")


def _make_sounds(data: Path, stream: Path) -> None:
    import soundfile

    from edgeasd.runtime.system.files import atomic_file
    from edgeasd.toolkit.demo import machines
    from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset
    from edgeasd.toolkit.progress import progress

    plan = DatasetPlan(
        ids=_IDS,
        normals=_NORMALS,
        anomalies=_ANOMALIES,
        anomaly_ids={_MACHINE: (_ID,)},
        fault_snr_db=_FAULT_SNR_DB,
        seed=_SEED,
    )
    with progress("rendering") as report:
        write_dataset(data, plan, report)
    sound = machines.render(
        _MACHINE,
        _ID,
        seconds=_STREAM_SECONDS,
        seed=10**9 + 7,
        fault=_FAULT,
        fault_snr_db=_FAULT_SNR_DB,
        fault_start=_FAULT_AT_SECONDS,
    )
    with atomic_file(stream) as handle:
        soundfile.write(handle, sound, machines.SAMPLE_RATE, subtype="PCM_16", format="WAV")
    print(
        f"{len(plan.kinds)} kinds x {len(_IDS)} IDs x {_NORMALS} normal clips of {plan.seconds:.0f} s, and {_ANOMALIES} "
        f"clips of {_MACHINE} {_ID} with {' or '.join(machines.FAULTS[_MACHINE])} at {_FAULT_SNR_DB:.0f} dB"
    )


def _listen(bundle: Path, stream: Path) -> list[dict[str, Any]]:
    """Score the sound by the live rule; prints a line for every five seconds of it, and for every alarm."""
    from edgeasd.runtime.audio.reader import read_audio
    from edgeasd.runtime.bundle.bundle import Bundle
    from edgeasd.runtime.service.live_view import sparkline
    from edgeasd.runtime.service.stream import live_records

    records: list[dict[str, Any]] = []
    history: list[float] = []
    with Bundle(bundle) as opened:
        scorer, _ = opened.open_scorer(engine="onnxruntime")
        sound = read_audio(
            stream,
            sample_rate=opened.manifest.features.sample_rate,
            recorded_rate=opened.manifest.features.recorded_rate,
        )
        for record in live_records(scorer, opened.manifest, sound):
            records.append(record)
            body = record["body"]
            if record["kind"] == "segment":
                history.append(body["clip_score"])
                if len(history) % 26 == 0:
                    print(
                        f"{body['end_seconds']:6.1f} s  clip score {body['clip_score']:6.3f}, threshold "
                        f"{body['threshold']:.3f}  {sparkline(history[-24:], body['threshold'])}"
                    )
            elif record["kind"] == "event":
                print(f"{records[-2]['body']['end_seconds']:6.1f} s  {body['state'].upper()}")
        scorer.close()
    return records


def _conclude(
    records: list[dict[str, Any]], output: Path, data: Path, bundle: Path, stream: Path, seconds: float
) -> None:
    segments = [r["body"] for r in records if r["kind"] == "segment"]
    complete = [body for body in segments if body["complete"]]
    before = [r["clip_score"] for r in complete if r["end_seconds"] <= _FAULT_AT_SECONDS]
    after = [r["clip_score"] for r in complete if r["end_seconds"] > _FAULT_AT_SECONDS]
    # The alarm that a segment raises follows it.
    raised = [
        before_it["body"]["end_seconds"]
        for before_it, record in pairwise(records)
        if record["kind"] == "event" and record["body"]["state"] == "alarm"
    ]
    early = [at for at in raised if at <= _FAULT_AT_SECONDS]
    late = [at for at in raised if at > _FAULT_AT_SECONDS]
    print(f"\nlargest clip score before the fault {max(before):.3f}, after it {max(after):.3f}; ", end="")
    if late:
        print(f"alarm {late[0] - _FAULT_AT_SECONDS:.1f} s after the fault began, {len(early)} before it")
    else:
        print(f"no alarm after the fault began, {len(early)} before it")
    print(f"""
Everything is in {output}/ ({seconds:.0f} s). The sounds are synthetic; a real machine will be harder.
Go on by hand:
  edgeasd data scan {data}
  edgeasd train --data {data} --machine pump --id 00 --workspace {output}
  edgeasd export --machine pump --workspace {output}
  edgeasd score {bundle} {data}/{_MACHINE}/{_ID}/anomaly
  edgeasd run --input {stream} --bundle {bundle} --realtime
  edgeasd run --device hw:1 --bundle {bundle}      (a microphone)""")
    if not late or early:
        raise CheckFailed(
            f"demo: expected the first alarm after {_FAULT_AT_SECONDS:.0f} s, raised at {raised or 'no time'}; "
            "train longer with --iterations"
        )
