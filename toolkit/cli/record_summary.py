"""What a recording came to: as one JSON object, or in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeasd.runtime.record import ClipFolder, Recorder
    from edgeasd.runtime.sources import Source

COMPLETE, END_OF_SOUND = "complete", "end of sound"
CTRL_C, SIGTERM, DISK_FULL = "Ctrl-C", "SIGTERM", "full disk"


def summary(
    source: Source, folder: ClipFolder, recorder: Recorder, before: int, ended: str, rate: int
) -> dict[str, Any]:
    """Plain values; `ended` is one of the words above, or "error"."""
    tally = recorder.tally

    def rounded(level: float | None) -> float | None:
        return None if level is None else round(level, 1)

    return {
        "type": "record",
        "version": 1,
        "machine": folder.machine,
        "id": folder.machine_id,
        "label": folder.label,
        "folder": str(folder.path),
        "source": source.name,
        "ended": ended,
        "clips": tally.clips,
        "seconds": round(tally.samples / rate, 3),
        "clips_before": before,
        "clips_left": recorder.clips_left,
        "level_dbfs": {"lowest": rounded(tally.lowest_dbfs), "highest": rounded(tally.highest_dbfs)},
        "clipped_share": tally.clipped / tally.samples if tally.samples else 0.0,
        "thrown_away": tally.thrown_away,
        "lost_seconds": round(tally.lost_samples / rate, 3),
        "losses": tally.losses,
        "overruns": int(getattr(source, "overruns", 0)),
        "reopened": int(getattr(source, "reopened", 0)),
        "complaints": {name: list(words) for name, words in sorted(tally.complaints.items())},
    }


def print_summary(found: dict[str, Any], as_json: bool) -> None:
    """Print a summary on standard output."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False), flush=True)
        return
    level = found["level_dbfs"]
    print(f"{found['folder']}: {found['clips']} clips, {found['seconds']:.0f} s, beside {found['clips_before']} before")
    if found["clips"]:
        print(
            f"level {level['lowest']} to {level['highest']} dBFS, {100 * found['clipped_share']:.3f} % clipped, "
            f"{len(found['complaints'])} clips with complaints"
        )
    if found["losses"]:
        print(
            f"{found['thrown_away']} clips thrown away for lost sound: {found['losses']} gaps, "
            f"{found['lost_seconds']:.2f} s, {found['overruns']} overruns, reopened {found['reopened']} times"
        )
    if found["ended"] != COMPLETE:
        print(f"ended by {found['ended']}, {found['clips_left']} clips are missing; --resume goes on", flush=True)
