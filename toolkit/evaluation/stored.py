"""evaluation.json read back and checked: what `edgeasd evaluate` stored, for export and for comparisons."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.runs import Run, load_run

NAME = "evaluation.json"


@dataclass(frozen=True)
class StoredEvaluation:
    """The contents of an evaluation.json, where it lies, and the run beside it where there is one."""

    path: Path
    content: dict[str, Any]
    run: Run | None

    @property
    def label(self) -> str:
        """Machine and ID for people."""
        return f"{self.content['machine']} ID {self.content['id']}"


def read_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation.json, checked as far as its readers rely on it. Raises InputError that names the file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no evaluation here; make it with `edgeasd evaluate`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); evaluate again or delete it") from None
    wrong = wrong_in(content)
    if wrong:
        raise InputError(f"{path}: {wrong}; evaluate again or delete it")
    return dict(content)


def stored_evaluation(source: Path, update: str | None = None) -> StoredEvaluation:
    """The evaluation in a run folder (of its newest update by default, see `Run.chosen`), or an evaluation.json.

    Raises InputError where there is none, and where the run was trained anew since.
    """
    run: Run | None = None
    if source.is_dir():
        run = load_run(source).chosen(update)
        path = run.folder / NAME
    else:
        path = source
        if (source.parent / "run.json").is_file():
            run = load_run(source.parent)
    content = read_evaluation(path)
    if run is not None and content["trained"] != run.facts.get("started"):
        raise InputError(f"{path}: is of an earlier training of this folder; run `edgeasd evaluate` again")
    return StoredEvaluation(path, content, run)


def wrong_in(content: Any) -> str | None:
    """What keeps `content` from being an evaluation, or None."""
    if not isinstance(content, dict):
        return f"holds {type(content).__name__}, expected an object"
    for name, kind in (("machine", str), ("id", str), ("trained", str), ("figures", dict), ("clips", list)):
        if not isinstance(content.get(name), kind):
            return f"{name} is missing or no {kind.__name__}"
    figures = content["figures"]
    for name, one in figures.items():
        if not isinstance(one, dict) or not all(_is_figure(one.get(key)) for key in ("auc", "pauc_0.1")):
            return f"figures.{name} is no set of figures"
    for number, clip in enumerate(content["clips"]):
        named = isinstance(clip, dict) and all(isinstance(clip.get(key), str) for key in ("file", "label"))
        if not named or not all(_is_number(clip.get(name)) for name in figures):
            return f"clips.{number} has no file, label or score"
    return None


def _is_figure(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
