"""Devices: what ALSA offers, refusals, crashes and silence of its plugins, and never an exception."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeasd.runtime.sources import devices
from edgeasd.runtime.sources.devices import find_devices, probe

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alsa_file_pcm: ModuleType) -> Path:
    """A configuration in which hw opens, and /proc of a machine with two cards below the folder it returns."""
    if not alsa_file_pcm.STOCK.exists():
        pytest.skip(f"{alsa_file_pcm.STOCK} is not here (libasound2-data)")
    config = alsa_file_pcm.write_alsa_config(tmp_path, tmp_path / "none.raw")
    (tmp_path / "none.raw").write_bytes(b"")
    text = config.read_text()
    for word in ("Device or resource busy", "Permission denied"):
        assert word not in text
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(config))
    asound = tmp_path / "root" / "proc" / "asound"
    asound.mkdir(parents=True)
    (asound / "cards").write_text(
        " 0 [PCH            ]: HDA-Intel - HDA Intel PCH\n                      HDA Intel PCH at 0x1 irq 1\n"
        " 1 [Device         ]: USB-Audio - USB Microphone\n                      Maker USB Microphone at usb-1\n"
    )
    (asound / "pcm").write_text(
        "00-03: HDMI 0 : HDMI 0 : playback 1\n01-00: USB Audio : USB Audio : playback 1 : capture 1\n"
    )
    return tmp_path / "root"


@pytest.mark.usefixtures("ground")
def test_offers_are_those_of_the_device() -> None:
    two, one, raw = probe("stereo_only"), probe("only_48000"), probe("hw:1")
    assert (two.state, two.channels) == ("ok", (2, 2))
    assert (one.state, one.rates, one.channels) == ("ok", (48000,), (1, 1))
    assert raw.formats == ("S16_LE", "S24_3LE", "S24_LE", "S32_LE", "FLOAT_LE")
    assert {8000, 16000, 44100, 48000} <= set(raw.rates)
    assert probe("float_only").formats == ("FLOAT_LE",)


@pytest.mark.usefixtures("ground")
def test_device_without_a_known_format_is_refused() -> None:
    found = probe("mulaw_only")
    assert (found.state, found.reason) == ("refused", "offers no sample format that is known here")


@pytest.mark.parametrize("name", ["no_such_pcm", "hw:99", "", "a\0b", "hw:CARD=\udcff", "x" * 5000, "hw:{", "'"])
def test_no_name_raises(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    found = probe(name)
    assert found.state == "refused"
    assert found.reason
    assert capfd.readouterr() == ("", "")


def test_cards_come_from_the_kernel_and_names_from_alsa(ground: Path) -> None:
    steps: list[tuple[int, int]] = []
    found, note = find_devices(ground, lambda done, total, _: steps.append((done, total)))
    cards = [one for one in found if one.kind == "card"]
    assert [(one.name, one.description, one.state) for one in cards] == [
        ("hw:CARD=Device,DEV=0", "USB Microphone", "ok")
    ]
    assert "null" in [one.name for one in found if one.kind == "name"]
    assert note == ""
    assert steps[-1] == (len(found), len(found))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_card_without_permission_is_forbidden(ground: Path) -> None:
    (ground / "dev" / "snd").mkdir(parents=True)
    (ground / "dev" / "snd" / "pcmC1D0c").touch(0o000)
    assert [one.state for one in find_devices(ground)[0] if one.kind == "card"] == ["forbidden"]


def test_forbidden_card_is_not_probed(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "dev" / "snd").mkdir(parents=True)
    (ground / "dev" / "snd" / "pcmC1D0c").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    card = find_devices(ground)[0][0]
    assert (card.kind, card.state, card.reason) == ("card", "forbidden", "Permission denied")


# What hardware answers, and plugins do, by a stand-in for the child.
@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ('print(\'{"code": -16, "reason": "Device or resource busy"}\')', "busy", "Device or resource busy"),
        ('print(\'{"code": -13, "reason": "Permission denied"}\')', "forbidden", "Permission denied"),
        ("import os; os.abort()", "refused", "its ALSA plugin crashed (signal 6)"),
        ("import time; time.sleep(60)", "refused", "did not answer in 0.5 s"),
        ("print('{not json'); print([1])", "refused", "did not answer"),
        ("raise SystemExit(1)", "refused", "did not answer"),
        (
            'print(\'noise\'); print(\'{"code": 0, "formats": ["S16_LE"], "rates": [16000], "channels": [1, 2]}\')\n'
            "print('more noise')",
            "ok",
            "",
        ),
    ],
)
def test_every_end_of_the_probe_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, state: str, reason: str
) -> None:
    (tmp_path / "child.py").write_text(code)
    monkeypatch.setattr(devices, "PROBE", tmp_path / "child.py")
    monkeypatch.setattr(devices, "PROBE_SECONDS", 0.5 if "sleep" in code else 30.0)
    found = probe("hw:0")
    assert (found.state, found.reason) == (state, reason)


def test_machine_without_alsa_has_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = devices.PROBE.read_text().replace("libasound.so.2", "libnothere.so.9")
    (tmp_path / "child.py").write_text(source)
    monkeypatch.setattr(devices, "PROBE", tmp_path / "child.py")
    assert find_devices(tmp_path) == ([], "libnothere.so.9 is not installed")


def test_probe_needs_the_standard_library_alone() -> None:
    import ast

    names = set()
    for node in ast.walk(ast.parse(devices.PROBE.read_text())):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {str(node.module)} if isinstance(node, ast.ImportFrom) else set()
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)
