"""The board says what it is, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeasd.runtime.board import board_model, l4t_release

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
