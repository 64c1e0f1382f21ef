"""The rooms of runtime/ stand in one order from the ground up, and no module imports itself on a detour."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

REPOSITORY = Path(__file__).resolve().parents[2]
FLOORS = ("runtime", "calibration", "export", "toolkit")
ROOMS = (
    *("errors", "system", "audio", "features"),
    *("health", "engines"),
    "scoring",
    "states",
    *("bundle", "alarms"),
    *("storage", "engine_build", "bench"),
    "trend",
    *("evidence", "outputs", "doctor"),
    "sources",
    "config",
    *("service", "record"),
)
"""From the ground up: a room imports only rooms before it."""
LOOSE = {"__init__.py", "errors.py"}
"""All that may lie in runtime/ outside of a room."""


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name, without `edgeasd.`, to syntax tree of every module of the four floors."""
    found = {}
    for floor in FLOORS:
        for path in sorted((REPOSITORY / floor).rglob("*.py")):
            if "_root" in path.parts:
                continue
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text("utf-8"), str(path))
    return found


def nodes(tree: ast.AST, *, lazy: bool) -> Iterator[ast.AST]:
    """All nodes that run when a module is imported; with `lazy`, those inside of functions too."""
    for node in ast.iter_child_nodes(tree):
        is_checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if is_checking or (not lazy and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            continue
        yield node
        yield from nodes(node, lazy=lazy)


def imports(name: str, *, lazy: bool) -> dict[str, int]:
    """Modules of ours that module `name` imports, with the line. `from package import module` names the module."""
    known, found = modules(), dict[str, int]()
    for node in nodes(known[name], lazy=lazy):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            candidates = [one if one.removeprefix("edgeasd.") in known else node.module for one in inner]
        else:
            continue
        for candidate in candidates:
            target = candidate.removeprefix("edgeasd.")
            if candidate.startswith("edgeasd.") and target in known and target != name:
                found.setdefault(target, getattr(node, "lineno", 0))
    return found


def cycles(*, lazy: bool) -> list[str]:
    """One way around for each group of modules that import each other."""
    graph = {name: sorted(imports(name, lazy=lazy)) for name in modules()}
    order, low, stack, groups = dict[str, int](), dict[str, int](), list[str](), list[list[str]]()

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in graph[name]:
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            at = stack.index(name)
            groups.append(stack[at:])
            del stack[at:]

    for name in graph:
        if name not in order:
            visit(name)
    return [" -> ".join([*sorted(group), sorted(group)[0]]) for group in groups if len(group) > 1]


def test_every_room_has_its_place_in_the_order() -> None:
    folders = {path.name for path in (REPOSITORY / "runtime").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"errors"} == set(ROOMS)


def test_nothing_is_loose_in_runtime() -> None:
    assert {path.name for path in (REPOSITORY / "runtime").glob("*.py")} == LOOSE


def test_no_room_imports_a_room_above_it() -> None:
    upward = []
    for name in modules():
        room = name.split(".")[1] if name.startswith("runtime.") else None
        if room is None:
            continue
        for target, line in imports(name, lazy=True).items():
            other = target.split(".")[1] if target.count(".") else "errors"
            if target.startswith("runtime.") and ROOMS.index(other) > ROOMS.index(room):
                upward.append(f"{name.replace('.', '/')}.py:{line}: {room} imports {target}, which is above it")
    assert upward == []


def test_no_module_imports_itself_on_a_detour() -> None:
    assert cycles(lazy=False) == []


def test_no_import_inside_a_function_hides_a_cycle() -> None:
    assert cycles(lazy=True) == []
