"""docs/how-to/outputs.md is true: its settings are read, its receiver receives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made import EVENT_ID, Station, event, free_port, until

from edgeasd.runtime.outputs import parse_outputs
from edgeasd.runtime.outputs.settings import TYPES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "how-to" / "outputs.md").read_text("utf-8")


def test_settings_shown_are_read(page: str) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        found = parse_outputs(tomllib.loads(block)["outputs"], "docs/how-to/outputs.md")
        assert {settings.type for settings in found.values()} == set(TYPES)


def test_receiver_shown_takes_signed_messages_once(page: str, tmp_path: Path) -> None:
    pytest.importorskip("httpx", reason="NO httpx: pip install 'edgeasd[serve]'")
    code = next(block for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "receiver.py").write_text(code)
    port = free_port()
    secret = tmp_path / "secret"
    secret.write_text("key\n")
    secret.chmod(0o600)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "receiver.py"), str(port)],
        env={**os.environ, "EDGEASD_WEBHOOK_SECRET": "key"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    table = {"type": "webhook", "url": f"http://127.0.0.1:{port}/", "retry_first_seconds": 0.05}
    try:
        with Station(tmp_path / "signed", {"h": {**table, "secret_file": str(secret)}}) as station:
            station.put(event(1, test=True))
            station.put(event(2, state="normal", reason="test_over", test=True))
            station.put(event(3))
            station.put(event(4, previous="alarm", reason="goes_on"))
            station.put(event(5, previous="alarm", state="acknowledged", reason="acknowledged"))
            station.put(event(6, previous="acknowledged", state="cleared"))
            station.put(event(7, previous="cleared", state="normal", reason="cooldown_over") | {"event": None})
            station.put(event(8))
            station.put(event(9, state="normal", reason="store_lost") | {"event": None})
            until(lambda: station.state().delivered == 9)
        with Station(tmp_path / "unsigned", {"h": table}) as station:
            station.put(event(10))
            until(lambda: "answered 401" in str(station.state().last_error))
    finally:
        process.kill()
    assert process.communicate()[0].splitlines() == [
        f"open {EVENT_ID} valve 00 0.06",
        f"close {EVENT_ID} valve 00 score",
        f"open {EVENT_ID} valve 00 0.06",
        f"close {EVENT_ID} valve 00 store_lost",
    ]
