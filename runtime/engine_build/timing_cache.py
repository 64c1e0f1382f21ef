"""The timing cache: what TensorRT has measured on this machine, kept beside the engines so that it measures once.

TensorRT reads it in C++ and trusts it, so it goes into an envelope of ours: one line that names the format, one
line of JSON with the machine, the size and the hash, and then TensorRT's bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from edgeasd.runtime.engines.tensorrt.engine_file import FOLDER, DeviceInfo
from edgeasd.runtime.system.files import write_bytes

NAME = "timing.cache"
LARGEST_CACHE = 256 * 1024 * 1024
_FORMAT = b"edgeasd timing cache 1"


def cache_path(bundle: Path) -> Path:
    """Where a bundle folder keeps it."""
    return Path(bundle) / FOLDER / NAME


def read_cache(path: Path, machine: DeviceInfo) -> tuple[bytes, str]:
    """(TensorRT's bytes, why they are not used); one of the two is empty, or both where there is no cache."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(LARGEST_CACHE + 1)
    except FileNotFoundError:
        return b"", ""
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})"
    head, _, rest = data.partition(b"\n")
    line, _, kept = rest.partition(b"\n")
    if len(data) > LARGEST_CACHE or head != _FORMAT:
        return b"", "not a timing cache of this edgeasd"
    try:
        facts = json.loads(line)
        there = DeviceInfo(**facts["machine"])
        whole = facts["sha256"] == hashlib.sha256(kept).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        return b"", "damaged"
    if not whole:
        return b"", "damaged"
    if there != machine:
        return b"", "made on another machine or by another TensorRT"
    return kept, ""


def write_cache(path: Path, machine: DeviceInfo, data: bytes) -> None:
    """Replace the cache, whole or not at all."""
    facts = {"machine": asdict(machine), "sha256": hashlib.sha256(data).hexdigest()}
    write_bytes(path, b"\n".join([_FORMAT, json.dumps(facts).encode(), data]))
