"""The timing cache: TensorRT's measurements on this machine, stored beside the engines so that it measures once.

TensorRT reads it in C++ without checks, so the file has a header of ours: a line with the format, a line of JSON with
machine and hash, then TensorRT's bytes.
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
    """The cache file of a bundle folder."""
    return Path(bundle) / FOLDER / NAME


def read_cache(path: Path, machine: DeviceInfo) -> tuple[bytes, str]:
    """(TensorRT's bytes, why they are not used). One of the two is empty; both are if there is no cache."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(LARGEST_CACHE + 1)
    except FileNotFoundError:
        return b"", ""
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})"
    form, _, rest = data.partition(b"\n")
    header, _, content = rest.partition(b"\n")
    if len(data) > LARGEST_CACHE or form != _FORMAT:
        return b"", "not a timing cache of this edgeasd"
    try:
        stored = json.loads(header)
        made_on = DeviceInfo(**stored["machine"])
        if stored["sha256"] != hashlib.sha256(content).hexdigest():
            return b"", "damaged"
    except (ValueError, KeyError, TypeError, RecursionError):
        return b"", "damaged"
    if made_on != machine:
        return b"", "made on another machine or by another TensorRT"
    return content, ""


def write_cache(path: Path, machine: DeviceInfo, data: bytes) -> None:
    """Write the cache atomically."""
    header = {"machine": asdict(machine), "sha256": hashlib.sha256(data).hexdigest()}
    write_bytes(path, b"\n".join([_FORMAT, json.dumps(header).encode(), data]))
