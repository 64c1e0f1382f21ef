"""Area `sound`: ALSA cards, what captures, at which rates, and a program to capture with."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult, not_asked
from edgeasd.runtime.system.board import is_live, list_names, locate, read_text

AREA = "sound"
_RATE = 16000
_ROUTERS = {"APE"}
"""Cards of a Jetson that list a score of capture devices and hear nothing until amixer routes a microphone to one."""


@dataclass(frozen=True, slots=True)
class CaptureDevice:
    """A PCM that captures: numbers of card and device, the card's ID and its description."""

    card: int
    device: int
    card_id: str
    description: str

    @property
    def alsa_name(self) -> str:
        """The name that stays when cards change their numbers, with ALSA's converter before it."""
        return f"plughw:CARD={self.card_id or self.card},DEV={self.device}"


def check(root: Path) -> list[CheckResult]:
    """Results `capture`, `rates` and `backend`."""
    devices = capture_devices(root)
    return [_capture(root, devices), _rates(root, devices), _backend(root, bool(devices))]


def parse_cards(text: str) -> dict[int, tuple[str, str]]:
    """/proc/asound/cards: number to ID and description."""
    pattern = r"^\s{0,3}(\d{1,2}) \[([\w-]{1,16})\s*\]: ([^\n]*)$"
    return {
        int(number): (name, words.rpartition(" - ")[2])
        for number, name, words in re.findall(pattern, text, re.M | re.A)
    }


def parse_capture(text: str) -> list[tuple[int, int]]:
    """/proc/asound/pcm: (card, device) of each PCM that captures."""
    pairs = re.findall(r"^(\d{2})-(\d{2}):[^\n]*: capture \d{1,3}\s*$", text, re.M | re.A)
    return [(int(card), int(device)) for card, device in pairs]


def parse_rates(text: str) -> list[int]:
    """Rates in Hz that a USB device captures at, from /proc/asound/cardN/stream0; none where it states none."""
    capture = text.partition("\nCapture:")[2].partition("\nPlayback:")[0]
    rates = {
        int(rate)
        for line in re.findall(r"^\s*Rates: ([\d, ]{1,400})$", capture, re.M | re.A)
        for rate in re.findall(r"\d{3,6}", line)
    }
    return sorted(rates)


def capture_devices(root: Path) -> list[CaptureDevice]:
    """Every capture device of every card, as the kernel lists them."""
    cards = parse_cards(read_text(root, "proc/asound/cards", 65536) or "")
    pairs = parse_capture(read_text(root, "proc/asound/pcm", 65536) or "")
    return [CaptureDevice(card, device, *cards.get(card, ("", f"card {card}"))) for card, device in pairs]


def _capture(root: Path, devices: list[CaptureDevice]) -> CheckResult:
    why = "`edgeasd run --device` listens to one of these. Files and pipes need none."
    if not devices:
        if not is_live(root) and not list_names(root, "proc"):
            return not_asked(AREA, "capture", why)
        found = "no device that captures" + ("" if list_names(root, "proc/asound") else ": no ALSA here")
        return CheckResult(AREA, "capture", "absent", found, why)
    microphones = [device for device in devices if device.card_id not in _ROUTERS]
    routed = len(devices) - len(microphones)
    listed = [f"{device.alsa_name} ({device.description})" for device in microphones]
    if routed:
        listed.append(f"{routed} of APE, which hears only what amixer routes to it")
    if not microphones:
        why += " Plug in a USB microphone, or route one on the board's pins with amixer."
    return CheckResult(AREA, "capture", "ok" if microphones else "hint", ", ".join(listed), why)


def _rates(root: Path, devices: list[CaptureDevice]) -> CheckResult:
    why = f"A hw: device must offer the bundle's rate, {_RATE} Hz as a rule. plughw: converts, well or badly by the plugins installed."
    stated = {}
    for card, name in dict.fromkeys((device.card, device.card_id) for device in devices):
        if rates := parse_rates(read_text(root, f"proc/asound/card{card}/stream0", 65536) or ""):
            stated[name or str(card)] = rates
    if not stated:
        return CheckResult(AREA, "rates", "absent", "no USB device that states its rates", why)
    found = "; ".join(f"{name}: {', '.join(map(str, rates))} Hz" for name, rates in stated.items())
    if all(_RATE in rates for rates in stated.values()):
        return CheckResult(AREA, "rates", "ok", found, why)
    return CheckResult(AREA, "rates", "hint", found, why, "sudo apt install libasound2-plugins")


def _backend(root: Path, needed: bool) -> CheckResult:
    why = "edgeasd captures through arecord."
    if shutil.which("arecord") if is_live(root) else locate(root, "usr/bin/arecord"):
        return CheckResult(AREA, "backend", "ok", "arecord", why)
    state = "problem" if needed and is_live(root) else "absent"
    return CheckResult(AREA, "backend", state, "no arecord", why, "sudo apt install alsa-utils")
