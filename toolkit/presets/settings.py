"""Fields of a preset by name: listed with what they mean, and set with FIELD=VALUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.presets import FinetunePlan, Preset

_PLAN = "finetune"

FIXED_IN_TRAINING = {
    "name": "it says which preset the values come from; choose one with --preset",
    "batch_anomaly": "training knows no anomalies; set finetune.batch_anomaly for an update",
}
"""Fields that `train --set` refuses, with the reason."""

FIXED_IN_AN_UPDATE = {
    name: "an update begins with the network and the split of the model that was trained"
    for name in (
        *("name", "backbone", "method", "holdout_fraction", "test_fraction"),
        *("segment_frames", "sections", "zero_init_residual", "estimate_norms_first", "embedding_size"),
    )
} | {f"{_PLAN}.{name}": f"this is an update; set {name}" for name in FinetunePlan.model_fields}
"""Fields that `finetune --set` refuses, with the reason."""


def field_meanings() -> dict[str, str]:
    """What every field means, by name; those of the fine-tuning plan as `finetune.…`."""
    own = {name: str(field.description) for name, field in Preset.model_fields.items() if name != _PLAN}
    plan = {f"{_PLAN}.{name}": str(field.description) for name, field in FinetunePlan.model_fields.items()}
    return own | plan


def field_values(preset: Preset) -> dict[str, Any]:
    """Every field's value, under the names of `field_meanings`."""
    raw = preset.model_dump()
    plan = raw.pop(_PLAN)
    return raw | {f"{_PLAN}.{name}": value for name, value in plan.items()}


def with_settings(
    preset: Preset, settings: Sequence[str], fixed: Mapping[str, str], options: Mapping[str, Any] | None = None
) -> Preset:
    """`preset` with FIELD=VALUE texts applied, and `options`, {field: value}, whose None means not given.

    A value is read as its field's type (`1e-4`, `30`, `true`). Raises InputError, with the list of
    fields for an unknown one; for a field in `fixed`, with its reason; for a field that is set
    twice; and for a value that the preset refuses.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    changes: dict[str, Any] = dict(given)
    known = field_meanings()
    for text in (" ".join(setting.split()) for setting in settings):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise InputError(f"--set {text}: expected FIELD=VALUE, such as lam=0.5; `edgeasd preset show` lists them")
        if name not in known:
            raise InputError(
                f"--set {text}: unknown field {name!r}; use one of {', '.join(sorted({*known} - {*fixed}))}"
            )
        if name in fixed:
            raise InputError(f"--set {text}: {name} stays as it is: {fixed[name]}")
        if name in changes:
            other = "an option of its own" if name in given else "--set"
            raise InputError(f"--set {text}: {name} is given twice, the other time by {other}; pass it once")
        changes[name] = value
    plan = {name.removeprefix(f"{_PLAN}."): changes.pop(name) for name in list(changes) if "." in name}
    if plan:
        changes[_PLAN] = {**preset.finetune.model_dump(), **plan}
    return preset.changed(**changes)


def describe_changes(before: Preset, after: Preset) -> str:
    """The fields in which two presets differ, as `lam = 0.5, eta = 1.0`; empty for none."""
    old, new = field_values(before), field_values(after)
    return ", ".join(f"{name} = {value}" for name, value in new.items() if value != old[name])
