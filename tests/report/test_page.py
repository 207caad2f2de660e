"""The page as a document: it needs nothing beside it, and says what the run says."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import invented
import pandas as pd
import pytest
import xarray as xr
import yaml
from panels import make_panel

from gandid import report
from gandid.errors import UsageError


class Page(HTMLParser):
    """A page taken apart: its elements, and the rows of its tables of effects."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        self.text = ""
        self._at = {"target": "", "outcome": "", "object": ""}
        self._cell: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag in ("table", "tbody", "tr"):
            name = {"table": "target", "tbody": "outcome", "tr": "object"}[tag]
            self._at[name] = found.get(f"data-{name}", "")
        if tag == "td":
            self._cell = found.get("class", "")
            self.rows.setdefault(tuple(self._at.values()), []).append((self._cell, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            row = self.rows[tuple(self._at.values())]
            row[-1] = (self._cell, row[-1][1] + data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def bare(folder: Path, panel: xr.Dataset) -> Path:
    """A run with the least that a report needs."""
    folder.mkdir()
    panel.to_zarr(folder / "panel.zarr", zarr_format=2)
    (folder / "config.yaml").write_text(yaml.safe_dump({"generator": "x", "unheard": {"of": [1, 2]}}))
    return folder


def test_nothing_is_fetched(page: Page, text: str) -> None:
    for tag, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, name, attrs[name][:80])
    # Scripts are in the page, and ask nobody for anything.
    assert not any("src" in script for script in page.all("script"))
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|sendBeacon|WebSocket", text)
    assert "@import" not in text
    assert all(where.startswith(("#", "data:")) for where in re.findall(r"url\(['\"]?([^)]*)", text))
    assert len(text) < 8e6


def test_every_picture_is_told(page: Page) -> None:
    images = page.all("img")
    assert len(images) > 30
    for image in images:
        assert re.search(r"\d", image["alt"]), image["alt"]
    charts = [svg for svg in page.all("svg") if "chart" in svg.get("class", "")]
    assert charts
    assert all(re.search(r"\d", chart["aria-label"]) and chart["role"] == "img" for chart in charts)
    assert all(svg.get("aria-hidden") == "true" for svg in page.all("svg") if "role" not in svg)


def test_anchors_lead_somewhere_and_ids_are_unique(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for attrs in [*page.all("a"), *page.all("use")]:
        assert attrs["href"].removeprefix("#") in ids


def test_numbers_are_those_of_the_csv(run: Path, page: Page) -> None:
    effects = pd.read_csv(run / "effects.csv").set_index(["target", "outcome", "object", "held", "control"])

    def points(share: float) -> str:
        found = f"{100 * share:.1f}".replace("-", "−").replace("inf", "∞")
        return "0.0" if found == "−0.0" else found

    compared = 0
    for (target, outcome, name), cells in page.rows.items():
        if not outcome:
            continue
        texts = [" ".join(text.split()) for _, text in cells]
        for place, arm in enumerate((("first", "capped"), ("all", "capped"), ("all", "frozen"))):
            row = effects.loc[(target, outcome, name, *arm)]
            held, did, _ = texts[1 + 3 * place : 4 + 3 * place]
            assert texts[0] == points(row["tau_live"])
            assert held == points(row["tau_held"])
            assert did.lstrip("+") == f"{points(row['did'])} [{points(row['ci_low'])}, {points(row['ci_high'])}]"
            compared += 1
    assert compared > 40


def test_arms_out_of_support_are_marked_everywhere(page: Page, text: str) -> None:
    cells = page.rows["window", "removed", "window"]
    assert [("outside" in kind) for kind, _ in cells] == [False] * 7 + [True] * 3
    assert not any("shown" in kind for kind, _ in cells[7:])
    assert "all sites frozen out of support" in " ".join(page.text.split())
    assert "nothing is claimed here for window" in page.text
    assert re.search(r'<pattern id="answer-window', text)  # hatched bars
    [chart] = [svg for svg in page.all("svg") if svg.get("aria-label", "").startswith("Chart. window")]
    assert "all sites frozen (out of support)" in chart["aria-label"]


def test_a_target_in_no_image_is_said_to_be_not_estimable(page: Page, run: Path) -> None:
    assert "No image of 80 shows 'mirror': not estimable." in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
    assert not any(target == "mirror" for target, _, _ in page.rows)
    assert not list((run / "figures").glob("*-mirror.*"))


def test_arms_that_are_the_same_are_shown_once(page: Page) -> None:
    said = " ".join(page.text.split())
    assert "Live against first site held" in said
    # Under insertion they are not the same.
    assert "Live against first site capped" not in said
    assert "Live against first site frozen" not in said


def test_figures_are_files_too(run: Path) -> None:
    names = {path.name for path in (run / "figures").iterdir()}
    stems = ("overview", "ranking", "strip-window", "maps-window", "paper")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} | {"paper.pdf"}
    for path in (run / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_configuration_command_and_citation_are_shown(page: Page) -> None:
    for said in ("ranking_latents", "weights.generator", "0c1d" * 16, invented.COMMAND, "arXiv:2010.08402"):
        assert said in page.text


def test_a_run_without_examples_or_ranking_is_reported(tmp_path: Path) -> None:
    panel = make_panel(40, ("window",), controls=("capped",), strained=("capped:all",))
    text = report.build(bare(tmp_path / "run", panel)).read_text(encoding="utf-8")
    page = Page(text)
    assert "unheard.of" in page.text
    assert 'id="units"' not in text
    assert "outside" in page.rows["window", "removed", "window"][-1][0]


def test_names_of_classes_cannot_break_the_page(tmp_path: Path) -> None:
    odd = 'a "b" <img src=x> & c'
    panel = make_panel(
        40, ("window", odd), controls=("capped",), holds=("first",), classes=(*invented.CLASSES[:4], odd)
    )
    page = Page(report.build(bare(tmp_path / "run", panel)).read_text(encoding="utf-8"))
    assert (odd, "removed", odd) in page.rows
    assert not any(image["src"] == "x" for image in page.all("img"))


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folder"):
        report.build(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a finished run"):
        report.build(tmp_path)
    (tmp_path / "config.yaml").write_text("generator: rooms")
    (tmp_path / "panel.zarr").mkdir()
    with pytest.raises(UsageError, match="not a panel"):
        report.build(tmp_path)
    assert not (tmp_path / "report.html").exists()
