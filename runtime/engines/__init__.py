"""Engines run the encoder: log-mel segments in, embeddings out. `open_engine` opens one."""

from __future__ import annotations

from edgeasd.runtime.engines.base import Engine, EngineWithFrontEnd
from edgeasd.runtime.engines.pool import EnginePool, SharedEngine, engine_group
from edgeasd.runtime.engines.select import (
    ENGINES,
    EngineChoice,
    open_engine,
    open_engine_with_front_end,
    select_engine,
)

__all__ = [
    "ENGINES",
    "Engine",
    "EngineChoice",
    "EnginePool",
    "EngineWithFrontEnd",
    "SharedEngine",
    "engine_group",
    "open_engine",
    "open_engine_with_front_end",
    "select_engine",
]
