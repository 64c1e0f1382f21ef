"""docs/how-to/outputs.md is true: its settings are read, its receiver receives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made import EVENT_ID, event, free_port, until

from edgeasd.runtime.outputs import Outputs, parse_outputs
from edgeasd.runtime.outputs.settings import TYPES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "how-to" / "outputs.md").read_text("utf-8")


def test_the_settings_shown_are_read(page: str) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        found = parse_outputs(tomllib.loads(block)["outputs"], "docs/how-to/outputs.md")
        assert {settings.type for settings in found.values()} == set(TYPES)


def test_the_receiver_shown_takes_what_is_signed_once(page: str, tmp_path: Path) -> None:
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
        with Outputs(
            parse_outputs({"h": {**table, "secret_file": str(secret)}}, "o"), tmp_path / "q", site="plant"
        ) as hub:
            hub.put(event(1, test=True))
            hub.put(event(2, state="normal", reason="test_over", test=True))
            hub.put(event(3))
            hub.put(event(4, previous="alarm", reason="goes_on"))
            hub.put(event(5, previous="alarm", state="acknowledged", reason="acknowledged"))
            hub.put(event(6, previous="acknowledged", state="cleared"))
            hub.put(event(7, previous="cleared", state="normal", reason="cooldown_over") | {"event": None})
            hub.put(event(8))
            hub.put(event(9, state="normal", reason="store_lost") | {"event": None})
            until(lambda: hub.state()[0].delivered == 9)
        with Outputs(parse_outputs({"h": table}, "o"), tmp_path / "unsigned", site="plant") as hub:
            hub.put(event(10))
            until(lambda: "answered 401" in str(hub.state()[0].last_error))
    finally:
        process.kill()
    assert process.communicate()[0].splitlines() == [
        f"open {EVENT_ID} valve 00 0.06",
        f"close {EVENT_ID} valve 00 score",
        f"open {EVENT_ID} valve 00 0.06",
        f"close {EVENT_ID} valve 00 store_lost",
    ]
