"""The page of a sweep says what its tables say, no more, and stands by itself beside the layers' reports."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from chromium import chromium
from matplotlib.colors import to_hex

from gandid.did import claim2
from gandid.errors import UsageError
from gandid.report import sweep

LAYERS = ("layer3", "layer4", "layer5", "layer6")
OBJECTS = ("lamp", "chair", "rug", "plant", "window", "a <b> & c")
# By arm, what removal is beyond live's, in points, and whether it is in support.
ARMS = {"capped:first": (3.0, True), "capped:all": (30.0, False)}


def invented(folder: Path, slope: float = 0.02, objects: Sequence[str] = OBJECTS) -> Path:
    """The tables of a sweep in which in-painting follows overlap, and one arm is never in support."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    depth, pairs = [], []
    for layer in LAYERS:
        (folder / layer).mkdir()
        config = {
            "generator": "rooms",
            "segmenter": "rooms",
            "latents": 64,
            "seed": 0,
            "resolved": {"chosen": {"lamp": [1, 2]}},
        }
        (folder / layer / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / layer / "report.html").write_text("<title>layer</title>")
        for target in objects:
            concentration, gain = rng.random(), 1 + rng.random()
            for arm, (gap, supported) in ARMS.items():
                own = {"layer": layer, "target": target, "arm": arm, "supported": supported}
                own |= {"same_as": "frozen:first" if arm == "capped:first" else ""}
                for outcome, live in (("removed", 0.8), ("inpainted", 0.05)):
                    did = -gap / 100 if outcome == "removed" else 0.0
                    depth.append(own | _effect(outcome, live, did))
                for other in [name for name in objects if name != target]:
                    overlap, energy = rng.random(2)
                    did = slope * overlap + 0.001 * rng.normal()
                    pair = {"object": other, "tau_live": 0.01, "did": did, "se": 0.0002, "overlap": overlap}
                    pairs.append(own | pair | {"concentration": concentration, "energy": energy, "gain": gain})
    tables = {"depth": pd.DataFrame(depth), "pairs": pd.DataFrame(pairs)}
    tables |= {"sweep": tables["depth"], "claim2": claim2.regress(tables["pairs"], draws=499)}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    about = {"layers": list(LAYERS), "command": "gandid run --layer layer3 --layer layer4 --out 'a & b'"}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(about))
    return folder


def _effect(outcome: str, live: float, did: float) -> dict[str, object]:
    values = {"did": did, "live": live, "held": live - did}
    row: dict[str, object] = {"outcome": outcome, "q": 0.001 if did else 1.0}
    for name, value in values.items():
        stem = "" if name == "did" else f"_{name}"
        row |= {f"tau{stem}" if stem else "did": value, f"ci{stem}_low": value - 0.01, f"ci{stem}_high": value + 0.01}
    return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = invented(tmp_path_factory.mktemp("sweeps") / "rooms")
    assert sweep.build(made) == made / "report.html"
    return made


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_figures_are_there_in_every_format(folder):
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("depth", "claim2") for kind in ("png", "svg", "pdf")}
    pdf = (folder / "figures" / "depth.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf  # fonts are embedded as such, not as drawings


def test_every_layer_is_linked_by_a_path_that_exists(folder, page):
    links = [link for link in re.findall(r'href="([^"#]+)"', page) if link != "data:,"]
    assert links == [f"{layer}/report.html" for layer in LAYERS]
    assert all((folder / link).is_file() for link in links)


def test_the_page_needs_nothing_beside_it_and_escapes_names(page):
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "<b> & c" not in page and "a &lt;b&gt; &amp; c ablated" in page
    assert "--out &#39;a &amp; b&#39;" in page


def test_what_is_said_is_what_the_tables_show(folder, page):
    said = sweep.words(folder)
    text = " ".join(said)
    assert said[0].startswith("With everything live, ablating an object's units removes 80.0 % of its pixels at layer3")
    first, beyond = said[1:3]
    # Six targets at four layers, each removed by 3 points less with the site live.
    assert first.startswith("Live against first site held, 24 of 24 (layer, target) in support")
    removal = "a DID of removal is shown for 24, 0 where more is removed, 24 of self-repair (largest, in points: lamp at layer3 −3.0"
    assert removal in first
    assert "in-painting by all objects together is shown for 0" in first
    assert (
        beyond
        == "Live against all sites capped: out of support or not estimable for every target at every layer; no claim."
    )
    assert "Claim 2 finds support here for overlap" in text
    assert "energy is larger" not in text and "gain is larger" not in text
    assert "Against capped:all: not estimated, no pair is in support" in text
    for one in ("Claim 2 finds support here for overlap", "24 of 24 (layer, target) in support"):
        assert one in page


def test_nothing_found_is_said_as_plainly(tmp_path):
    said = sweep.words(invented(tmp_path / "null", slope=0.0))
    assert any(text.startswith("Claim 2 is not shown here") for text in said)


def test_a_sweep_without_a_test_of_claim_2_has_a_page_all_the_same(tmp_path):
    folder = invented(tmp_path / "few", objects=OBJECTS[:2])
    page = sweep.build(folder).read_text(encoding="utf-8")
    assert "Claim 2 could not be tested" in page
    assert not (folder / "figures" / "claim2.png").exists()


def test_arms_out_of_support_are_hollow_and_set_no_scale(folder):
    found = sweep.read(folder)
    axes = sweep.depth(found).axes[len(OBJECTS)]  # the DID of removed, first target
    low, high = axes.get_ylim()
    assert low > -10  # 30 points would be far below
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    hollow = {to_hex(line.get_color()): to_hex(line.get_markerfacecolor()) == sweep.PAPER for line in points}
    assert hollow == {sweep.HELD[0][0]: False, sweep.HELD[1][0]: True}
    beyond = [line for line in points if line.get_marker() == "v"]
    assert len(beyond) == len(LAYERS) and all(low < line.get_ydata()[0] < high for line in beyond)


def test_layers_are_named_as_short_as_they_can_be():
    assert sweep._ticks(["layer3", "layer10"]) == ("layer", ["3", "10"])
    assert sweep._ticks(["net.0", "head"]) == ("", ["net.0", "head"])


def test_a_folder_without_tables_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"not a finished sweep: it has no sweep\.yaml"):
        sweep.build(tmp_path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_fetches_nothing(browser, folder, width):
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get((folder / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.querySelectorAll('svg.chart[role=img][aria-label]').length") == 11
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
