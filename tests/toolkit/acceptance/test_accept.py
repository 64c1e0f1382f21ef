"""`edgeasd accept`: what a maintenance engineer types, sees and signs."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from edgeasd.toolkit.acceptance.accept import Limits, ModeResult, judge
from edgeasd.toolkit.acceptance.rate import Span, count_false_alarms
from edgeasd.toolkit.acceptance.recordings import Excerpts, find_sessions, read_session
from edgeasd.toolkit.demo.machines import render

RATE = 16_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of the valve as `record` makes them, and a recorded fault."""
    home = tmp_path_factory.mktemp("accept")
    (home / "normal").mkdir()
    (home / "faults").mkdir()
    for seed in range(6):
        sound = render("valve", "00", seconds=10, seed=60_000 + seed)
        soundfile.write(home / "normal" / f"clip_{seed:06d}.flac", sound, RATE)
    noise = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32) * 0.1
    soundfile.write(home / "faults" / "air.wav", noise, RATE)
    return home


def judged(hours: float, alarms: int, limit: float) -> tuple[bool, str]:
    at = tuple((np.arange(alarms) + 0.5) * hours * 3600 / max(alarms, 1))
    mode = ModeResult("", 0.1, 1, count_false_alarms([Span(hours, at)]), (), (0.0, 0.0, 0.0, 0.0))
    (check,) = judge(Limits(per_month=limit), [mode])
    return check.passed, check.text


def test_one_a_month_from_three_hours_names_the_hours_it_needs() -> None:
    passed, text = judged(3.0, 0, 1.0)
    assert not passed
    assert text.startswith("cannot be promised from 3 h: none in 3 h carries no less than 729 a month; it takes 2188 h")


def test_a_limit_is_kept_broken_or_open() -> None:
    assert judged(2200.0, 0, 1.0) == (True, "none in 2.2e+03 h: at most 0.995 a month with 95 % confidence")
    passed, text = judged(100.0, 20, 1.0)
    assert not passed
    assert text.endswith("too many")
    assert judged(100.0, 20, 1000.0)[0]


def test_acceptance_of_the_small_bundle(
    home: Path, bundle_copy: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    # Its own threshold, the largest of seven clip scores, is passed by normal clips one after another.
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["threshold"]["clip"] = 0.06
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    page = tmp_path / "out" / "page.html"
    page.parent.mkdir()
    options = ["--fault", "leak", "--faults", home / "faults", "--excerpts", 1, "--delay", 20, "--report", page]
    done = edgeasd("accept", bundle_copy, "--normal", home / "normal", *options, cwd=tmp_path)
    assert done.code == 0, done.said
    assert "PASS  leak at -6 dB within 20 s: found in 1 of 1" in done.out
    found = json.loads(page.with_suffix(".json").read_text())
    assert (found["type"], found["passed"]) == ("acceptance", True)
    (mode,) = found["modes"]
    assert mode["recordings"] == 6
    assert [fault["kind"] for fault in mode["faults"]] == ["leak", "faults"]
    assert all(fault["faintest_db"] <= -6 for fault in mode["faults"])
    loud = mode["faults"][0]["levels"][0]
    assert 0 < loud["delays_seconds"][0] < 20
    text = page.read_text()
    HTMLParser().feed(text)
    assert "accepted" in text
    assert "signature" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")

    few = edgeasd(
        *("accept", bundle_copy, "--normal", home / "normal", "--fault", "none", "--false-alarms-per-month", 1),
        cwd=tmp_path,
    )
    assert few.code == 1
    assert "cannot be promised from" in few.said
    assert "2188 h (91 days) without a false alarm" in few.said
    assert (bundle_copy.parent / "valve-id_00.acceptance.html").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--normal", "nowhere"], "--normal nowhere: not a folder"),
        (["--normal", "empty"], "--normal empty: 0 WAV or FLAC files"),
        (["--normal", "short"], "s of sound give no complete score"),
        (["--normal", "short", "--delay", "0"], "--delay 0: outside 1 to 600 s"),
        (["--normal", "short", "--false-alarms-per-month", "0"], "not a rate"),
        (["--normal", "short", "--fault-level", "90"], "outside -40 to 20 dB"),
        (["--normal", "short", "--fault", "blockage"], "cannot be mixed into a recording"),
    ],
)
def test_wrong_use_is_one_line(
    small_bundle: Path, tmp_path: Path, edgeasd: Callable[..., Any], options: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").mkdir()
    soundfile.write(tmp_path / "short" / "a.wav", render("valve", "00", seconds=3, seed=1), RATE)
    done = edgeasd("accept", small_bundle, *options, "--report", tmp_path / "page.html", cwd=tmp_path)
    assert done.code == 2
    assert message in done.lines[-1]
    assert not (tmp_path / "page.html").exists()


def test_short_clips_of_a_folder_are_one_session(home: Path, tmp_path: Path) -> None:
    (session,) = find_sessions([home / "normal"])
    assert session.seconds == pytest.approx(60.0)
    assert [path.name for path in session.files] == [f"clip_{n:06d}.flac" for n in range(6)]
    soundfile.write(tmp_path / "long.wav", np.zeros(RATE * 61, np.float32), RATE)
    soundfile.write(tmp_path / "short.wav", np.zeros(RATE, np.float32), RATE)
    assert [one.seconds for one in find_sessions([tmp_path])] == [61.0, 1.0]


def test_a_folder_named_as_a_mode_is_of_it(tmp_path: Path) -> None:
    for name in ("fast/a.wav", "slow/b.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, np.zeros(RATE, np.float32), RATE)
    assert [one.mode for one in find_sessions([tmp_path], ["fast", "slow"])] == ["fast", "slow"]
    assert [one.mode for one in find_sessions([tmp_path / "slow"], ["fast", "slow"])] == ["slow"]


def test_excerpts_are_pieces_of_what_was_read(home: Path) -> None:
    sessions = find_sessions([home / "normal"])
    whole = np.concatenate(list(read_session(sessions[0], RATE, None, False)))
    excerpts = Excerpts(sessions, 3, 15.0, RATE)
    for _ in excerpts.take(0, sessions[0], read_session(sessions[0], RATE, None, False)):
        pass
    assert len(excerpts.sounds) == 3
    for (_, sound), second in zip(excerpts.sounds, (10.0, 30.0, 45.0), strict=True):
        assert np.array_equal(sound, whole[int(second * RATE) :][: 15 * RATE])
