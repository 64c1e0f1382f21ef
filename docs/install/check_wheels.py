"""Does every package that a device installs have a wheel for it? Asks the package index, for 64-bit ARM.

    python docs/install/check_wheels.py                              # both sets, as a table
    python docs/install/check_wheels.py jetpack6 --folder wheels     # and keep the wheels, to carry to a device

Downloads every line of constraints/<set>.txt as a wheel for that Python, glibc and processor, without what they
depend on. Then it reads what the wheels say they need, for that Python and processor, and looks for it among them:
`pip download --python-version` would weigh such conditions for the Python that runs pip. Exit code 1 where a wheel
is missing, a requirement is unmet or a line is needed by nobody; 3 without a package index.
Needs `packaging`, which the core install brings.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = ("serve", "tensorrt")
"""What a device may install beside the core."""


@dataclass(frozen=True)
class Target:
    """A device: its Python ("3.10") and the minor version of its glibc 2.x."""

    python: str
    glibc: int

    @property
    def platforms(self) -> list[str]:
        """Wheel platforms that the device takes, the newest first: PEP 600 and the alias of PEP 599."""
        return [*(f"manylinux_2_{minor}_aarch64" for minor in range(self.glibc, 16, -1)), "manylinux2014_aarch64"]

    @property
    def environment(self) -> dict[str, str]:
        """The device as the conditions of a requirement see it."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "aarch64",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }


TARGETS = {"jetpack6": Target("3.10", 35), "jetpack7": Target("3.12", 39)}
"""Ubuntu 22.04 has Python 3.10 and glibc 2.35, Ubuntu 24.04 has 3.12 and 2.39."""


class NoIndex(Exception):
    """The package index did not answer."""


def lines_of(constraints: Path) -> list[Requirement]:
    """The pins of a constraints file."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def download(target: Target, pins: list[Requirement], folder: Path) -> None:
    """Fetch a wheel of each pin into `folder`. Raises NoIndex, or ValueError with pip's word on the missing one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--python-version", target.python, "--dest", str(folder)]
    for platform in target.platforms:
        command += ["--platform", platform]
    done = subprocess.run([*command, *map(str, pins)], capture_output=True, text=True, check=False)
    if done.returncode:
        offline = any(sign in done.stderr for sign in ("NewConnectionError", "Name or service", "Max retries"))
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
        raise NoIndex(said[0]) if offline else ValueError(said[0])


def wheels(folder: Path) -> dict[str, Path]:
    """The wheels of a folder by package."""
    return {parse_wheel_filename(path.name)[0]: path for path in sorted(folder.glob("*.whl"))}


def needs(wheel: Path, extras: set[str], target: Target) -> list[Requirement]:
    """What a wheel says it needs on `target` when installed with `extras`."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(metadata).decode("utf-8"))
    return applying([Requirement(text) for text in headers.get_all("Requires-Dist", [])], extras, target)


def applying(requirements: list[Requirement], extras: set[str], target: Target) -> list[Requirement]:
    """Those of `requirements` whose conditions hold on `target`."""
    worlds = [{**target.environment, "extra": extra} for extra in ("", *sorted(extras))]
    return [r for r in requirements if r.marker is None or any(r.marker.evaluate(world) for world in worlds)]


def faults(found: dict[str, Path], target: Target) -> list[str]:
    """What edgeasd and the wheels need and the set lacks, and what is in the set for nothing."""
    texts = [*PROJECT["dependencies"], *(t for extra in EXTRAS for t in PROJECT["optional-dependencies"][extra])]
    todo = [("edgeasd", r) for r in applying([Requirement(text) for text in texts], set(), target)]
    wrong, seen, used = [], set(), set()
    while todo:
        by, requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        used.add(name)
        if name not in found:
            wrong.append(f"{by} needs {requirement}, and it is not in the set")
            continue
        version: Version = parse_wheel_filename(found[name].name)[1]
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{by} needs {requirement}, and the set has {version}")
        key = (name, frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            todo += [(name, r) for r in needs(found[name], set(requirement.extras), target)]
    return wrong + [f"{name} is needed by nobody" for name in sorted(set(found) - used)]


def _glibc(tags: str) -> str:
    """The oldest glibc that a wheel's platforms ask for: "manylinux_2_27_aarch64.manylinux_2_28_aarch64" to 2.27."""
    minors = re.findall(r"manylinux_2_(\d+)_", tags) or ["17"]
    return f"glibc 2.{min(map(int, minors))}"


def table(sets: dict[str, dict[str, Path]]) -> str:
    """The wheels side by side, as Markdown; those that fit every machine are one line."""
    rows, pure = [], set()
    for name in sorted({name for found in sets.values() for name in found}):
        files = [found[name].stem.split("-") if name in found else [] for found in sets.values()]
        if all(not parts or parts[-1] == "any" for parts in files):
            pure.add(name)
            continue
        cells = [f"{parts[1]}, {_glibc(parts[-1])}" if parts else "not needed" for parts in files]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    head = [f"| package | {' | '.join(f'{name}: Python {TARGETS[name].python}' for name in sets)} |"]
    return "\n".join([*head, "|---" * (len(sets) + 1) + "|", *rows, "", f"For any machine: {', '.join(sorted(pure))}."])


def main() -> int:
    """Check the sets named on the command line, both by default."""
    parser = argparse.ArgumentParser(description="Check that a device's packages have wheels for it.")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"{' or '.join(TARGETS)}; both by default")
    parser.add_argument("--folder", type=Path, help="keep the wheels here")
    chosen = parser.parse_args()
    if unknown := set(chosen.sets) - set(TARGETS):
        parser.error(f"{', '.join(sorted(unknown))}: no such set; use {' or '.join(TARGETS)}")
    sets: dict[str, dict[str, Path]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen.sets or list(TARGETS):
            folder = (chosen.folder or Path(scratch)) / name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                download(TARGETS[name], lines_of(REPOSITORY / "constraints" / f"{name}.txt"), folder)
            except NoIndex as error:
                print(f"NO PACKAGE INDEX: {error}", file=sys.stderr)
                return 3
            except ValueError as error:
                wrong.append(f"{name}: {error}")
                continue
            sets[name] = wheels(folder)
            wrong += [f"{name}: {fault}" for fault in faults(sets[name], TARGETS[name])]
    print(table(sets))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
