"""Plots and log-mel pictures of the reports."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from edgeasd.toolkit.reports.plots import WIDEST, Plot, logmel_png


def test_a_plot_takes_its_colours_from_the_page() -> None:
    plot = Plot("<t>", "d & e", "x", "y", (0.0, 1.0))
    plot.line([0, 1], [0, 1], "accent")
    plot.band([0, 1], [0, 0], [1, 1], "accent")
    plot.bars([0, 0.5, 1], [1, 2], "anomaly")
    plot.points([0.5], [0.5], "normal")
    plot.vertical(0.3, "threshold")
    plot.reference([0, 1], [1, 0])
    svg = str(plot.svg())
    root = ElementTree.fromstring(svg)
    assert (root.findtext("title"), root.findtext("desc")) == ("<t>", "d & e")
    for colour in ("accent", "anomaly", "normal", "mark", "faint", "rule"):
        assert f"var(--{colour})" in svg
    assert "threshold" in [text.text for text in root.iter("text")]
    for unwanted in ("http", "<style", "font-family", "<metadata", '<g id="'):
        assert unwanted not in svg


def test_the_same_plot_is_the_same_text() -> None:
    first, second = (Plot("t", "d", "x", "y", (0.0, 1.0)).svg() for _ in range(2))
    assert first == second


def test_a_plot_of_one_value_has_axes() -> None:
    plot = Plot("t", "d", "x", "y", (0.25, 0.25), (0, 0))
    plot.vertical(0.25, "here")
    assert "nan" not in plot.svg()
    assert "inf" not in plot.svg()


def test_low_frequencies_lie_at_the_bottom_and_loud_is_bright() -> None:
    features = np.zeros((6, 4), np.float32)
    features[:, 0] = 1.0
    image = Image.open(io.BytesIO(logmel_png(features, 0.0, 1.0)))
    pixels = np.asarray(image)
    assert (pixels[-1] == 255).all()
    assert (pixels[:-1] == 0).all()
    palette = np.reshape(image.getpalette(), (-1, 3))
    assert palette[0] @ [299, 587, 114] < palette[-1] @ [299, 587, 114]


def test_a_long_clip_keeps_its_clicks() -> None:
    features = np.zeros((5 * WIDEST, 4), np.float32)
    features[1234] = 1.0
    image = Image.open(io.BytesIO(logmel_png(features, 0.0, 1.0)))
    assert image.width == WIDEST
    assert np.asarray(image).max() == 255
