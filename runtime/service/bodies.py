"""Bodies of the messages that the service sends about itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgeasd.runtime.service.state import SiteState


def service_body(state: SiteState) -> dict[str, Any]:
    """The status of the service as a whole."""
    troubled = state.trouble is not None or any(one.state in ("degraded", "failed") for one in state.streams)
    return {
        "state": "degraded" if troubled else "running",
        "reason": state.trouble,
        "version": running_version(),
        "uptime_seconds": state.uptime_seconds,
        "outputs": [one.model_dump() for one in state.outputs],
    }


def running_version() -> str:
    """Version of edgeasd."""
    try:
        return version("edgeasd")
    except PackageNotFoundError:
        return "unknown"
