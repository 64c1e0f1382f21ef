"""Area `service`: the database of a service and what waits in its outbox. Checked if a site file is named."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.storage import Database
from edgeasd.runtime.storage.database import quarantined_files

AREA = "service"
_WHY = "A disk that corrupts one file will corrupt others: check its health, and the power supply."
_EVENTS = "Events and messages are kept in it."


def check_service(data: Path) -> list[CheckResult]:
    """Results `store` and `outbox` of the data folder `data`. Nothing is written but what SQLite needs to read."""
    path = data / "events.db"
    return [_store(path), _outbox(path)]


def _store(path: Path) -> CheckResult:
    if (reason := _refusal(path.parent)) is not None:
        why = "Alarms leave from memory meanwhile, and a restart loses what is not stored. Make it writable again."
        return CheckResult(AREA, "store", "problem", reason, why)
    quarantined = quarantined_files(path)
    if quarantined:
        why = f"Earlier events and scores are only there; numbers continued above those that were given. {_WHY}"
        found = f"{len(quarantined)} corrupt, quarantined by the service; the latest is {quarantined[-1]}"
        return CheckResult(AREA, "store", "warning", found, why)
    if not path.exists():
        return CheckResult(AREA, "store", "absent", f"{path}: no service has written one yet", _EVENTS)
    try:
        Database(path, read_only=True).close()
    except InputError as error:
        return CheckResult(AREA, "store", "problem", str(error), _WHY)
    return CheckResult(AREA, "store", "ok", str(path), _EVENTS)


def _refusal(folder: Path) -> str | None:
    """Why the disk of a folder cannot be written now."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    if disk.f_flag & os.ST_RDONLY:
        return f"{folder}: its disk is read-only"
    return f"{folder}: its disk is full" if disk.f_bavail == 0 else None


def _outbox(path: Path) -> CheckResult:
    why = "Messages wait there until every output has delivered them."
    try:
        with Database(path, read_only=True) as database:
            outputs = database.read(
                "SELECT output, count(outbox.seq), min(created) FROM cursors LEFT JOIN outbox ON outbox.seq > cursors.seq "
                "GROUP BY output ORDER BY output"
            )
    except InputError:
        return CheckResult(AREA, "outbox", "absent", f"{path}: none yet", why)
    if not outputs:
        return CheckResult(AREA, "outbox", "absent", "no output has read from it", why)
    texts = []
    for name, count, created in outputs:
        age = f", the first for {max(0.0, time.time() - created) / 3600:.1f} h" if count else ""
        texts.append(f"{name}: {count} wait{age}")
    return CheckResult(AREA, "outbox", "ok", "; ".join(texts), why)
