"""The board says what it is, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeasd.runtime.system.board import board_model, is_jetson, jetpack, l4t_release

pytestmark = pytest.mark.core

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"


def test_a_jetson_is_read_from_its_files(tmp_path: Path) -> None:
    for path, text in (("etc/nv_tegra_release", RELEASE), ("proc/device-tree/model", "NVIDIA Jetson Orin Nano\0")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    assert (l4t_release(tmp_path), board_model(tmp_path)) == ("36.4.3", "NVIDIA Jetson Orin Nano")


@pytest.mark.parametrize("text", ["", "garbage", "# R (release), REVISION: ", "\xff" * 9000])
def test_other_boxes_are_nothing(tmp_path: Path, text: str) -> None:
    assert (l4t_release(tmp_path), board_model(tmp_path)) == (None, None)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text(text, "latin-1")
    assert l4t_release(tmp_path) is None


@pytest.mark.parametrize(
    ("release", "version", "tensorrt"),
    [
        *(("36.3.0", "6.0", "8.6"), ("36.4.0", "6.1", "10.3"), ("36.4.3", "6.2", "10.3"), ("36.4.4", "6.2.1", "10.3")),
        *(("36.5.0", "6.2.2", "10.3"), ("38.2.0", "7.0", "10.13"), ("38.4.0", "7.1", "10.13")),
        *(("39.2.0", "7.2", "10.16"), ("39.2.1", "7.2.1", "10.16"), ("39.2", "7.2", "10.16")),
    ],
)
def test_the_jetpack_of_a_release(release: str, version: str, tensorrt: str) -> None:
    known = jetpack(release)
    assert known is not None
    assert (known.version, known.tensorrt) == (version, tensorrt)


@pytest.mark.parametrize("release", [None, "", "36.4.1", "36", "40.1.0", "35.6.0", "garbage"])
def test_an_unknown_release_is_not_guessed(release: str | None) -> None:
    assert jetpack(release) is None


def test_a_jetson_in_a_container_is_known_by_its_device_tree(tmp_path: Path) -> None:
    assert not is_jetson(tmp_path)
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "compatible").write_text("nvidia,p3768-0000\0nvidia,tegra234\0")
    assert is_jetson(tmp_path)
