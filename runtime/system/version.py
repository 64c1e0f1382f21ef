"""The version of edgeasd that runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version


@cache
def package_version() -> str:
    """Version of edgeasd, read from the metadata of the package once; "unknown" where that fails."""
    try:
        return version("edgeasd")
    except Exception:  # without a descriptor importlib.metadata raises what it likes; a message does without a version
        return "unknown"
