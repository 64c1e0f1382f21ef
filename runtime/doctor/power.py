"""Area `power`: power mode, clocks and temperature."""

from __future__ import annotations

import re
from pathlib import Path

from edgeasd.runtime.doctor.result import CheckResult, not_asked
from edgeasd.runtime.system.board import is_jetson, is_live, list_names, read_number, read_text

AREA = "power"
_HOT, _TOO_HOT = 80.0, 95.0
"""Degrees Celsius. An Orin slows down at 99 and switches off at 104.5 (Jetson Linux developer guide)."""
_CPUFREQ = "sys/devices/system/cpu/cpufreq"


def check(root: Path) -> list[CheckResult]:
    """Results `mode`, `cpu_clock`, `gpu_clock` and `temperature`."""
    return [_mode(root), _cpu_clock(root), _gpu_clock(root), _temperature(root)]


def parse_modes(text: str) -> dict[int, str]:
    """Power modes of an nvpmodel.conf, number to name. Source: the FORMAT section at the head of that file."""
    pattern = r"^\s*<\s*POWER_MODEL\s+ID=(\d{1,3})\s+NAME=([\w.+-]{1,40})\s*>"
    return {int(number): name for number, name in re.findall(pattern, text, re.MULTILINE | re.ASCII)}


def strongest(modes: dict[int, str]) -> int | None:
    """The mode without a limit (MAXN_SUPER, else MAXN), else the one of most watts; numbers are in no order."""
    for wanted in ("MAXN_SUPER", "MAXN"):
        for number, name in modes.items():
            if name.upper().removeprefix("MODE_") == wanted:
                return number
    watts = {number: int(found[1]) for number, name in modes.items() if (found := re.search(r"(\d{1,3})W", name))}
    return max(watts, key=lambda number: watts[number], default=None)


def active_mode(root: Path, table: str) -> int | None:
    """The mode that nvpmodel has noted ("pmode:0002"), else the table's default."""
    noted = re.search(r"pmode:\s*(\d{1,4})", read_text(root, "var/lib/nvpmodel/status") or "", re.ASCII)
    default = re.search(r"^\s*<\s*PM_CONFIG\s+DEFAULT=(\d{1,3})\s*>", table, re.MULTILINE | re.ASCII)
    found = noted or default
    return int(found[1]) if found else None


def _mode(root: Path) -> CheckResult:
    why = "The power mode limits cores and clocks. Build and measure in the mode you will run in."
    table = read_text(root, "etc/nvpmodel.conf", 2**18) or ""
    modes = parse_modes(table)
    if not modes:
        state = "warning" if is_jetson(root) else "absent"
        return CheckResult(AREA, "mode", state, "no power modes (/etc/nvpmodel.conf)", why)
    listed = ", ".join(f"{number} {name}" for number, name in sorted(modes.items()))
    active, best = active_mode(root, table), strongest(modes)
    if active not in modes:
        return CheckResult(
            AREA, "mode", "hint", f"which mode is active is not known; there are {listed}", why, "sudo nvpmodel -q"
        )
    found = f"{modes[active]}, of {listed}"
    if best is None or active == best:
        return CheckResult(AREA, "mode", "ok", found, why)
    why += f" {modes[best]} is the fastest; it needs the supply and the cooling for it."
    return CheckResult(AREA, "mode", "hint", found, why, f"sudo nvpmodel -m {best}")


def _cpu_clock(root: Path) -> CheckResult:
    why = "Log-mel, the head and the CPU engine follow the clock of the CPU."
    policies = [f"{_CPUFREQ}/{name}" for name in list_names(root, _CPUFREQ) if re.fullmatch(r"policy\d+", name)]
    governors = sorted(
        {(read_text(root, f"{policy}/scaling_governor", 64) or "").strip() for policy in policies} - {""}
    )
    if not governors:
        if not is_live(root) and not list_names(root, "sys/devices"):
            return not_asked(AREA, "cpu_clock", why)
        return CheckResult(AREA, "cpu_clock", "absent", "the system does not set the clock of this CPU", why)
    lows = [low for policy in policies if (low := read_number(root, f"{policy}/scaling_min_freq"))]
    highs = [high for policy in policies if (high := read_number(root, f"{policy}/scaling_max_freq"))]
    found = " and ".join(governors) + (f", {_range(min(lows), max(highs), 1000)}" if lows and highs else "")
    drivers = {(read_text(root, f"{policy}/scaling_driver", 64) or "").strip() for policy in policies}
    # The pstate drivers call their ordinary scaling powersave; elsewhere it means the lowest clock always.
    if "powersave" in governors and not drivers & {"intel_pstate", "amd-pstate-epp"}:
        why += " The governor powersave keeps the lowest one."
        command = f"echo schedutil | sudo tee /{_CPUFREQ}/policy*/scaling_governor"
        return CheckResult(AREA, "cpu_clock", "warning", found, why, command)
    return CheckResult(AREA, "cpu_clock", "ok", found, why)


def _gpu_clock(root: Path) -> CheckResult:
    why = "A clock that scales saves power and makes times vary: run `sudo jetson_clocks` before a measurement, not for service."
    folder = "sys/class/devfreq"
    for name in list_names(root, folder):
        # 17000000.gpu on Orin, 17000000.ga10b before, gpu-gpc-0 on Thor.
        if re.fullmatch(r"[0-9a-f]+\.(gpu|ga10b|gv11b)|gpu-gpc-\d", name):
            governor = (read_text(root, f"{folder}/{name}/governor", 64) or "unknown governor").strip()
            low, high = (read_number(root, f"{folder}/{name}/{end}_freq") for end in ("min", "max"))
            found = governor + (f", {_range(low, high, 10**6)}" if low and high else "")
            return CheckResult(AREA, "gpu_clock", "ok", found, why)
    if not is_live(root) and not list_names(root, "sys/class"):
        return not_asked(AREA, "gpu_clock", why)
    return CheckResult(AREA, "gpu_clock", "absent", "no GPU whose clock the system sets", why)


def _range(low: int, high: int, to_megahertz: int) -> str:
    if low == high:
        return f"fixed at {low / to_megahertz:.0f} MHz"
    return f"between {low / to_megahertz:.0f} and {high / to_megahertz:.0f} MHz"


def _temperature(root: Path) -> CheckResult:
    why = "A board that is too hot slows down, and wears out sooner."
    warmest = None
    for zone in list_names(root, "sys/class/thermal"):
        value = read_number(root, f"sys/class/thermal/{zone}/temp") if zone.startswith("thermal_zone") else None
        # A sensor that is switched off gives an impossible value.
        if value is not None and -50_000 < value < 200_000:
            kind = (read_text(root, f"sys/class/thermal/{zone}/type", 64) or zone).strip()
            warmest = max(warmest or (value, kind), (value, kind))
    if warmest is None:
        if not is_live(root):
            return not_asked(AREA, "temperature", why)
        return CheckResult(AREA, "temperature", "absent", "no sensor", why)
    degrees, kind = warmest[0] / 1000, warmest[1]
    state = "problem" if degrees >= _TOO_HOT else "warning" if degrees >= _HOT else "ok"
    return CheckResult(AREA, "temperature", state, f"{degrees:.0f} °C at the warmest ({kind})", why)
