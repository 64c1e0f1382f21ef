"""Times as a user types them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from edgeasd.runtime.errors import InputError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def parse_time(text: str, option: str, now: float) -> float:
    """Seconds since 1970 of `2027-01-31`, `2027-01-31T08:00` (UTC unless it says otherwise), or `24h` before `now`.

    Raises InputError that names `option`.
    """
    if found := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
        return max(0.0, now - int(found[1]) * _UNITS[found[2]])
    try:
        # Python 3.10 does not know the Z of our own messages.
        value = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text))
        seconds = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        shown = "".join(c if c.isprintable() else "?" for c in text)[:80]
        raise InputError(f"{option} {shown}: not a time; give 2027-01-31, 2027-01-31T08:00, 24h or 7d") from None
    return max(0.0, seconds)
