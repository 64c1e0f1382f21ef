"""The acceptance test: false alarms on the user's normals, faults mixed into them, and a verdict against limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import edgeasd
from edgeasd.runtime.alarms import SERVICE, AlarmInput, AlarmMachine
from edgeasd.runtime.bundle.bundle import MANIFEST, Bundle, hash_file
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.scoring.scorer import Scorer
from edgeasd.runtime.scoring.stream import Stream
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.service.monitored import clip_seconds
from edgeasd.toolkit.acceptance.faults import FaultKind, demo_faults, given_faults, mix
from edgeasd.toolkit.acceptance.rate import FalseAlarms, Span, count_false_alarms, hours_needed, share_interval
from edgeasd.toolkit.acceptance.recordings import Excerpts, Session, find_sessions, read_session
from edgeasd.toolkit.progress import ProgressCallback

LEVELS_DB = (0.0, -3.0, -6.0, -9.0, -12.0, -15.0, -18.0, -21.0, -24.0)
"""Levels of a fault relative to the normal sound, tried from the loudest on until none is found."""
_LEAD_SECONDS = 2.0
"""Normal sound before a fault, beyond what the first score needs."""
_LISTEN_SECONDS = 5.0
"""Listened on after the longest delay."""


@dataclass(frozen=True)
class Limits:
    """What the machine's owner asks for; None: not asked."""

    per_month: float | None = None
    """False alarms (call-outs) a month at most."""
    delay_seconds: float | None = None
    """A fault of `fault_db` must be found within this time."""
    fault_db: float = -6.0


@dataclass(frozen=True)
class AcceptRequest:
    """All that decides the result, beside bundle and recordings."""

    normal: tuple[Path, ...]
    kinds: tuple[str, ...]
    """Kinds of the demo."""
    faults: Path | None = None
    limits: Limits = field(default_factory=Limits)
    excerpts: int = 5
    """Pieces of the recordings that each fault is mixed into."""
    channel: int | None = None
    resample: bool = False
    seed: int = 0


@dataclass(frozen=True)
class LevelResult:
    """What was found of one kind of fault at one level."""

    db: float
    tried: int
    delays: tuple[float, ...]
    """Seconds from the begin of the fault to the alarm, of those found."""

    def found_within(self, seconds: float) -> int:
        """Faults that raised an alarm within so many seconds."""
        return sum(delay <= seconds for delay in self.delays)


@dataclass(frozen=True)
class FaultResult:
    """One kind of fault in one mode, from the loudest level down."""

    kind: str
    is_given: bool
    levels: tuple[LevelResult, ...]

    def faintest(self, seconds: float) -> float | None:
        """The lowest level down to which at least half of the faults were found within `seconds`, without a hole."""
        found = None
        for level in self.levels:
            if 2 * level.found_within(seconds) < level.tried:
                break
            found = level.db
        return found

    def at(self, db: float) -> LevelResult | None:
        """The result at the level `db`; None if it was not reached, since nothing louder was found."""
        return next((level for level in self.levels if level.db == db), None)


@dataclass(frozen=True)
class ModeResult:
    """One mode of the machine; `mode` is empty where the bundle knows none."""

    mode: str
    threshold: float
    recordings: int
    false_alarms: FalseAlarms
    faults: tuple[FaultResult, ...]
    levels: tuple[float, ...]
    """Quantiles 0.5, 0.9, 0.99, 1 of the clip scores."""


@dataclass(frozen=True)
class Check:
    """One limit and whether it is kept."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Acceptance:
    """The result of an acceptance test."""

    bundle: str
    manifest_sha256: str
    machine: str
    id: str
    threshold: Threshold
    created: str
    request: AcceptRequest
    delay_seconds: float
    """Faults that are found later count as not found."""
    modes: tuple[ModeResult, ...]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all limits are kept; True where none was given."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        limits = asdict(self.request.limits)
        return {
            "type": "acceptance",
            "version": 1,
            "edgeasd_version": edgeasd.__version__,
            "created": self.created,
            "bundle": self.bundle,
            "manifest_sha256": self.manifest_sha256,
            "machine": self.machine,
            "id": self.id,
            "threshold": self.threshold.model_dump(mode="json", exclude={"sources"}),
            "limits": limits,
            "normal": [str(path) for path in self.request.normal],
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "modes": [
                {
                    "mode": one.mode,
                    "threshold": one.threshold,
                    "recordings": one.recordings,
                    "false_alarms": one.false_alarms.to_json(),
                    "clip_score_quantiles": dict(zip(("0.5", "0.9", "0.99", "1"), one.levels, strict=True)),
                    "faults": [
                        {
                            "kind": fault.kind,
                            "given": fault.is_given,
                            "faintest_db": fault.faintest(self.delay_seconds),
                            "levels": [
                                {
                                    "db": level.db,
                                    "tried": level.tried,
                                    "found": level.found_within(self.delay_seconds),
                                    "delays_seconds": [round(delay, 3) for delay in level.delays],
                                }
                                for level in fault.levels
                            ],
                        }
                        for fault in one.faults
                    ],
                }
                for one in self.modes
            ],
        }


PartOf = Callable[[str], Any]
"""A context manager that gives a ProgressCallback for the work of this name."""


def accept_bundle(path: Path, request: AcceptRequest, part: PartOf) -> Acceptance:
    """Run the acceptance test of the bundle at `path`; progress is shown by `part`.

    The alarm rule is the bundle's with the settings of the service. Raises InputError for a bundle without a
    threshold, for recordings and faults that cannot be used, and for recordings that are too short.
    """
    with Bundle(path) as bundle:
        manifest = bundle.manifest
        if manifest.threshold is None:
            raise InputError(
                f"{path}: has no threshold, so it raises no alarms; export it with --clips or calibrate it"
            )
        sessions = find_sessions(request.normal, tuple(manifest.modes or {}))
        rate = manifest.features.sample_rate
        kinds = demo_faults(request.kinds, rate)
        if request.faults is not None:
            kinds += given_faults(request.faults, rate, request.channel, manifest.features.recorded_rate)
        scorer, _ = bundle.open_scorer(engine="onnxruntime")
        try:
            modes = tuple(
                _mode_result(
                    scorer,
                    _in_mode(manifest, mode),
                    mode,
                    [s for s in sessions if s.mode == mode],
                    kinds,
                    request,
                    part,
                )
                for mode in dict.fromkeys(session.mode for session in sessions)
            )
        finally:
            scorer.close()
        digest = hash_file(path / MANIFEST) if path.is_dir() else hash_file(path)
    return Acceptance(
        bundle=str(path),
        manifest_sha256=digest,
        machine=manifest.machine.type,
        id=manifest.machine.id,
        threshold=manifest.threshold,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        request=request,
        delay_seconds=_delay(request.limits),
        modes=modes,
        checks=tuple(judge(request.limits, modes)),
    )


def _in_mode(manifest: Manifest, mode: str) -> Manifest:
    """The manifest with the threshold of a recorded mode in place of its own, if the mode has one."""
    threshold = None if not mode or manifest.modes is None else manifest.modes[mode].threshold
    return manifest if threshold is None else manifest.model_copy(update={"threshold": threshold})


def _delay(limits: Limits) -> float:
    return 30.0 if limits.delay_seconds is None else limits.delay_seconds


def _mode_result(
    scorer: Scorer,
    manifest: Manifest,
    mode: str,
    sessions: Sequence[Session],
    kinds: Sequence[FaultKind],
    request: AcceptRequest,
    part: PartOf,
) -> ModeResult:
    rate, threshold = manifest.features.sample_rate, manifest.threshold
    assert threshold is not None
    lead = clip_seconds(manifest) + _LEAD_SECONDS
    piece = lead + _delay(request.limits) + _LISTEN_SECONDS
    excerpts = Excerpts(sessions, request.excerpts, piece, rate)
    spans: list[Span] = []
    scores: list[float] = []
    total, done = sum(session.seconds for session in sessions), 0.0
    with part(f"normal recordings{f', {mode}' if mode else ''}") as report:
        for index, session in enumerate(sessions):
            listener = Listener(scorer, manifest)
            blocks = read_session(session, rate, request.channel, request.resample, manifest.features.recorded_rate)
            for block in excerpts.take(index, session, blocks):
                listener.hear(block)
                done += len(block) / rate
                report(int(done), int(total) + 1, "s of sound")
            spans.append(Span(len(listener.scores) * listener.hop_seconds / 3600, tuple(listener.alarms)))
            scores += listener.scores
    if not scores:
        raise InputError(
            f"--normal {request.normal[0]}: {total:.1f} s of sound give no complete score, which takes "
            f"{clip_seconds(manifest):.1f} s; give longer recordings"
        )
    found = []
    with part(f"faults{f', {mode}' if mode else ''}") as report:
        # What a piece raises by itself would be taken for a fault that was found.
        quiet = [sound for _, sound in excerpts.sounds if first_alarm(scorer, manifest, sound) is None]
        for number, kind in enumerate(kinds):
            levels = tuple(_levels(scorer, manifest, kind, quiet, lead, request, number, len(kinds), report))
            found.append(FaultResult(kind.name, kind.is_given, levels))
    return ModeResult(
        mode=mode,
        threshold=threshold.clip,
        recordings=sum(len(session.files) for session in sessions),
        false_alarms=count_false_alarms(spans),
        faults=tuple(found),
        levels=tuple(float(value) for value in np.quantile(scores, (0.5, 0.9, 0.99, 1.0))),
    )


def _levels(
    scorer: Scorer,
    manifest: Manifest,
    kind: FaultKind,
    excerpts: Sequence[Float32Array],
    lead: float,
    request: AcceptRequest,
    number: int,
    count: int,
    report: ProgressCallback,
) -> Iterator[LevelResult]:
    rate, start = manifest.features.sample_rate, int(lead * manifest.features.sample_rate)
    levels = sorted({*LEVELS_DB, request.limits.fault_db}, reverse=True)
    for step, db in enumerate(levels):
        delays = []
        for index, normal in enumerate(excerpts):
            # The same fault at every level: only its loudness falls.
            rng = np.random.default_rng([request.seed, number, index])
            at = first_alarm(scorer, manifest, mix(normal, kind.make(rng, normal), db, start, rate))
            report(number * len(levels) + step, count * len(levels), f"{kind.name} at {db:g} dB")
            if at is not None:
                delays.append(at - lead)
        yield LevelResult(db, len(excerpts), tuple(delays))
        if not delays and db <= request.limits.fault_db:
            break
    report((number + 1) * len(levels), count * len(levels))


class Listener:
    """One stream and its alarm machine, by the bundle's rule with the settings of the service, on the sound's time."""

    def __init__(self, scorer: Scorer, manifest: Manifest) -> None:
        self._stream, self._rate = Stream(scorer), manifest.features.sample_rate
        machine = manifest.machine
        self._machine = AlarmMachine(machine.type, machine.id, SERVICE, manifest.threshold)
        self.hop_seconds = manifest.segments.hop * manifest.features.hop_length / self._rate
        self.scores: list[float] = []
        """Complete clip scores."""
        self.alarms: list[float] = []
        """Seconds from the start, of each alarm."""

    def hear(self, samples: Float32Array) -> None:
        """Accept samples (n,) float32."""
        for score in self._stream.push(samples):
            if not score.complete:
                continue
            self.scores.append(score.clip_score)
            at = score.end_sample / self._rate
            moves = self._machine.step(AlarmInput(time=at, wall=at, score=score.clip_score))
            self.alarms += [at for move in moves if move.state == "alarm" and move.previous != "alarm"]


def first_alarm(scorer: Scorer, manifest: Manifest, sound: Float32Array) -> float | None:
    """Seconds to the first alarm that samples (n,) raise; None if they raise none."""
    listener, step = Listener(scorer, manifest), 2 * manifest.features.sample_rate
    for at in range(0, len(sound), step):
        listener.hear(sound[at : at + step])
        if listener.alarms:
            return listener.alarms[0]
    return None


def judge(limits: Limits, modes: Sequence[ModeResult]) -> list[Check]:
    """One check for each limit and mode; a limit that the hours cannot carry is not kept."""
    checks = []
    for one in modes:
        of = f" ({one.mode})" if one.mode else ""
        if limits.per_month is not None:
            checks.append(_judge_rate(limits.per_month, one.false_alarms, of))
        if limits.delay_seconds is not None:
            checks += [_judge_fault(limits, limits.delay_seconds, fault, of) for fault in one.faults]
    return checks


def _judge_rate(limit: float, seen: FalseAlarms, of: str) -> Check:
    name = f"at most {limit:g} false alarms a month{of}"
    counted = f"{seen.call_outs or 'none'} in {_hours(seen.hours)}"
    if seen.at_most <= limit:
        return Check(name, True, f"{counted}: at most {seen.at_most:.3g} a month with 95 % confidence")
    if seen.at_least > limit:
        return Check(name, False, f"{counted}: {seen.at_least:.3g} a month or more with 95 % confidence; too many")
    needed = hours_needed(limit, seen.call_outs)
    without = "without a false alarm" if not seen.call_outs else f"with no more than these {seen.call_outs}"
    return Check(
        name,
        False,
        f"cannot be promised from {_hours(seen.hours)}: {counted} carries no less than {seen.at_most:.3g} a month; "
        f"it takes {needed:.0f} h ({needed / 24:.0f} days) {without}",
    )


def _judge_fault(limits: Limits, delay: float, fault: FaultResult, of: str) -> Check:
    name = f"{fault.kind} at {limits.fault_db:g} dB within {delay:g} s{of}"
    level = fault.at(limits.fault_db)
    if level is None or not level.tried:
        return Check(name, False, "not tried: the normal recordings alarm by themselves")
    found = level.found_within(delay)
    low, _ = share_interval(found, level.tried)
    longest = f", after {max(level.delays):.1f} s at most" if level.delays else ""
    text = f"found in {found} of {level.tried} (95 %: {100 * low:.0f} % or more){longest}"
    return Check(name, found == level.tried, text)


def _hours(hours: float) -> str:
    return f"{60 * hours:.3g} min" if hours < 1 else f"{hours:.3g} h"
