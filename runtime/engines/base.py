"""The interface of an engine, whatever library runs it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from edgeasd.runtime.features.logmel import Float32Array


@runtime_checkable
class Engine(Protocol):
    """A loaded encoder. Stateless: any number of streams may share one, from one thread at a time.

    `name`, `accelerator` and `precision` state what is in use and are shown to the user.
    """

    name: str
    """Engine and version, with threads and provider if it has them."""
    accelerator: str
    """"cpu", "cuda:0", …"""
    precision: str
    """"fp32", "fp16", "int8" or "int8-cpu"."""
    max_batch: int
    """Largest batch `embed` accepts."""

    def embed(self, batch: Float32Array) -> Float32Array:
        """Log-mel segments (N, 1, frames, n_mels) float32, 1 <= N <= max_batch, to embeddings (N, D) float32."""
        ...

    def close(self) -> None:
        """Free the engine; further calls of embed raise. Safe to call twice."""
        ...


class EngineWithFrontEnd(Engine, Protocol):
    """An encoder with the front end of its bundle before it, on the same accelerator.

    `embed` takes normalised frames (N, 1, frames, n_fft) float32 in place of log-mel.
    """

    @property
    def encoder(self) -> Engine:
        """The same encoder without its front end, from log-mel, for the reference segments. Must not be closed alone."""
        ...

    def logmel(self, frames: Float32Array) -> Float32Array:
        """The front end alone: frames (N, frames, n_fft) float32 to log-mel (N, 1, frames, n_mels) float32."""
        ...
