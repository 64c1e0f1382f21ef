"""Addresses in settings: taken apart, and checked for what they should not hold."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit


def split_url(value: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL of one of `schemes`. Raises ValueError, for a user and password in it too."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"is not {' or '.join(f'{scheme}://HOST' for scheme in schemes)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or password, which would be shown; give them by file or environment")
    if parts.fragment or not value.isascii() or " " in value or parts.port == 0:
        raise ValueError("is not a plain address; correct it")
    return parts


def split_address(value: str) -> tuple[str, int]:
    """HOST and PORT of HOST:PORT or [HOST]:PORT. Raises ValueError."""
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise ValueError("is not HOST:PORT, such as 127.0.0.1:9464")
    return host, int(port)


def is_loopback(host: str | None) -> bool:
    """Whether `host` is this machine, by its name or number alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def one_of(first: str | None, second: str | None, *names: str) -> bool:
    """Whether one is given; raises ValueError for both."""
    if first is not None and second is not None:
        raise ValueError(f"{names[0]} and {names[1]} are both given; give one")
    return (first or second) is not None
