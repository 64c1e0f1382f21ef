"""Events as a table for people. Names and notes may come from anywhere: only what can be printed is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeasd.runtime.alarms.transition import iso_time
from edgeasd.runtime.errors import printable
from edgeasd.runtime.evidence.clip import CLIP, PICTURE, SCORES
from edgeasd.runtime.evidence.lookup import Evidence

_ENDED = {
    "complete": "complete",
    "longest": "cut at the longest length",
    "stopped": "ended with the service",
    "source": "ended with the source",
    "killed": "broken off by a kill, made whole later",
    "no_room": "broken off for want of room",
    "recording": "not finished",
}


def print_events(events: Sequence[tuple[dict[str, Any], Evidence]]) -> None:
    """One line an event."""
    if not events:
        print("no events")
        return
    rows = [("EVENT", "MACHINE", "STATE", "RAISED (UTC)", "LASTED", "PEAK", "EVIDENCE")]
    for event, evidence in events:
        name = printable(f"{event['machine']} {event['id']}{' (test)' if event['test'] else ''}")
        raised = iso_time(event["raised_at"])[:19].replace("T", " ")
        rows.append(
            (event["event"], name, event["state"], raised, _lasted(event), _number(event["peak"]), _kept(evidence))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _lasted(event: dict[str, Any]) -> str:
    if event["cleared_at"] is None:
        return "-"
    # A wall clock that was set back in between makes this negative; it is what the messages say.
    return f"{event['cleared_at'] - event['raised_at']:.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _kept(evidence: Evidence) -> str:
    metadata = evidence.metadata
    if metadata is not None and metadata.deleted_at is not None:
        return f"deleted ({metadata.deleted_why})"
    if CLIP in evidence.files:
        return "clip" if metadata is None else f"clip {metadata.samples / metadata.sample_rate:.0f} s"
    return "-"


def print_event(event: dict[str, Any], messages: Sequence[dict[str, Any]], evidence: Evidence) -> None:
    """Everything that is known of one event."""
    test = " (a test)" if event["test"] else ""
    print(f"{event['event']}: {printable(event['machine'])} ID {printable(event['id'])}, {event['state']}{test}")
    for name in ("raised", "acknowledged", "cleared"):
        at = event[f"{name}_at"]
        why = f" ({printable(event['cleared_by'])})" if name == "cleared" and at is not None else ""
        print(f"  {name:<13} {'-' if at is None else iso_time(at)}{why}")
    print(f"  {'peak':<13} {_number(event['peak'])}, threshold {_number(event['threshold'])}")
    _print_evidence(evidence)
    print("messages")
    for one in messages:
        get = {
            key: printable("-" if one.get(key) is None else one[key]) for key in ("sequence", "at", "previous", "state")
        }
        told = [printable(one[key], 600) for key in ("reason", "score", "by", "note") if one.get(key) is not None]
        print(f"  {get['sequence']:>5}  {get['at']}  {get['previous']} -> {get['state']}: {', '.join(told)}")


def _print_evidence(evidence: Evidence) -> None:
    metadata, files = evidence.metadata, evidence.files
    if evidence.problem is not None:
        print(f"evidence: {printable(evidence.problem)}")
    elif metadata is None:
        print("evidence: none")
    elif metadata.deleted_at is not None:
        print(f"evidence: deleted at {iso_time(metadata.deleted_at)} ({metadata.deleted_why})")
    else:
        seconds = (
            f"{metadata.samples / metadata.sample_rate:.1f} s, {metadata.raised_seconds:.1f} s of it before the alarm"
        )
        lost = f", {metadata.lost_samples} samples lost" if metadata.lost_samples else ""
        print(f"evidence: {seconds}, {metadata.sample_rate} Hz, {metadata.bits} bits, {_ENDED[metadata.ended]}{lost}")
    for name in (CLIP, SCORES, PICTURE):
        if name in files:
            print(f"  {printable(files[name])}")
