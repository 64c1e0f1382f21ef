"""Where on a broker what is: `<prefix>/<site>/<machine>/<id>/<leaf>`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

ONLINE, OFFLINE = b"online", b"offline"
_BOX = "_box"


def level(name: str) -> str:
    """A name as one level of a topic: `/ + # %`, control characters and what is not ASCII as %XX.

    A leading underscore too, so that no machine is called `_box`.
    """
    text = quote(name, safe=" !&'()*,:;=@[]")
    return "%5F" + text[1:] if text.startswith("_") else text


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one box at one site."""

    prefix: str
    site: str
    box: str

    @property
    def availability(self) -> str:
        """`online`, or `offline` as the last will."""
        return f"{self.prefix}/{level(self.site)}/{_BOX}/{level(self.box)}/online"

    @property
    def commands(self) -> str:
        """The filter that all command topics of the site fit."""
        return f"{self.prefix}/{level(self.site)}/+/+/command"

    def of(self, machine: str, id: str, leaf: str) -> str:
        """A topic of a machine; of the box itself, where machine and ID are empty."""
        where = f"{level(machine)}/{level(id)}" if machine else f"{_BOX}/{level(self.box)}"
        return f"{self.prefix}/{level(self.site)}/{where}/{leaf}"

    def machine_of(self, topic: str) -> tuple[str, str] | None:
        """Machine and ID of a command topic; None for any other."""
        own = f"{self.prefix}/{level(self.site)}/"
        levels = topic.removeprefix(own).split("/")
        if not topic.startswith(own) or len(levels) != 3 or levels[2] != "command" or levels[0] == _BOX:
            return None
        machine, id = unquote(levels[0]), unquote(levels[1])
        # Only the one spelling that `of` gives, so that a machine has one command topic.
        return (machine, id) if self.of(machine, id, "command") == topic else None
