"""The errors a user may meet, each with the exit code of the command that meets it.

A message is one line: what is wrong (with the offending value), where, and what to do.
The command line prints it as it stands; any other exception that reaches a user is a defect.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

HIDDEN = "***"
"""Stands in place of a secret."""
_SECRET_NAME = r"[\w.-]*(?:passwor[dt]|passwd|passphrase|pwd|token|secret|api[-_]?key|signature|credential|auth)[\w.-]*"
_IN_URLS = (
    # To the last @ of the word: a password may hold an @ or a / that should have been written as %40 or %2F.
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,3})[^\s'\"<>]*@"), rf"\1{HIDDEN}@"),
    (re.compile(rf"([?&;]{_SECRET_NAME}=)[^&\s'\"#]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without user and password of URLs, without tokens in their queries, and without `secrets`."""
    for pattern, shown in _IN_URLS:
        text = pattern.sub(shown, text)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


class EdgeasdError(Exception):
    """Base of every error that is shown to a user. Passwords in URLs are left out of its text."""

    exit_code = 2

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(one) if isinstance(one, str) else one for one in arguments))


class InputError(EdgeasdError):
    """Wrong use or bad input: a file, a manifest, an option (exit code 2)."""

    exit_code = 2


class BundleError(InputError):
    """A bundle that cannot be trusted or read (exit code 2)."""


class CheckFailed(EdgeasdError):
    """A check ran and failed: parity, drift, reference segments (exit code 1)."""

    exit_code = 1


class DeviceError(EdgeasdError):
    """A sound device, engine or accelerator that is not available (exit code 3)."""

    exit_code = 3


ALLOWED = {
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$": "letters, digits, - and _, at most 32, a letter or digit first",
    r"^[a-z0-9][a-z0-9_-]{0,31}$": "small letters, digits, - and _, at most 32, a letter or digit first",
    r"^[a-z0-9][a-z0-9-]{0,31}$": "small letters, digits and -, at most 32, such as int8-cpu",
    r"^[A-Za-z0-9_-]{1,64}$": "letters, digits, - and _, at most 64",
    r"^[A-Za-z0-9_/-]{1,64}$": "letters, digits, -, _ and /, at most 64",
    r"^[A-Za-z_][A-Za-z0-9_]{0,127}$": "the name of an environment variable: letters, digits and _, no digit first",
    r"^[^\x00-\x1f\x7f+#$/][^\x00-\x1f\x7f+#]{0,127}$": "levels such as plant/edgeasd, without + and #, at most 128",
    r"^(auto|cpu|cuda(:[0-9]{1,3})?)$": "auto, cpu, cuda, or cuda:1 for the second one",
    r"^[^+#\x00-\x1f]+$": "a topic such as plant/pump/state, without + and #",
    r"^[^\x00-\x1f\x7f]+$": "text without control characters",
    r"^[^\x00-\x1f\x7f-\x9f]+$": "text without control characters",
}
"""Patterns of settings in words for people."""


def describe_validation_error(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, as `field.field value: what; remedy`; an unknown key with the nearest known name.

    A value that may be a URL with a password is left out.
    """
    problems = error.errors(include_url=False)
    # A misspelt key is both unknown and missing; only "unknown" says what to do.
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    location = [part for part in first["loc"] if part != "[key]"]
    where = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _fields(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
        return printable(f"{where}: unknown; {hint}")
    if first["type"] == "missing":
        return printable(f"{where}: is missing; add it")
    what, given = first["msg"].removeprefix("Value error, "), first["input"]
    if first["type"] == "string_pattern_mismatch":
        pattern = first.get("ctx", {}).get("pattern", "")
        what = f"is not allowed; use {ALLOWED.get(pattern, f'what fits {pattern}')}"
    is_key = len(location) < len(first["loc"])
    hidden = is_key or isinstance(given, Mapping) or "@" in str(given)
    shown = "" if hidden else f" {str(given)[:80]!r}"
    remedy = "" if ";" in what else "; correct it"
    return printable(f"{where}{shown}: {what}{remedy}".removeprefix(": "))


def accept_old_keys(value: Any, new_names: Mapping[str, str]) -> Any:
    """Settings with the keys of earlier versions (old to new) renamed. Raises ValueError if both names are given."""
    if not isinstance(value, Mapping):
        return value
    for old, new in new_names.items():
        if old in value and new in value:
            raise ValueError(f"{old}: is the old name of {new}; give {new} alone")
    return {new_names.get(key, key): item for key, item in value.items()}


def printable(text: object, longest: int = 400) -> str:
    """Text that comes from outside, as it may be shown: one line, printable characters, at most `longest` of them."""
    shown = str(text)[: 4 * longest]
    line = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def escaped(text: object) -> str:
    """Text from outside, such as a file name, as it may be shown on a terminal: all of it, on one line.

    Escape sequences, line feeds and marks that reverse the writing become `\\x1b`, `\\n`, `\\u202e`. Bytes of names
    that are not UTF-8 (as `os.fsdecode` holds them) stay what they are.
    """
    return "".join(
        c if c.isprintable() or 0xDC80 <= ord(c) <= 0xDCFF else c.encode("unicode_escape").decode() for c in str(text)
    )


def _fields(model: Any, location: list[Any]) -> list[str]:
    """Names that are known at `location` below `model`."""
    named = False
    for part in location:
        if named:  # the name of a table in a table of tables, whose model is known already
            named = False
        elif part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = next((kind for kind in _leaves(annotation) if _is_model(kind)), model)
            named = getattr(annotation, "__origin__", None) is dict
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _leaves(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [annotation] if not inner else [leaf for part in inner for leaf in _leaves(part)]


def to_user_error(error: Exception) -> EdgeasdError:
    """`error` as one line for a user. An error of a library or the system becomes a DeviceError that names its type."""
    if isinstance(error, EdgeasdError):
        return error
    return DeviceError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
