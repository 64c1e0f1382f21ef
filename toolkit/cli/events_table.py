"""Events as a table for people. Names and notes may come from anywhere: only what can be printed is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeasd.runtime.alarms.transition import iso_time
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


def shown(value: object) -> str:
    """Text without line breaks, escapes or anything else that a terminal obeys."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def print_events(events: Sequence[tuple[dict[str, Any], Evidence]]) -> None:
    """One line an event."""
    if not events:
        print("no events")
        return
    rows = [("EVENT", "MACHINE", "STATE", "RAISED (UTC)", "LASTED", "PEAK", "EVIDENCE")]
    for event, evidence in events:
        name = shown(f"{event['machine']} {event['id']}{' (test)' if event['test'] else ''}")
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
    facts = evidence.facts
    if facts is not None and facts.deleted_at is not None:
        return f"deleted ({facts.deleted_why})"
    if CLIP in evidence.files:
        return "clip" if facts is None else f"clip {facts.samples / facts.sample_rate:.0f} s"
    return "-"


def print_event(event: dict[str, Any], messages: Sequence[dict[str, Any]], evidence: Evidence) -> None:
    """Everything that is known of one event."""
    test = " (a test)" if event["test"] else ""
    print(f"{event['event']}: {shown(event['machine'])} ID {shown(event['id'])}, {event['state']}{test}")
    for name in ("raised", "acknowledged", "cleared"):
        at = event[f"{name}_at"]
        why = f" ({shown(event['cleared_by'])})" if name == "cleared" and at is not None else ""
        print(f"  {name:<13} {'-' if at is None else iso_time(at)}{why}")
    print(f"  {'peak':<13} {_number(event['peak'])}, threshold {_number(event['threshold'])}")
    _print_evidence(evidence)
    print("messages")
    for one in messages:
        get = {key: shown("-" if one.get(key) is None else one[key]) for key in ("sequence", "at", "previous", "state")}
        told = [shown(one[key])[:600] for key in ("reason", "score", "by", "note") if one.get(key) is not None]
        print(f"  {get['sequence']:>5}  {get['at']}  {get['previous']} -> {get['state']}: {', '.join(told)}")


def _print_evidence(evidence: Evidence) -> None:
    facts, files = evidence.facts, evidence.files
    if evidence.problem is not None:
        print(f"evidence: {shown(evidence.problem)}")
    elif facts is None:
        print("evidence: none")
    elif facts.deleted_at is not None:
        print(f"evidence: deleted at {iso_time(facts.deleted_at)} ({facts.deleted_why})")
    else:
        seconds = f"{facts.samples / facts.sample_rate:.1f} s, {facts.raised_seconds:.1f} s of it before the alarm"
        lost = f", {facts.lost_samples} samples lost" if facts.lost_samples else ""
        print(f"evidence: {seconds}, {facts.sample_rate} Hz, {facts.bits} bits, {_ENDED[facts.ended]}{lost}")
    for name in (CLIP, SCORES, PICTURE):
        if name in files:
            print(f"  {shown(files[name])}")
