"""One loaded encoder for all bundles that have the same: each takes a share, and the last one to close frees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from edgeasd.runtime.engines.base import Engine
from edgeasd.runtime.features.logmel import Float32Array


class _Loaded:
    """An encoder that is loaded, or being loaded, and how many shares of it are open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held while it is loaded, and while it runs: an engine bears one thread at a time."""
        self.engine: Engine | None = None
        self.shares = 0


class SharedEngine:
    """A share of a loaded encoder. Satisfies edgeasd.runtime.engines.base.Engine; any thread may call."""

    def __init__(self, pool: EnginePool, key: Hashable, loaded: _Loaded, engine: Engine) -> None:
        self._pool, self._key, self._loaded = pool, key, loaded
        self._engine: Engine | None = engine
        self.name, self.accelerator, self.precision = engine.name, engine.accelerator, engine.precision
        self.max_batch = engine.max_batch

    @property
    def group(self) -> object:
        """The same object for all shares of one encoder."""
        return self._loaded

    def embed(self, batch: Float32Array) -> Float32Array:
        """As of `Engine`. Raises ValueError after `close`."""
        with self._loaded.lock:
            if self._engine is None:
                raise ValueError(f"{self.name}: is closed")
            return self._engine.embed(batch)

    def close(self) -> None:
        """Give the share back; the encoder is freed with the last one. Safe to call twice."""
        with self._loaded.lock:
            was_open, self._engine = self._engine is not None, None
        if was_open:
            self._pool.release(self._key, self._loaded)


class EnginePool:
    """The encoders that are loaded. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[Hashable, _Loaded] = {}

    def __len__(self) -> int:
        return len(self._loaded)

    def open(self, key: Hashable, load: Callable[[], Engine]) -> SharedEngine:
        """A share of the encoder `key`, which `load` loads if nobody has it yet. Raises what `load` raises.

        `key` holds all that decides what is loaded. Whoever asks while it is being loaded waits for that.
        """
        with self._lock:
            loaded = self._loaded.setdefault(key, _Loaded())
            loaded.shares += 1
        try:
            with loaded.lock:
                if loaded.engine is None:
                    loaded.engine = load()
                return SharedEngine(self, key, loaded, loaded.engine)
        except BaseException:
            self.release(key, loaded)
            raise

    def release(self, key: Hashable, loaded: _Loaded) -> None:
        """One share fewer."""
        with self._lock:
            loaded.shares -= 1
            if loaded.shares:
                return
            if self._loaded.get(key) is loaded:
                del self._loaded[key]
        with loaded.lock:
            engine, loaded.engine = loaded.engine, None
        if engine is not None:
            engine.close()


def engine_group(engine: Engine) -> object:
    """What engines have in common whose segments may be scored in one batch: the loaded encoder."""
    return engine.group if isinstance(engine, SharedEngine) else engine
