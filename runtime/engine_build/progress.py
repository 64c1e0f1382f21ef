"""The progress of a build: TensorRT's nested phases as one percentage, and the way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt

ProgressCallback = Callable[[int, int, str], None]
"""Called with (done, total, name of the phase)."""
TOTAL = 100


@dataclass(slots=True)
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0
    inner: float = 0.0
    """The part of the present step that inner phases have done."""

    @property
    def share(self) -> float:
        return min(1.0, (self.done + min(self.inner, 1.0)) / self.steps)


class Phases:
    """The phases in progress. Threads of TensorRT may call at the same time."""

    def __init__(self, report: ProgressCallback) -> None:
        self._report = report
        self._open: dict[str, _Phase] = {}
        self._shown = -1
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins inside `parent`."""
        with self._lock:
            self._open[name] = _Phase(name, parent, max(1, steps))

    def step(self, name: str, step: int) -> None:
        """The step of this number, counted from 0, is done."""
        with self._lock:
            phase = self._open.get(name)
            if phase is None:
                return
            phase.done, phase.inner = max(phase.done, step + 1), 0.0
            self._propagate(phase, name)

    def finish(self, name: str) -> None:
        """A phase has ended, with or without all of its steps."""
        with self._lock:
            phase = self._open.pop(name, None)
            if phase is not None:
                phase.done = phase.steps
                self._propagate(phase, name)

    def _propagate(self, phase: _Phase, text: str) -> None:
        """Carry the change up to the outermost phase, and report if the percentage has grown."""
        # No more rounds than phases: a phase that names itself as an ancestor must not loop for ever.
        for _ in range(len(self._open)):
            parent = self._open.get(phase.parent or "")
            if parent is None or parent is phase:
                break
            parent.inner = max(parent.inner, phase.share)
            phase = parent
        now = int(TOTAL * phase.share)
        # A second outermost phase would begin at 0; the percentage must not go back.
        if phase.parent is None and now > self._shown:
            self._shown = now
            self._report(now, TOTAL, text)


def make_monitor(trt: ModuleType, phases: Phases, stop: threading.Event) -> tensorrt.IProgressMonitor:
    """A progress monitor for a builder; the build ends without an engine soon after `stop` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    monitor: tensorrt.IProgressMonitor = Monitor()
    return monitor
