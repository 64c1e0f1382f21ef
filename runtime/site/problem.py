"""What is wrong with a site: one line for people, and its parts for programs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_POSITION = re.compile(r"\(at line (\d+), column (\d+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where in the site file, and the rest of the line."""

    place: str
    """A table or key of the site file, such as streams.pump; the file itself where it cannot be read."""
    what: str
    """The line after the place: value, what is wrong with it, remedy."""
    stream: str | None = None
    """The stream that cannot run because of it, where the others can."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        """`place`, `value`, `problem`, `remedy` and the whole `line`; what a line does not have is null.

        `line_number` and `column` are those of a TOML error.
        """
        head, divided, remedy = self.what.rpartition("; ")
        value, named, problem = (head if divided else self.what).partition(": ")
        found = _POSITION.search(self.what)
        return {
            "place": self.place,
            "value": value if named else None,
            "problem": problem if named else value,
            "remedy": remedy if divided else None,
            "line": str(self),
            **({} if found is None else {"line_number": int(found[1]), "column": int(found[2])}),
        }


def problem_of_file(path: str, line: str) -> Problem:
    """The problem that `line` tells, which `read_site` raised for `path`."""
    told = line.removeprefix(f"{path}: ")
    head, named, rest = told.partition(": ")
    key, _, value = head.partition(" ")
    if not named or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        return Problem(path, told)
    return Problem(key, f"{value}: {rest}" if value else rest)
