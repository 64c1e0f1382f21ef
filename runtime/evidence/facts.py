"""facts.json: what the evidence of one event is, and what became of it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeasd.runtime.alarms.event_id import PATTERN
from edgeasd.runtime.errors import InputError

FACTS, CLIP, SCORES, PICTURE = "facts.json", "clip.flac", "scores.jsonl", "picture.png"
FILES = (CLIP, SCORES, PICTURE, FACTS)
LARGEST_FACTS = 1_000_000
MOST_RATE = 655_350
"""Hz; more than that FLAC cannot say."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Wall = Annotated[float, Field(ge=0.0, le=1e11, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**62)]
_Word = Annotated[str, Field(max_length=500)]


class Gap(BaseModel):
    """Sound that was lost: silence of the same length stands in its place."""

    model_config = ConfigDict(frozen=True)

    at_seconds: _Number
    """From the beginning of the clip."""
    samples: _Count


class Facts(BaseModel):
    """The evidence of one event. Times are wall clock in seconds since 1970 unless a name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    type: Literal["evidence"] = "evidence"
    event: Annotated[str, Field(pattern=PATTERN)]
    machine: _Word
    id: _Word
    test: bool = False
    raised_at: _Wall
    threshold: _Number | None = None
    sample_rate: Annotated[int, Field(ge=1, le=MOST_RATE)]
    bits: Literal[16, 24]
    raised_seconds: _Number
    """From the beginning of the clip to the alarm."""
    samples: _Count = 0
    ended: Literal["recording", "complete", "longest", "stopped", "source", "killed", "no_room"] = "recording"
    gaps: Annotated[tuple[Gap, ...], Field(max_length=10_000)] = ()
    lost_samples: _Count = 0
    size: _Count = 0
    """Bytes of all files of this evidence; 0 after they were deleted."""
    deleted_at: _Wall | None = None
    deleted_why: Literal["age", "size", "room"] | None = None

    def dumped(self) -> bytes:
        """The bytes of facts.json."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False)
        return f"{text}\n".encode()


def read_facts(folder: Path) -> Facts | None:
    """The facts of an evidence folder, None where there are none; InputError, one line, where they are damaged."""
    path = folder / FACTS
    if not is_plain_file(path):
        return None
    try:
        with open(path, "rb") as handle:
            text = handle.read(LARGEST_FACTS)
        return Facts.model_validate_json(text)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        shown = "".join(c if c.isprintable() else " " for c in what)[:200]
        raise InputError(f"{path}: {shown}; delete this folder, its evidence cannot be trusted") from None


def is_plain_file(path: Path) -> bool:
    """Whether it is a file in a folder, neither of them a link that leads elsewhere."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and stat.S_ISDIR(os.lstat(path.parent).st_mode)
    except (OSError, ValueError):
        return False
