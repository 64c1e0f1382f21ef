"""Where an alarm machine goes on after a start: at what the store says, and never at a number that was given before."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import Outputs
from edgeasd.runtime.service.kept import Kept
from edgeasd.runtime.service.ledger import Ledger


def restore(
    kept: Kept, ledger: Ledger, outputs: Outputs | None, *, booted_anew: bool, log: Callable[[str], None]
) -> None:
    """Go on where the store stands; above all numbers that were ever given, where it does not know them all.

    The row of scores begins afresh: what sounded in between was not heard. `booted_anew` says that the monotonic clock has begun again since. Raises InputError where the store cannot be read.
    """
    machine, id = kept.machine_type, kept.id
    snapshot = ledger.read(lambda store: store.snapshot(machine, id))
    lost = snapshot is None and ledger.began_anew
    if snapshot is not None:
        now = time.monotonic() if booted_anew else None
        try:
            kept.machine.restore(snapshot, time=now, place=f"{ledger.path}: state of {kept.name}")
        except InputError as error:
            lost = True
            log(f"{error}; until then its alarms begin as normal")
        kept.machine.reset_history()
    said = ledger.read(lambda store: store.last_sequence(machine, id))
    heard = 0 if outputs is None else outputs.highest_event(machine, id)
    if lost or max(said, heard) > kept.machine.sequence:
        # Numbers that only receivers know lie below the seconds since 1970: none rises by one a second for long.
        wall = time.time()
        kept.begin_numbers(max(said, heard, int(wall)), wall)
