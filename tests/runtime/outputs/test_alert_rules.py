"""The alert rules of docs/how-to/outputs.md, as Prometheus itself reads and judges them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PUMP, FAN = 'id="00",machine="pump"', 'id="00",machine="fan"'
WELL: dict[str, str] = {
    'edgeasd_alarm_state{%s,state="alarm"}': "0x30",
    "edgeasd_input_unhealthy{%s}": "0x30",
    'edgeasd_stream_state{%s,state="failed"}': "0x30",
    "edgeasd_segments_scored_total{%s}": "0+300x30",
    'edgeasd_output_connected{output="mqtt"}': "1x30",
    'edgeasd_output_queued_messages{output="mqtt"}': "0x30",
    'up{job="edgeasd"}': "1x30",
}
"""Half an hour, a sample a minute, in which nothing is wrong; `%s` is the machine."""


@pytest.fixture
def rules(repository: Path, tmp_path: Path) -> Path:
    if shutil.which("promtool") is None:
        pytest.skip("NO PROMETHEUS: promtool is not installed (apt install prometheus)")
    blocks = re.findall(
        r"```yaml\n(.*?)```", (repository / "docs" / "how-to" / "outputs.md").read_text("utf-8"), re.DOTALL
    )
    (found,) = [block for block in blocks if block.startswith("groups:")]
    path = tmp_path / "rules.yml"
    path.write_text(found, "utf-8")
    return path


def alerts(rules: Path, wrong: dict[str, str]) -> set[str]:
    """Names of the alerts that fire for the pump after half an hour in which `wrong` was so; none may for the fan."""
    series = [(name % FAN if "%s" in name else name, values) for name, values in WELL.items() if name not in wrong]
    series += [(name % PUMP if "%s" in name else name, wrong.get(name, values)) for name, values in WELL.items()]
    series = sorted({name: values for name, values in series if values}.items())
    names = re.findall(r"- alert: (\w+)", rules.read_text("utf-8"))
    # promtool prints what fired if that is not what was expected, and that is nothing here.
    test: dict[str, Any] = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "alert_rule_test": [{"eval_time": "30m", "alertname": name, "exp_alerts": []} for name in names],
            }
        ],
    }
    path = rules.with_name("test.yml")
    path.write_text(json.dumps(test), "utf-8")  # which is YAML, too
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    output = done.stdout + done.stderr
    assert 'machine="fan"' not in output.partition("got:[")[2]
    fired = set(re.findall(r"alertname: (\w+)", output))
    assert bool(done.returncode) == bool(fired), output
    assert output.count("got:[") == len(fired), output
    return fired


def test_prometheus_takes_the_rules(rules: Path) -> None:
    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert alerts(rules, {}) == set()


@pytest.mark.parametrize(
    ("wrong", "alert"),
    [
        ({'edgeasd_alarm_state{%s,state="alarm"}': "1x30"}, "MachineSoundsWrong"),
        ({"edgeasd_input_unhealthy{%s}": "1x30"}, "MachineNotHeard"),
        ({'edgeasd_stream_state{%s,state="failed"}': "1x30"}, "MachineNotHeard"),
        # Its bundle has never loaded: nothing is known of it but that.
        (
            {
                'edgeasd_stream_state{%s,state="failed"}': "1x30",
                "edgeasd_input_unhealthy{%s}": "",
                "edgeasd_segments_scored_total{%s}": "",
            },
            "MachineNotHeard",
        ),
        ({"edgeasd_segments_scored_total{%s}": "9000x30"}, "MachineNotHeard"),
        (
            {
                'edgeasd_output_connected{output="mqtt"}': "0x30",
                'edgeasd_output_queued_messages{output="mqtt"}': "7x30",
            },
            "OutputNotConnected",
        ),
        ({'up{job="edgeasd"}': "0x30"}, "BoxNotReached"),
    ],
)
def test_each_rule_fires_for_what_it_is_about(rules: Path, wrong: dict[str, str], alert: str) -> None:
    assert alerts(rules, wrong) == {alert}
