"""All streams and engines of the service: which there should be, which there are, and how one becomes the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgeasd.runtime.alarms import Transition
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest, dump_manifest
from edgeasd.runtime.config.check import named_manifest
from edgeasd.runtime.config.settings import ServiceConfig, StreamSettings
from edgeasd.runtime.errors import DeviceError, EdgeasdError
from edgeasd.runtime.evidence import EvidenceWriter
from edgeasd.runtime.health import level_range
from edgeasd.runtime.service.berth import FIRST_PAUSE, LONGEST_PAUSE, Berth, EngineKey
from edgeasd.runtime.service.berths import Berths
from edgeasd.runtime.service.inputs import Inputs
from edgeasd.runtime.service.keeper import Keeper
from edgeasd.runtime.service.scoring import ScoringThread
from edgeasd.runtime.service.stream import Listeners, ServedStream
from edgeasd.runtime.sources.base import as_ours

_KEEPER_SECONDS = 30.0
"""What is asked of the keeper here may wait for a disk that is slow."""


class Fleet:
    """`apply`, `mend` and `stop` belong to one thread; the rest may be asked from any."""

    def __init__(self, keeper: Keeper, listeners: Listeners, log: Callable[[str], None]) -> None:
        self._keeper, self._listeners, self._log = keeper, listeners, log
        self._engines: dict[EngineKey, ScoringThread] = {}
        self.berths = Berths(self._engines, keeper.kept.get)
        self._inputs = Inputs()
        self._stopped = False
        self._machines: dict[str, tuple[str, str]] = {}
        """Machine type and ID that each stream of the site is to have, as far as its bundle can be read."""
        self.evidence: EvidenceWriter | None = None

    # Making it so

    def apply(self, site: ServiceConfig) -> None:
        """Make streams and engines what `site` says. A stream whose source stays goes on capturing all the while.

        Raises InputError where the keeper is too busy to let a stream go: some may have gone, the rest is as before.
        Call it again then.
        """
        self._machines = self._find_machines(site)
        for name in [name for name in self.berths if name not in site.streams]:
            self._retire(name)
        for name, settings in site.streams.items():
            berth, engine = self.berths.get(name), site.engine(settings)
            if berth is None:
                berth = self.berths[name] = Berth(settings, engine)
            berth.settings, berth.engine, berth.retry_at, berth.pause = settings, engine, 0.0, FIRST_PAUSE
        # Sources first: seconds of sound would be lost while large models load.
        ready = self._capture(list(site.streams))
        # Two streams may exchange their machines: each gives up its own before anybody takes one.
        stuck = {name for name in ready if self._moves(name) and self._open(name) is None}
        ready = [name for name in ready if name not in stuck]
        for name in ready:
            try:
                self._give_way(name)
            except Exception as error:  # the keeper is busy: `mend` tries it again
                self._fail(name, as_ours(error), time.monotonic())
                stuck.add(name)
        for name in ready:
            if name not in stuck:
                self._load(name)
        self._drop_unused()

    def _find_machines(self, site: ServiceConfig) -> dict[str, tuple[str, str]]:
        """Of a stream whose bundle cannot be read, which is said when it is loaded, the machine that it has."""
        found = {name: kept.who for name, kept in list(self._keeper.kept.items()) if name in site.streams}
        if self._keeper.kept:
            for name, settings in site.streams.items():
                with suppress(Exception):
                    found[name] = _machine_in(settings)
        return found

    def machines_of(self, site: ServiceConfig) -> set[tuple[str, str]] | None:
        """Machine type and ID of every stream of `site`; None where one of them is not known now."""
        found = set()
        for settings in site.streams.values():
            if settings.machine is not None and settings.id is not None:
                found.add((settings.machine, settings.id))
                continue
            try:
                found.add(_machine_in(settings))
            except Exception:  # said where it is loaded
                return None
        return found

    def machines(self) -> set[tuple[str, str]]:
        """Machine type and ID of all that are here, or are to be as far as their bundles can be read."""
        here = {self.berths.identity(name) for name in list(self.berths)}
        return {who for who in (*here, *list(self._machines.values())) if who is not None}

    def _moves(self, name: str) -> bool:
        """Whether a stream is to be another machine than it is."""
        kept = self._keeper.kept.get(name)
        return kept is not None and self._machines.get(name, kept.who) != kept.who

    def _give_way(self, name: str) -> None:
        """Give up the machine of a stream that is to be another one."""
        if self._moves(name):
            # What is found until it is detached belongs to nobody; where the keeper is too busy it goes on as it was.
            self.berths[name].admitted = None
            self._dismiss(name)
            self._detach(name)

    def _dismiss(self, name: str) -> None:
        kept = self._keeper.kept.get(name)
        stays = kept is not None and kept.who in self._machines.values()
        self._keeper.call(lambda: self._keeper.dismiss(name, stays=stays), _KEEPER_SECONDS)

    def mend(self, now: float) -> None:
        """Load again what has failed and is due, and say which sources have gone or come back."""
        for name, berth in self.berths.items():
            for line in berth.news():
                self._log(f"{name}: {line}")
        for key, engine in list(self._engines.items()):
            if engine.failure is not None:
                del self._engines[key]
                engine.stop(0.1)
                for name, berth in self.berths.items():
                    if berth.key == key:
                        berth.key = None
                        self._fail(name, DeviceError(engine.failure), now)
        for name, berth in self.berths.items():
            if self._stopped:
                return
            if berth.failure is not None and now >= berth.retry_at and self._capture([name]):
                self._load(name)
                if berth.failure is None:
                    self._drop_unused()

    def _capture(self, names: list[str]) -> list[str]:
        """Have the sources of streams captured; those for which that can be.

        What changes is given up by all before anybody takes it: one stream may have the card of another. And none
        begins to read before all are there, so that those who share a source hear the same beginning.
        """
        manifests = {name: manifest for name in names if (manifest := self._read_manifest(name)) is not None}
        for name, manifest in manifests.items():
            self._give_up_changed(name, manifest)
        self._inputs.plan(berth.settings for berth in self.berths.values())
        ready = [name for name, manifest in manifests.items() if self._take_source(name, manifest)]
        for name in list(ready):
            served = self.berths[name].served
            assert served is not None
            try:
                served.start()
            except Exception as error:  # no thread to be had now: it is tried again, and it alone
                self._fail(name, as_ours(error), time.monotonic())
                ready.remove(name)
        return ready

    def _read_manifest(self, name: str) -> Manifest | None:
        berth = self.berths[name]
        try:
            with Bundle(Path(berth.settings.bundle)) as bundle:
                return named_manifest(bundle.manifest, berth.settings)
        except Exception as error:  # one stream's, not the end of the others
            self._fail(name, as_ours(error), time.monotonic())
            return None

    def _give_up_changed(self, name: str, manifest: Manifest) -> None:
        """Stop the capture of a stream whose source is to be another one."""
        berth = self.berths[name]
        served, rate = berth.served, manifest.features.sample_rate
        if served is None or (served.settings.source() == berth.settings.source() and served.rate == rate):
            return
        self._detach(name)
        served.stop()
        if served.recorder is not None:
            served.recorder.close("source")
        berth.served = None

    def _take_source(self, name: str, manifest: Manifest) -> bool:
        """Have a source for a stream that has none; whether it has one now."""
        berth = self.berths[name]
        try:
            # Looked at first: one that runs goes on as it was where its new settings do not fit.
            level_range(berth.settings.health, manifest.amplitude, manifest.level)
            if berth.served is None:
                source = self._inputs.source(berth.settings, manifest.features.sample_rate)
                wake = self._waker(name)
                berth.served = ServedStream(name, berth.settings, manifest, source, self._listeners, wake)
        except Exception as error:  # as above
            self._fail(name, as_ours(error), time.monotonic())
            return False
        return True

    def _load(self, name: str) -> None:
        """Have a stream scored by the engine that it should have."""
        opened = self._open(name)
        if opened is None:
            return
        key, manifest = opened
        berth = self.berths[name]
        self._machines[name] = _who(manifest)
        try:
            self._give_way(name)
            wanted = (manifest, berth.settings.alarm, self._keeper.score_seconds)
            if berth.admitted != wanted:
                self._admit(name, key, manifest)
                berth.admitted = wanted
            self._hand_over(name, key, manifest)
        except Exception as error:  # one stream's, not the end of the others
            self._fail(name, as_ours(error), time.monotonic())

    def _open(self, name: str) -> tuple[EngineKey, Manifest] | None:
        """Have the engine run that a stream should have, beside the one that it has; None where that cannot be."""
        berth = self.berths[name]
        if self._stopped or berth.served is None:
            return None
        try:
            with Bundle(Path(berth.settings.bundle)) as bundle:
                key = (str(bundle.path), dump_manifest(bundle.manifest), berth.engine)
                manifest = named_manifest(bundle.manifest, berth.settings)
                if key not in self._engines:
                    scorer, _ = bundle.open_scorer(**berth.engine.model_dump())
                    engine = ScoringThread(scorer, self._listeners.tell)
                    engine.start()  # which may fail: an engine that is known has its thread
                    self._engines[key] = engine
        except Exception as error:  # as above
            self._fail(name, as_ours(error), time.monotonic())
            return None
        return key, manifest

    def _admit(self, name: str, key: EngineKey, manifest: Manifest) -> None:
        """Have the keeper judge what comes from now on by these settings: nothing that the old model found."""
        berth = self.berths[name]
        served, settings, had = berth.served, berth.settings.alarm, berth.key
        assert served is not None
        if (had, served.manifest) != (key, manifest):
            self._detach(name)
        try:
            self._keeper.call(lambda: self._keeper.admit(name, manifest, settings), _KEEPER_SECONDS)
        except BaseException:
            if berth.key is None and had is not None and had in self._engines:
                berth.key = had
                with self._engines[had].between_segments():
                    self._engines[had].streams.append(served)
            raise

    def _hand_over(self, name: str, key: EngineKey, manifest: Manifest) -> None:
        """From the old engine to the new one, between two segments of each."""
        berth = self.berths[name]
        served, engine = berth.served, self._engines[key]
        assert served is not None
        berth.failure, berth.error, berth.pause = None, None, FIRST_PAUSE
        same = berth.key == key and served in engine.streams
        if same and (served.settings, served.manifest) == (berth.settings, manifest):
            return
        self._detach(name)
        with engine.between_segments():
            if self.evidence is not None:
                served.keep_evidence(self.evidence, berth.settings, manifest)
            served.beside_live = any(one.settings.drops for one in engine.streams)
            served.adopt(berth.settings, manifest, engine.scorer)
            engine.streams.append(served)
        berth.key = key
        engine.wake.set()
        # By the keeper: an event that it closes meanwhile would be recorded, and kept, for good.
        self._keeper.post(lambda: self._go_on_recording(name, served))
        facts = served.facts
        self._log(
            f"{name}: {manifest.machine.type} ID {manifest.machine.id} from {served.source.name}; "
            f"{facts['precision']} on {facts['engine']}, accelerator {facts['accelerator']}"
        )

    def _go_on_recording(self, name: str, served: ServedStream) -> None:
        """Of an event that is open from before the start; one that has its clip gets no second one."""
        kept = self._keeper.kept.get(name)
        event = None if kept is None else kept.machine.event
        if kept is not None and event is not None and served.recorder is not None:
            levels = kept.machine.levels
            served.recorder.open_event(event.id, event.raised_wall, levels.on if levels else None)

    def record(self, name: str | None, said: list[Transition], position: int | None) -> None:
        """What the alarm machine of a stream said, for the evidence; None: one of which nothing is recorded now."""
        berth = None if name is None else self.berths.get(name)
        recorder = None if berth is None or berth.served is None else berth.served.recorder
        if recorder is not None:
            recorder.transitions(said, position)
        elif self.evidence is not None:
            for one in said:
                if one.event is not None and one.state not in ("alarm", "acknowledged"):
                    self.evidence.protect(one.event, False)

    def _detach(self, name: str) -> None:
        """Take a stream from its engine."""
        berth = self.berths[name]
        engine = self._engines.get(berth.key) if berth.key is not None else None
        if engine is not None and berth.served is not None:
            with engine.between_segments():
                engine.streams = [one for one in engine.streams if one is not berth.served]
        berth.key = None

    def _retire(self, name: str) -> None:
        # First of all: where the keeper is too busy nothing has changed.
        self._dismiss(name)
        self._detach(name)
        berth = self.berths.pop(name)
        if berth.served is not None:
            berth.served.stop()
            if berth.served.recorder is not None:
                berth.served.recorder.close()

    def _drop_unused(self) -> None:
        used = {berth.key for berth in self.berths.values()}
        for key in [key for key in self._engines if key not in used]:
            self._engines.pop(key).stop(5.0)

    def _fail(self, name: str, error: EdgeasdError, now: float) -> None:
        """A stream goes on with what it had, if it had something; it is tried again after a pause that grows."""
        berth = self.berths[name]
        if berth.failure != str(error):
            self._log(f"{name}: {error}")
        berth.failure, berth.error, berth.retry_at = str(error), error, now + berth.pause
        berth.pause = min(2.0 * berth.pause, LONGEST_PAUSE)

    def _waker(self, name: str) -> Callable[[], None]:
        return lambda: self._wake(name)

    def _wake(self, name: str) -> None:
        berth = self.berths.get(name)
        engine = self._engines.get(berth.key) if berth is not None and berth.key is not None else None
        if engine is not None:
            engine.wake.set()

    def stop(self, seconds: float, reason: str) -> bool:
        """Stop all captures and engines within `seconds`; False where one had to be left behind."""
        self._stopped = True
        until = time.monotonic() + seconds
        running = [berth.served for berth in list(self.berths.values()) if berth.served is not None]
        engines = list(self._engines.values())
        for engine in engines:
            engine.ask_to_stop()
        self._let_go(running, until)
        ended = [engine.stop(max(0.05, until - time.monotonic())) for engine in engines]
        for served in running:
            if not served.over:
                served.end(reason)
        return all(ended)

    def _let_go(self, running: list[ServedStream], until: float) -> None:
        """Close all sources at once, until then: one may take a second. What is not done by then goes on."""
        closing = []
        for served in running:
            thread = threading.Thread(target=_close_quietly, args=(served,), name="edgeasd-close", daemon=True)
            try:
                thread.start()
                closing.append(thread)
            except RuntimeError:  # no thread to be had now
                _close_quietly(served)
        for thread in closing:
            thread.join(max(0.0, until - 0.2 - time.monotonic()))

    def end_clips(self) -> None:
        """End all clips as they are."""
        for berth in list(self.berths.values()):
            if berth.served is not None and berth.served.recorder is not None:
                berth.served.recorder.close()

    # What it is

    def beats(self) -> list[float]:
        """When each engine last moved."""
        return [engine.beat for engine in list(self._engines.values()) if engine.failure is None]


def _machine_in(settings: StreamSettings) -> tuple[str, str]:
    """Machine type and ID of a stream by its bundle. Raises what opening that does."""
    with Bundle(Path(settings.bundle)) as bundle:
        return _who(named_manifest(bundle.manifest, settings))


def _who(manifest: Manifest) -> tuple[str, str]:
    return manifest.machine.type, manifest.machine.id


def _close_quietly(served: ServedStream) -> None:
    """What cannot even be closed is nobody's business at the end."""
    with suppress(Exception):
        served.let_go()
