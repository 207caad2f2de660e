"""The page as its readers meet it, in Debian's Chromium: on a phone and on a desk, in light and dark."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import chromium

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(browser, run: Path) -> Iterator:
    """The page on a desk; it must have nothing to complain of when the test is done."""
    metrics = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get((run / "report.html").as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def wait(browser, state: Callable[[], bool]) -> bool:
    """Wait until the browser has done what it was asked for; a busy machine may take a while over it."""
    return pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(browser, 20).until(lambda _: state())


def rows(browser, count: int = 10_000) -> list[list[str]]:
    """The table's rows that are seen, as text."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#units-table tbody tr')].filter(r => r.checkVisibility())"
        ".slice(0, arguments[0]).map(r => [...r.cells].map(c => c.textContent.trim()))",
        count,
    )


def seen_unit(browser) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('.card')].filter(c => c.checkVisibility()).map(c => c.id)"
    )


def test_units_are_searched_by_number_and_by_class(opened) -> None:
    everything = len(rows(opened))
    box = opened.find_element("id", "search")
    for typed, fits in (
        ("lamp", lambda row: row[1] == "lamp"),
        ("12", lambda row: row[0] == "12"),
        ("12 LAM", lambda row: row[:2] == ["12", "lamp"]),
    ):
        box.send_keys("\ue009a\ue000" + typed)  # Control and A, then over what was there
        wait(opened, lambda typed=typed: box.get_attribute("value") == typed)
        found = rows(opened)
        assert found
        assert all(fits(row) for row in found)
        assert opened.find_element("id", "count").text == f"{len(found)} of {everything} rows"
    box.send_keys(" no such class")
    assert wait(opened, lambda: rows(opened) == [])


def test_units_are_ordered_by_any_column(opened) -> None:
    heads = opened.find_elements("css selector", "#units-table thead th")

    def number(text: str) -> float:
        return float(text.replace("−", "-").removeprefix("~"))

    for column, key, first in ((0, int, False), (1, str, False), (2, number, True), (5, number, True)):
        for backwards in (first, not first):
            heads[column].find_element("tag name", "button").send_keys("\ue007")  # Enter
            values = [key(row[column]) for row in rows(opened)]
            assert values == sorted(values, reverse=backwards)
            assert heads[column].get_attribute("aria-sort") == ("descending" if backwards else "ascending")
    assert sum(bool(head.get_attribute("aria-sort")) for head in heads) == 1


def test_a_unit_opens_by_click_and_by_keyboard(opened) -> None:
    assert seen_unit(opened) == [f"unit-{rows(opened, 1)[0][0]}"]  # the best one, to begin with
    links = opened.find_elements("css selector", "#units-table tbody a")
    for link, open_it in ((links[3], lambda link: link.click()), (links[7], lambda link: link.send_keys("\ue007"))):
        open_it(link)
        assert seen_unit(opened) == [f"unit-{link.text}"]
        shown = "return [...document.querySelectorAll('.card:target .picture')].map(p => [getComputedStyle(p).backgroundImage.slice(0, 20), p.ariaLabel, p.querySelector('path').getTotalLength() > 0])"
        pictures = opened.execute_script(shown)
        assert len(pictures) == 6
        assert all(image == 'url("data:image/webp' and "% of the image" in said for image, said, _ in pictures)
        assert all(outlined for *_, outlined in pictures)
    # Anywhere in a row will do.
    cell = opened.find_elements("css selector", "#units-table tbody td")[40]
    unit = cell.find_element("xpath", "..").find_element("tag name", "th").text
    cell.click()
    assert seen_unit(opened) == [f"unit-{unit}"]
    assert opened.execute_script("return [...document.querySelectorAll('tr.open th')].map(c => c.textContent)") == [
        unit
    ] * len({row[1] for row in rows(opened)})


def test_the_heat_map_is_read_cell_by_cell_and_switched(opened) -> None:
    cells, reading = opened.find_element("id", "cells"), opened.find_element("id", "cell")
    cells.send_keys("\ue014\ue014\ue015")  # right, right, down
    said = reading.text
    found = re.fullmatch(r"Unit (\d+), (.+): ACE (\S+) %, IoU (\S+), energy (\S+) %", said)
    assert found, said
    unit, name, *values = found.groups()
    row = next(row for row in rows(opened) if row[:2] == [unit, name])
    assert [row[2].removeprefix("~"), row[4], row[5]] == values
    cells.send_keys("\ue007")
    assert seen_unit(opened) == [f"unit-{unit}"]
    for name in ("iou", "energy", "ace"):
        opened.find_element("id", f"show-{name}").click()
        seen = (
            "return [...document.querySelectorAll('.cells img')].filter(i => i.checkVisibility()).map(i => i.className)"
        )
        assert opened.execute_script(seen) == [f"layer {name}"]


def test_without_scripts_the_table_is_read_and_units_open(browser, run: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((run / "report.html").as_uri())
        assert not browser.find_element("id", "tools").is_displayed()
        links = browser.find_elements("css selector", "#units-table tbody a")
        assert len(links) > 100
        links[5].click()
        card = browser.find_element("id", f"unit-{links[5].text}")
        assert card.is_displayed()
        assert len(card.find_elements("class name", "picture")) == 6
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_loads_and_fetches_nothing(browser, run: Path, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what the browser did before is not the page's doing
    browser.get((run / "report.html").as_uri())

    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script("return document.images.length") > 30
    assert browser.execute_script(broken) == 0
    # Wide content scrolls in a box of its own, which the keyboard reaches.
    boxes = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert all(browser.execute_script(f"{boxes}.map(e => e.tabIndex === 0 && !!e.ariaLabel)"))
    # Text stands out from what is behind it: the page's own style for the scheme is at work.
    ink, paper = browser.execute_script(
        "const s = getComputedStyle(document.body);"
        "return [s.color, s.backgroundColor].map(c => Math.max(...c.match(/\\d+/g).slice(0, 3).map(Number)))"
    )
    assert (ink < 60 and paper > 200) if scheme == "light" else (ink > 200 and paper < 60)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in urls) == 1
