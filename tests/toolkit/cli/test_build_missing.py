"""--build: `edgeasd build` is run where an engine is missing, once, and its end is the command's.

A script stands in for `edgeasd build`: it is a real process with a real exit code, and builds nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.engines import select as choice
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.engine_file import NotBuilt
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.toolkit.cli import build as module
from edgeasd.toolkit.cli.build import build_missing

pytestmark = pytest.mark.core


class Builder:
    """A script in place of Python, and a check that finds `missing` engines until the script has run for each."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.log = folder / "log"
        self.script = folder / "python"
        self.does("exit 0")
        self.parts = [["build", "b", "--precision", "int8"]]
        self.useless = False
        patch.setattr(sys, "executable", str(self.script))
        patch.setattr(library, "load", lambda: None)
        patch.setattr(choice, "tensorrt_present", lambda: True)
        patch.setattr("edgeasd.runtime.bundle.selection.check_built", self.check)

    def does(self, what: str) -> None:
        self.script.write_text(f'#!/bin/sh\necho "$@" >>{self.log}\n{what}\n')
        self.script.chmod(0o755)

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def check(self, *_: object) -> None:
        for part in self.parts:
            if self.useless or f"-m edgeasd {' '.join(part)}" not in self.ran:
                raise NotBuilt("b/engines/x.engine: no TensorRT engine has been built", part)


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(tmp_path, monkeypatch)


@pytest.fixture
def build(small_bundle: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call it; what was said on standard error."""

    def call(engine: str = "auto", accelerator: str = "auto", precision: str | None = None) -> str:
        # A child writes to the descriptor, which pytest's replacement for sys.stderr has too.
        with Bundle(small_bundle) as bundle:
            build_missing(bundle, precision, engine, accelerator, "cpu")
        return capfd.readouterr().err

    return call


def test_what_is_missing_is_built_and_what_is_there_stays(builder: Builder, build: Callable[..., str]) -> None:
    said = build()
    assert builder.ran == ["-m edgeasd build b --precision int8"]
    assert said == (
        "edgeasd: b/engines/x.engine: no TensorRT engine has been built; now: edgeasd build b --precision int8\n"
    )
    assert build() == ""
    assert len(builder.ran) == 1


def test_the_head_is_built_after_the_encoder(builder: Builder, build: Callable[..., str]) -> None:
    builder.parts.append(["build", "b", "--head"])
    build()
    assert builder.ran == ["-m edgeasd build b --precision int8", "-m edgeasd build b --head"]


def test_its_results_do_not_mix_with_scores(
    builder: Builder, small_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builder.does("echo result")
    with Bundle(small_bundle) as bundle:
        build_missing(bundle, None, "auto", "auto", "cpu")
    out, said = capfd.readouterr()
    assert out == ""
    assert "result" in said


def test_an_engine_that_is_kept_for_all_its_faults_is_used(builder: Builder, build: Callable[..., str]) -> None:
    """Exit code 1 of `edgeasd build` with the engine in place: slower than it should be, and right."""
    builder.does("exit 1")
    build()
    assert len(builder.ran) == 1


@pytest.mark.parametrize("code", [1, 2, 3, 130])
def test_a_failed_build_ends_the_command_with_its_code(builder: Builder, build: Callable[..., str], code: int) -> None:
    builder.does(f"exit {code}")
    builder.useless = True
    with pytest.raises(typer.Exit) as ended:
        build()
    assert ended.value.exit_code == code
    assert len(builder.ran) == 1


def test_a_build_that_leaves_nothing_is_tried_once(builder: Builder, build: Callable[..., str]) -> None:
    builder.useless = True
    with pytest.raises(NotBuilt):
        build()
    assert len(builder.ran) == 1


def test_a_build_killed_by_the_system_is_said_so(builder: Builder, build: Callable[..., str]) -> None:
    builder.does("kill -9 $$")
    with pytest.raises(DeviceError, match="edgeasd build: ended by signal 9"):
        build()


def test_an_interrupt_reaches_the_build_and_is_waited_for(builder: Builder, build: Callable[..., str]) -> None:
    ready, done = builder.script.with_name("ready"), builder.script.with_name("done")
    builder.does(f"trap 'sleep 0.2; touch {done}; exit 130' INT\ntouch {ready}\nwhile :; do sleep 0.05; done")

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.01)
        time.sleep(0.2)  # by now it is waited for
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        build()
    assert done.exists(), "the build was left behind or killed before it had cleaned up"


@pytest.mark.parametrize(
    "asked", [("onnxruntime", "auto", None), ("auto", "cpu", None), ("auto", "auto", "int8-cpu")], ids=str
)
def test_there_is_nothing_to_build_for_the_cpu(
    builder: Builder, build: Callable[..., str], asked: tuple[str, str, str | None]
) -> None:
    with pytest.raises(InputError, match="--build: there is nothing to build for ONNX Runtime"):
        build(*asked)
    assert builder.ran == []


def test_building_without_tensorrt_is_refused(
    builder: Builder, build: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        raise DeviceError("TensorRT: not installed")

    monkeypatch.setattr(choice, "tensorrt_present", lambda: False)
    monkeypatch.setattr(module.sys, "executable", "/nonexistent")
    monkeypatch.setattr(library, "load", load)
    with pytest.raises(DeviceError, match="TensorRT: not installed"):
        build()
