"""Names of models in a Triton repository: folders, parts of addresses and labels of metrics at once."""

from __future__ import annotations

import hashlib
import json
import re

ENCODER, HEAD = "__encoder", "__head"
"""Endings of the parts. No name made here has two underscores in a row, so no model is taken for a part."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(_[A-Za-z0-9-]+)*")
_LONGEST = 100
_BETWEEN = "-id_"


def model_name(machine: str, id: str) -> str:
    """`<machine>-id_<id>`, as the bundle's folder is called.

    Where that is not of plain letters, digits, - and single _, is longer than 100 characters, or could be said of
    another pair as well, what is left of it gets a hash of the pair.
    """
    name = f"{machine}{_BETWEEN}{id}"
    if _PLAIN.fullmatch(name) and len(name) <= _LONGEST and name.count(_BETWEEN) == 1:
        return name
    left = re.sub(r"[^A-Za-z0-9-]+", "_", name)[:_LONGEST].strip("_-") or "model"
    return f"{left}-{hashlib.sha256(json.dumps([machine, id]).encode()).hexdigest()[:10]}"
