"""The report: whole in one file, true to its evaluation, safe with any file name, silent in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli.evaluate import evaluate
from edgeasd.toolkit.reports import Table, render

Opened = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def report(dcase_workspace: Any) -> Path:
    path = dcase_workspace.folder / "report.html"
    evaluate(
        root=dcase_workspace.data,
        machine="gear",
        baseline=True,
        report=path,
        report_audio=True,
        workspace=dcase_workspace.folder,
    )
    return Path(path)


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside style."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.said = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.said += data

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def elements(report: Path) -> Elements:
    return Elements(report.read_text("utf-8"))


# The whole page


def test_it_holds_everything_it_shows(report: Path, elements: Elements) -> None:
    addresses = [
        value for _, a in elements.found for key, value in a.items() if key in ("src", "href", "srcset", "data")
    ]
    assert addresses
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    source = report.read_text("utf-8")
    assert not re.search(r"https?://|@import|url\((?!#)", source)
    assert elements.all("script") == []
    (policy,) = [a["content"] for a in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_each_id_has_its_curves_its_scores_and_its_worst_clips(elements: Elements) -> None:
    assert len(elements.all("svg")) == 2 * 3
    assert all(svg["role"] == "img" for svg in elements.all("svg"))
    assert len(elements.all("title")) == 1 + 2 * 3
    assert len(elements.all("desc")) == 2 * 3
    assert len(elements.all("img")) == len(elements.all("audio")) == 2 * 6
    assert all(image["alt"] for image in elements.all("img"))
    assert {a.get("scope") for a in elements.all("th")} == {"col", "row"}
    for words in ("ROC", "threshold", "Not used for choosing", "DeLong", "AUC source", "harmonic mean"):
        assert words in elements.said


def test_the_figures_are_those_that_were_stored(dcase_workspace: Any, elements: Elements) -> None:
    stored = json.loads((dcase_workspace.folder / "runs/gear/id_00/evaluation.json").read_text("utf-8"))
    deploy = stored["figures"]["deploy"]
    low, high = deploy["interval95"]
    assert f"{100 * deploy['auc']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in elements.said
    normals = sorted((c for c in stored["clips"] if c["label"] == "normal"), key=lambda c: -c["deploy"])
    for clip in normals[:3]:
        assert clip["path"] in elements.said
    assert f"score {normals[0]['deploy']:.4g}" in elements.said


def test_a_hostile_file_name_is_text(dcase_workspace: Any, report: Path, elements: Elements) -> None:
    """The quiet anomaly is among the lowest scores, or the test would show nothing."""
    assert "<img src=x onerror=alert(1)>" in elements.said
    assert not any(key.startswith("on") for _, a in elements.found for key in a)
    assert "\u202e" not in report.read_text("utf-8")
    assert "\x07" not in report.read_text("utf-8")


def test_pictures_and_sound_are_what_they_say(elements: Elements) -> None:
    image = base64.b64decode(elements.all("img")[0]["src"].removeprefix("data:image/png;base64,"))
    width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1 + (16_000 * 9 - 1024) // 512, 128)
    sound = base64.b64decode(elements.all("audio")[0]["src"].removeprefix("data:audio/flac;base64,"))
    samples, rate = soundfile.read(io.BytesIO(sound))
    assert (len(samples), rate) == (16_000 * 9, 16_000)


def test_a_browser_opens_it_without_a_complaint_or_a_request(report: Path, opened: Opened) -> None:
    done = opened(report)
    dom = Elements(done.stdout)
    assert len(dom.all("svg")) == 6
    assert len(dom.all("img")) == 12
    assert "CONSOLE" not in done.stderr


def test_a_request_of_the_page_would_be_heard(tmp_path: Path, opened: Opened) -> None:
    """The page's own policy refuses any request, and the browser says so where the test above listens."""
    bad = tmp_path / "bad.html"
    page = render("page.html", title="bad")
    bad.write_bytes(page.replace(b"</main>", b'<img src="http://127.0.0.1:9/x.png"></main>'))
    assert "Content Security Policy" in opened(bad).stderr


# Wrong use


def test_wrong_use_is_refused_before_any_work(tmp_path: Path) -> None:
    for options, message in (
        ({"report_audio": True}, "--report-audio: there is no report"),
        ({"report": tmp_path}, "is a folder; name a file in it"),
        ({"dcase": Path(__file__)}, "is not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(root=tmp_path, machine="gear", workspace=tmp_path, **options)  # type: ignore[arg-type]


# The template


def test_values_are_text_and_never_markup() -> None:
    table = Table("a\udcff\u202eb\0", ["<b>", '"'], [["<i>", '"><script>']])
    values = {"summary": "s", "tables": [table], "ids": []}
    page = render("evaluation.html", title="</title><b>", **values).decode()
    assert "<title>&lt;/title&gt;&lt;b&gt;</title>" in page
    assert "<caption>a\ufffd\ufffdb\ufffd</caption>" in page
    for markup in ("<i>", "<script>"):
        assert markup not in page


def test_a_missing_package_is_named_before_any_work(
    edgeasd: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = edgeasd("evaluate", "--data", "nowhere", "--machine", "gear", "--report", "r.html", cwd=tmp_path)
    assert done.code == 2
    assert done.said == (
        "edgeasd: this command needs matplotlib, which is not installed; pip install 'edgeasd[train]'\n"
    )
