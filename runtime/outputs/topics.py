"""MQTT topics: `<prefix>/<site>/<machine>/<id>/<leaf>`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

ONLINE, OFFLINE = b"online", b"offline"
_DEVICE = "_box"


def level(name: str) -> str:
    """A name as one level of a topic: `/ + # %`, control characters and what is not ASCII become %XX.

    So does a leading underscore: no machine can take the level of the device, `_box`.
    """
    text = quote(name, safe=" !&'()*,:;=@[]")
    return "%5F" + text[1:] if text.startswith("_") else text


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device at one site."""

    prefix: str
    site: str
    device: str

    @property
    def availability(self) -> str:
        """Holds `online`; `offline` at the end and as the last will."""
        return f"{self.prefix}/{level(self.site)}/{_DEVICE}/{level(self.device)}/online"

    @property
    def commands(self) -> str:
        """The filter for all command topics of the site."""
        return f"{self.prefix}/{level(self.site)}/+/+/command"

    def of(self, machine: str | None, id: str | None, leaf: str) -> str:
        """A topic of a machine; of the device itself if machine and ID are None."""
        place = f"{level(machine)}/{level(id)}" if machine and id else f"{_DEVICE}/{level(self.device)}"
        return f"{self.prefix}/{level(self.site)}/{place}/{leaf}"

    def machine_of(self, topic: str) -> tuple[str, str] | None:
        """Machine and ID of a command topic; None for any other topic."""
        own = f"{self.prefix}/{level(self.site)}/"
        levels = topic.removeprefix(own).split("/")
        if not topic.startswith(own) or len(levels) != 3 or levels[2] != "command" or levels[0] == _DEVICE:
            return None
        machine, id = unquote(levels[0]), unquote(levels[1])
        # Only the spelling that `of` gives, so that a machine has one command topic.
        return (machine, id) if self.of(machine, id, "command") == topic else None
