"""What the gate has measured so far, as a file from which an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeasd.calibration.drift import Drift
from edgeasd.runtime.atomic import write_json
from edgeasd.runtime.errors import CheckFailed

_FORMAT = 1


@dataclass
class GateState:
    """Measurements by what was measured. A second run asks for the same ones in the same order and finds them."""

    fingerprint: str
    """Of the encoder, the ranges and the evidence; a file of others is ignored."""
    path: Path | None
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    sensitivity: dict[str, float] = field(default_factory=dict)
    """By range method and layer, in dB."""

    @classmethod
    def load_or_new(cls, path: Path | None, fingerprint: str) -> GateState:
        """What `path` holds where it is of the same work, else an empty state."""
        found = cls(fingerprint, path)
        try:
            stored = json.loads(path.read_bytes()) if path is not None else {}
            if stored.get("format") == _FORMAT and stored.get("fingerprint") == fingerprint:
                trials = dict(stored["trials"])
                for trial in trials.values():
                    _outcome(trial)
                found.sensitivity = {str(key): float(value) for key, value in stored["sensitivity"].items()}
                found.trials = trials
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # No state or a damaged one: the work starts over, and nothing is lost but time.
            return cls(fingerprint, path)
        return found

    def trial(self, method: str, kept: Collection[str], measure: Callable[[], Drift]) -> Drift | str:
        """The drift of a graph, measured once; the message instead where it cannot be built or gives no numbers."""
        key = _key(method, kept)
        if key not in self.trials:
            try:
                self.trials[key] = {"drift": measure().to_json()}
            except CheckFailed as error:
                self.trials[key] = {"refused": str(error)}
            self._save()
        return _outcome(self.trials[key])

    def layer(self, method: str, layer: str, measure: Callable[[], float]) -> float:
        """The sensitivity of a layer, measured once."""
        key = f"{method} {layer}"
        if key not in self.sensitivity:
            self.sensitivity[key] = measure()
            self._save()
        return self.sensitivity[key]

    def _save(self) -> None:
        if self.path is not None:
            write_json(
                self.path,
                {
                    "format": _FORMAT,
                    "fingerprint": self.fingerprint,
                    "trials": self.trials,
                    "sensitivity": self.sensitivity,
                },
            )


def _key(method: str, kept: Collection[str]) -> str:
    return " ".join([method, *sorted(kept)])


def _outcome(trial: dict[str, Any]) -> Drift | str:
    return str(trial["refused"]) if "refused" in trial else Drift.from_json(trial["drift"])
