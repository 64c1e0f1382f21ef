"""site.toml: one line for whatever is wrong, no traceback, and nothing outside the data folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeasd.runtime.config import (
    ServiceConfig,
    StreamSettings,
    check_config,
    error_of_file,
    parse_config,
)
from edgeasd.runtime.config.load import config_schema
from edgeasd.runtime.errors import ALLOWED, DeviceError, InputError
from edgeasd.runtime.outputs.settings import JsonlSettings
from edgeasd.runtime.sources import SharedSources
from edgeasd.runtime.sources.shared import sharing_problems

pytestmark = pytest.mark.core

BUNDLE = Path(__file__).parents[2] / "data" / "valve-id_00"
STREAM = f'[streams.pump]\nbundle = "{BUNDLE}"\ndevice = "hw:1"\n'


def parsed(text: str, folder: Path) -> ServiceConfig:
    return parse_config(text.encode(), folder / "site.toml")


def refused(text: str, folder: Path) -> str:
    with pytest.raises(InputError) as found:
        parsed(text, folder)
    said = str(found.value)
    assert "\n" not in said
    assert said.startswith(str(folder / "site.toml"))
    return said


def test_short_file_uses_alarm_defaults_of_a_service(tmp_path: Path) -> None:
    site = parsed('site = "plant"\n' + STREAM, tmp_path)
    assert site.data == tmp_path / "data"
    stream = site.streams["pump"]
    assert (stream.live, stream.drops, stream.alarm.cooldown_seconds) == (True, True, 60.0)
    changed = parsed('site = "plant"\n' + STREAM + "[streams.pump.alarm]\nk = 2\nn = 5", tmp_path).streams["pump"].alarm
    assert (changed.k, changed.n, changed.cooldown_seconds, changed.clear_on_gap) == (2, 5, 60.0, False)


def test_relative_paths_start_at_site_file_or_data_folder(tmp_path: Path) -> None:
    text = 'site = "p"\ndata = "d"\n[streams.a]\nbundle = "b"\ninput = "x.wav"\n[outputs.log]\ntype = "jsonl"\npath = "l.jsonl"\n'
    text += '[outputs.hook]\ntype = "webhook"\nurl = "https://h/"\nsecret_file = "key"\n'
    site = parsed(text, tmp_path)
    assert site.streams["a"].bundle == str(tmp_path / "b")
    assert site.streams["a"].input == str(tmp_path / "x.wav")
    assert site.outputs["log"].path == str(tmp_path / "d" / "l.jsonl")  # type: ignore[union-attr]
    assert site.outputs["hook"].secret_file == str(tmp_path / "key")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (STREAM, "site: is missing"),
        ('site = "p"', "streams: is missing"),
        ('sit = "p"\n' + STREAM, "sit: unknown; did you mean site?"),
        ('site = "p"\n' + STREAM.replace("bundle", "bundel"), "streams.pump.bundel: unknown; did you mean bundle?"),
        (
            'site = "p"\n' + STREAM + "[streams.pump.alarm]\ncooldwn_seconds = 1",
            "streams.pump.alarm.cooldwn_seconds: unknown; did you mean cooldown_seconds?",
        ),
        (
            'site = "p"\n' + STREAM + "[streams.pump.health.level]\nlow_db = 1",
            "streams.pump.health.level.low_db: unknown; did you mean low_dbfs?",
        ),
        (
            'site = "p"\n[engines.e]\nprecison = "fp32"\n' + STREAM,
            "engines.e.precison: unknown; did you mean precision?",
        ),
        ('site = "p"\n' + STREAM + 'engine = "gpu"', "streams.pump.engine 'gpu': no such table in engines (none)"),
        ('site = "p"\n' + STREAM + 'input = "x"', "device and input are given"),
        ('site = "p"\n' + STREAM + "realtime = true", "realtime is not for device"),
        ('site = "p"\n' + STREAM.replace('device = "hw:1"', 'input = "-"'), "no standard input"),
        ('site = "p"\n' + STREAM + "enabled = false", "no stream is enabled"),
        ('site = "p"\n' + STREAM + '[outputs.x]\ntype = "mqt"', "did you mean mqtt?"),
        (
            'site = "p"\n' + STREAM + '[outputs.x]\ntype = "mqtt"\nurl = "mqtt://u:pw@h"',
            "give them by file or environment",
        ),
        (
            'site = "p"\n' + STREAM.replace("streams.pump", 'streams."pump 1"'),
            "streams.pump 1: is not allowed; use letters, digits, - and _",
        ),
        ('site = "p"\n[engines.e]\naccelerator = "gpu"\n' + STREAM, "'gpu': is not allowed; use auto, cpu, cuda"),
        ('site = "p"\ndata = "."\n' + STREAM, "holds the site file itself"),
        ('site = "p"\ndata = "/"\n' + STREAM, "holds the site file itself"),
        ("site = ", "not TOML (Invalid value (at line 1, column 7"),
        ('site = "p"\n\nä = 3', "(at line 3, column 1)"),
        ('site = "p"\nstreams = {', "(at line 2, column 12"),
        ("a = " + 1200 * "[", "not TOML"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_way_out(text: str, says: str, tmp_path: Path) -> None:
    said = refused(text, tmp_path)
    assert says in said
    assert "pw@" not in said


@pytest.mark.parametrize(
    "path", ["../x.jsonl", "/tmp/x.jsonl", "a/../../x", "events.db", "events.db-wal", "queues/x", "link/x", "."]
)
def test_output_file_outside_the_data_folder_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    said = refused(f'site = "p"\n{STREAM}[outputs.log]\ntype = "jsonl"\npath = "{path}"', tmp_path)
    assert "outputs.log.path" in said


def test_two_outputs_do_not_write_to_one_file(tmp_path: Path) -> None:
    log = 'type = "jsonl"\npath = "x"\n'
    assert "path of its own" in refused(f'site = "p"\n{STREAM}[outputs.a]\n{log}[outputs.b]\n{log}', tmp_path)


def test_the_check_names_every_problem_and_writes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("httpx", reason="NO httpx: pip install 'edgeasd[serve]'")
    text = f'site = "p"\n[streams.a]\nbundle = "{BUNDLE}"\ninput = "absent.wav"\n'
    text += f'[streams.b]\nbundle = "{BUNDLE}"\ndevice = "hw:1"\n[streams.c]\nbundle = "{BUNDLE}"\ndevice = "hw:2"\n'
    text += '[streams.d]\nbundle = "absent"\ndevice = "hw:3"\n'
    text += '[outputs.hook]\ntype = "webhook"\nurl = "https://h/"\nsecret_env = "EDGEASD_TEST_ABSENT"\n'
    report = check_config(parsed(text, tmp_path))
    assert [one.name for one in report.streams] == ["b", "c"]
    assert report.streams[0].threshold == pytest.approx(0.0401663)
    found = "\n".join(map(str, report.problems))
    for says in (
        "absent.wav: no such file",
        "streams.c: is machine valve 00, as b is",
        "streams.d",
        "EDGEASD_TEST_ABSENT",
    ):
        assert says in found
    assert len(report.problems) == 4
    assert str(report.fatal).startswith("streams.c: ")
    assert list(tmp_path.iterdir()) == []


# Anything at all

_PATHS = st.sampled_from(
    ["x", "x" * 300, "a/b", "../x", "/etc/passwd", "a/../../b", "~/x", "./.", "\\u0000", "data", "events.db", "-"]
)
_VALUES = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=12), _PATHS, st.lists(st.integers(), max_size=2)
)
_KEYS = st.one_of(
    st.sampled_from(
        [
            "site",
            "data",
            "streams",
            "outputs",
            "engines",
            "engine",
            "bundle",
            "device",
            "input",
            "input_command",
            "alarm",
            "health",
            "on",
            "off",
            "k",
            "n",
            "type",
            "path",
            "url",
            "jsonl",
            "mqtt",
            "webhook",
            "retention",
            "level",
            "low_dbfs",
            "sick",
            "pace",
            "channel",
            "mix",
            "realtime",
            "loop",
            "machine",
            "id",
        ]
    ),
    st.text(max_size=8),
)
_TABLES: Any = st.recursive(_VALUES, lambda inner: st.dictionaries(_KEYS, inner, max_size=4), max_leaves=12)


def toml(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)


def look_over(data: bytes, folder: Path) -> ServiceConfig | None:
    """Whatever `data` is: a site that stays in its folder, or one line."""
    said, site = "", None
    try:
        site = parse_config(data, folder / "site.toml")
    except InputError as error:
        said = str(error)
    assert said.isprintable()
    if site is None:
        return None
    assert not folder.is_relative_to(site.data)
    for output in site.outputs.values():
        if isinstance(output, JsonlSettings):
            assert Path(os.path.realpath(output.path)).is_relative_to(site.data)
    for problem in check_config(site).problems:
        assert "\n" not in str(problem)
    return site


_VARIABLE = "EDGEASD_TEST_SECRET"
_FILES = st.sampled_from(["secret", "../secret", "absent", "/etc/passwd", "", "x\u0000y", ".", "data/x"])
_SHARED: dict[str, Any] = {
    "kinds": st.lists(st.sampled_from(["event", "score", "health", "status", "x"]), max_size=3),
    "queue_megabytes": st.sampled_from([64.0, 0.0, -1]),
    "timeout_seconds": st.sampled_from([10.0, 0.0, "x"]),
    "ca_file": _FILES,
    "certificate_file": _FILES,
    "key_file": _FILES,
    "allow_plain_text": st.booleans(),
}
_NAMES = st.sampled_from([_VARIABLE, "EDGEASD_TEST_ABSENT", "a b", ""])


def _table(needed: dict[str, Any], optional: dict[str, Any]) -> Any:
    """With at most three of the optional keys: with more, one of them is nearly always refused at once."""
    some = st.lists(st.sampled_from(sorted(optional)), max_size=3, unique=True)
    return some.flatmap(lambda names: st.fixed_dictionaries(needed | {name: optional[name] for name in names}))


_MQTT = _table(
    {
        "type": st.just("mqtt"),
        "url": st.sampled_from(["mqtt://127.0.0.1", "mqtts://h:8883", "mqtt://u:pw@h", "http://h", "mqtt://[", ""]),
    },
    {
        **_SHARED,
        "protocol": st.sampled_from(["3.1.1", "5", "4"]),
        "client_id": st.sampled_from(["a", "../a", ""]),
        "username": st.just("u"),
        "password_file": _FILES,
        "password_env": _NAMES,
        "prefix": st.sampled_from(["edgeasd", "../x", "a/#", "/x"]),
        "discovery_prefix": _PATHS,
        "commands": st.booleans(),
    },
)
_WEBHOOK = _table(
    {
        "type": st.just("webhook"),
        "url": st.sampled_from(["https://h/x", "http://127.0.0.1/", "http://h/", "ftp://h", "https://u:pw@h/", "x"]),
    },
    {**_SHARED, "secret_file": _FILES, "secret_env": _NAMES, "token_file": _FILES, "token_env": _NAMES},
)


@pytest.mark.parametrize(("kind", "outputs"), [("mqtt", _MQTT), ("webhook", _WEBHOOK)])
def test_outputs_of_every_kind_give_a_site_or_one_line(
    kind: str, outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_VARIABLE, "a secret of the plant")
    plant, taken, clean = tmp_path / "plant", 0, 0
    plant.mkdir()
    for folder in (plant, tmp_path):
        (folder / "secret").write_text("a secret of the plant\n", "utf-8")
        (folder / "secret").chmod(0o600)

    def files() -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}

    before = files()

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(
        output=outputs, junk=st.sampled_from([{}] * 4 + [{"level": 1}]) | st.dictionaries(_KEYS, _VALUES, max_size=1)
    )
    def look(output: dict[str, Any], junk: dict[str, Any]) -> None:
        nonlocal taken, clean
        text = "\n".join(
            [
                'site = "p"',
                f"streams = {toml({'a': {'bundle': str(BUNDLE), 'device': 'hw:1'}})}",
                f"outputs = {toml({'out': {**output, **junk}})}",
            ]
        )
        site = look_over(text.encode(), plant)
        if site is not None and site.outputs["out"].type == kind:
            taken += 1
            report = check_config(site)
            said = "\n".join(map(str, report.problems)) + json.dumps(report.to_json())
            assert "secret of the plant" not in said
            clean += not report.problems

    look()
    # Refused at the first key each time, they would test nothing.
    assert taken >= 15
    assert clean >= 2 or importlib.util.find_spec("paho") is None
    assert files() == before
    assert {path.name for path in tmp_path.rglob("*")} == {"plant", "secret"}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    top=st.dictionaries(_KEYS, _TABLES, max_size=4),
    stream=st.dictionaries(_KEYS, _TABLES, max_size=4),
    output=st.dictionaries(_KEYS, _TABLES, max_size=3),
    path=_PATHS,
)
def test_tables_of_anything_give_a_site_or_one_line(
    top: dict[str, Any], stream: dict[str, Any], output: dict[str, Any], path: str, tmp_path: Path
) -> None:
    base = {"site": "p", "streams": {"a": {"bundle": path, "input": path, **stream}}}
    base["outputs"] = {"log": {"type": "jsonl", "path": path, **output}}
    look_over("\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in {**base, **top}.items()).encode(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=60), at=st.integers(0, 400), gone=st.integers(0, 20))
def test_bytes_of_anything_give_a_site_or_one_line(junk: bytes, at: int, gone: int, tmp_path: Path) -> None:
    text = f'site = "p"\n{STREAM}[outputs.log]\ntype = "jsonl"\npath = "l.jsonl"\n'.encode()
    look_over(text[:at] + junk + text[at + gone :], tmp_path)


# As a command


def edgeasd(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeasd", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_check_prints_streams_and_refuses_bad_ones(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('site = "plant"\n' + STREAM, "utf-8")
    done = edgeasd("run", "--config", "site.toml", "--check", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["streams"][0]["source"], report["problems"]) == ("hw:1", [])
    done = edgeasd("run", "--config", "site.toml", "--device", "hw:1", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--device: is set in the site file" in done.stderr
    (tmp_path / "site.toml").write_bytes(b'site = "p"\n#\xff\x00 = {')
    done = edgeasd("run", "--config", "site.toml", "--check", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = edgeasd("run", "--config", "site.toml", "--check", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["place"], problem["line_number"], problem["column"]) == ("site.toml", 2, 2)
    assert problem["line"] in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["site.toml"]


def test_the_check_says_of_each_input_what_the_start_would_say(tmp_path: Path) -> None:
    sounds = {"rate": (8000, 1, "PCM_16"), "stereo": (16_000, 2, "PCM_16"), "good": (16_000, 1, "PCM_24")}
    for name, (rate, channels, kind) in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", np.zeros((rate, channels), np.float32), rate, subtype=kind)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:1000])
    (tmp_path / "folder").mkdir()
    asked = {
        "a": 'input = "rate.wav"',
        "b": 'input = "stereo.wav"',
        "c": 'input = "cut.wav"',
        "d": 'input = "folder"',
        "e": 'input = "good.wav"',
        "f": 'input = "stereo.wav"\nchannel = 1',
        "g": 'input = "rate.wav"\nresample = true',
        "h": 'input_command = "no-such-program -x"\nonce = true',
        "i": 'input_command = "cat x"\nchannels = 2\nonce = true',
    }
    text = "".join(f'[streams.{name}]\nbundle = "{BUNDLE}"\nid = "{name}"\n{more}\n' for name, more in asked.items())
    site = parsed('site = "p"\n' + text, tmp_path)
    report = check_config(site)
    assert [one.name for one in report.streams] == ["e", "f", "g"]
    assert report.fatal is None
    said = {one.stream: one for one in report.problems}
    for name in "abcdhi":
        with pytest.raises((InputError, DeviceError)) as at_start:
            SharedSources().open(site.streams[name].source(), 16_000).read()
        assert str(said[name]) == f"streams.{name}: {at_start.value}"
    parts = said["a"].to_json()
    assert parts["place"] == "streams.a"
    assert parts["value"] == str(tmp_path / "rate.wav")
    assert parts["problem"] == "8000 Hz, the bundle expects 16000 Hz"
    assert parts["remedy"] == "resample it or pass --resample"


def test_bad_stream_stops_no_other_and_none_left_is_an_error(tmp_path: Path) -> None:
    bad = '[streams.b]\nbundle = "absent"\ndevice = "hw:3"\n'
    assert check_config(parsed('site = "p"\n' + STREAM + bad, tmp_path)).fatal is None
    assert str(check_config(parsed('site = "p"\n' + bad, tmp_path)).fatal).startswith("streams.b: ")
    hook = '[outputs.hook]\ntype = "webhook"\nurl = "https://h/"\nsecret_env = "EDGEASD_TEST_ABSENT"\n'
    assert str(check_config(parsed('site = "p"\n' + STREAM + hook, tmp_path)).fatal).startswith("outputs.hook: ")


@pytest.mark.parametrize(
    ("line", "place", "value", "problem", "remedy"),
    [
        (
            "streams.a.k 'x': Input should be an integer; correct it",
            "streams.a.k",
            "'x'",
            "Input should be an integer",
            "correct it",
        ),
        ("sit: unknown; did you mean site?", "sit", None, "unknown", "did you mean site?"),
        ("no such file; name a site file", "s.toml", None, "no such file", "name a site file"),
    ],
)
def test_a_line_about_the_file_is_taken_apart(line: str, place: str, value: str, problem: str, remedy: str) -> None:
    found = error_of_file("s.toml", f"s.toml: {line}").to_json()
    assert [found[name] for name in ("place", "value", "problem", "remedy")] == [place, value, problem, remedy]


# The page


def test_the_page_shows_a_site_file_that_is_one(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "how-to" / "service.md").read_text("utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    site = parsed(example.replace('"/var/lib/edgeasd"', '"data"'), tmp_path)
    assert list(site.streams) == ["pump", "valve"]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ('device = "hw:1"\nchannel = 0', 'device = "hw:1"\nchannel = 1', ""),
        ('device = "hw:1"\nchannel = 0', 'device = "hw:2"\nresample = true', ""),
        ('device = "hw:1"\nmix = true', 'device = "hw:1"\nmix = true', ""),
        ('device = "hw:1,0"\nchannel = 0', 'device = "hw:1,1"\nchannel = 0', ""),
        (
            'device = "hw:1"',
            'device = "hw:1"\nchannel = 1',
            "shares hw:1 with a, but not both name a channel; give each",
        ),
        ('device = "hw:1"\nmix = true', 'device = "hw:1"\nchannel = 1', "not both name a channel"),
        (
            'device = "hw:1"\nchannel = 0\nresample = true',
            'device = "hw:1"\nchannel = 1',
            "shares hw:1 with a, but resample is false here and true there; make it the same in both",
        ),
        (
            'device = "hw:1"\nchannel = 0\npace = "block"',
            'device = "hw:1"\nchannel = 1',
            'pace is "drop" here and "block" there',
        ),
        (
            'device = "hw:1"\nchannel = 0\nalsa_format = "S32_LE"',
            'device = "hw:1"\nchannel = 1',
            'alsa_format is "auto" here and "S32_LE" there',
        ),
        (
            'device = "hw:1"\nchannel = 0',
            'device = "plughw:CARD=1,DEV=0"\nchannel = 1',
            "shares plughw:CARD=1,DEV=0 with a, but calls it otherwise than hw:1, and a card is opened only once; "
            "write hw:1 in both",
        ),
        ('input_command = "cat"\nchannels = 2\nchannel = 0', 'input_command = "cat"\nchannels = 2\nmix = true', ""),
        ('input_command = "cat"\nchannels = 2\nchannel = 0', 'input_command = "cat"', "channels is 1 here and 2 there"),
        ('input_command = "cat"\nonce = true', 'input_command = "cat"', "once is false here and true there"),
        ('input_command = "cat"\nchannels = 2\nchannel = 2', 'input_command = "tail"', "channel 2 is not there"),
        ('input_command = "cat"\nchannels = 2', 'input_command = "tail"', "2 channels, one signal is needed"),
    ],
)
def test_streams_that_share_an_input_must_agree_in_it(first: str, second: str, says: str, tmp_path: Path) -> None:
    text = f'site = "p"\n[streams.a]\nbundle = "{BUNDLE}"\nid = "a"\n{first}\n'
    text += f'[streams.b]\nbundle = "{BUNDLE}"\nid = "b"\n{second}\n'
    problems = check_config(parsed(text, tmp_path)).problems
    assert len(problems) == bool(says), problems
    assert says in "".join(map(str, problems))


def test_streams_that_share_an_input_have_bundles_of_one_rate() -> None:
    streams = {name: StreamSettings(bundle="x", device="hw:1", channel=c).source() for name, c in (("a", 0), ("b", 1))}
    assert sharing_problems(streams, {"a": 16000, "b": 16000}) == []
    ((name, said),) = sharing_problems(streams, {"a": 16000, "b": 32000})
    assert name == "b"
    assert said.endswith("its bundle wants 32000 Hz and the other 16000 Hz; use bundles of one rate")


def test_every_pattern_of_the_settings_has_words_for_people() -> None:
    def patterns(value: Any) -> set[str]:
        if isinstance(value, list):
            return {found for one in value for found in patterns(one)}
        if not isinstance(value, dict):
            return set()
        own = {value["pattern"]} if isinstance(value.get("pattern"), str) else set(value.get("patternProperties", ()))
        return own | patterns(list(value.values()))

    known = patterns(config_schema())
    assert len(known) > 5
    assert known <= set(ALLOWED)


def test_alarm_settings_with_their_old_names_are_read(tmp_path: Path) -> None:
    text = 'site = "x"\n[streams.a]\nbundle = "b"\ninput = "a.wav"\n[streams.a.alarm]\nsettle_seconds = 5.0\ngap_clears = true\n'
    alarm = parse_config(text.encode(), tmp_path / "site.toml").streams["a"].alarm
    assert (alarm.recovery_seconds, alarm.clear_on_gap, alarm.hysteresis) == (5.0, True, 0.1)
