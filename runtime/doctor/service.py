"""Area `service`: what a service keeps in its data folder, and what of it was damaged. Looked at where a site is named."""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.storage.database import were_put_aside

AREA = "service"
_WHY = "A disk that damages one file will damage others: look at its health, and at the power supply."


def check_service(data: Path) -> list[CheckResult]:
    """Results `store` and `queues` of the data folder `data`; nothing is written there but what SQLite needs to read."""
    return [_store(data / "events.db"), _queues(data / "queues")]


def _store(path: Path) -> CheckResult:
    aside = were_put_aside(path)
    if aside:
        why = f"Earlier events and scores are only there; numbers went on above those that were given. {_WHY}"
        found = f"{len(aside)} damaged, put aside by the service; the latest is {aside[-1]}"
        return CheckResult(AREA, "store", "warning", found, why)
    if not path.exists():
        return CheckResult(AREA, "store", "absent", f"{path}: no service has written one yet", "Events are kept in it.")
    try:
        EventStore(path, read_only=True).close()
    except InputError as error:
        return CheckResult(AREA, "store", "problem", str(error), _WHY)
    return CheckResult(AREA, "store", "ok", str(path), "Events are kept in it.")


def _queues(folder: Path) -> CheckResult:
    names = {path.name.partition(".damaged-")[0] for path in folder.glob("*.queue.db.damaged-*")}
    aside = [one for name in sorted(names) for one in were_put_aside(folder / name)]
    if aside:
        why = f"What had not been delivered is only there. {_WHY}"
        found = f"{len(aside)} damaged, put aside by the service; one is {aside[-1]}"
        return CheckResult(AREA, "queues", "warning", found, why)
    count = len(list(folder.glob("*.queue.db")))
    return CheckResult(AREA, "queues", "ok" if count else "absent", f"{count} in {folder}", "Messages wait there.")
