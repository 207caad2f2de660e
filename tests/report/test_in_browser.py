"""The page as its readers meet it, in Debian's Chromium: on a phone and on a desk, in light and dark."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import chromium

pytestmark = pytest.mark.browser
SCREENS = {1280: 800, 390: 844}
# Texts of which contrast is looked at, with the colour behind them: that of the next element that has one.
CONTRAST = """
const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll('h1, p, b, span, small, a, figcaption, summary, th, td, dt, dd, label, em, text, li, pre, code')]
  .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()))
  .map(e => { const s = getComputedStyle(e), ink = e.ownerSVGElement ? s.fill : s.color;
    const [a, b] = [light(parse(ink)), light(behind(e))].sort((x, y) => y - x); return [(a + .05) / (b + .05), e.textContent.trim().slice(0, 40)]; })
  .filter(([ratio]) => ratio < 4.5)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def show(browser, run: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open the page; what the browser did before is not the page's doing."""
    metrics = {"width": width, "height": SCREENS[width], "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get((run / "report.html").as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(SCREENS))
def test_page_fits_loads_is_legible_and_fetches_nothing(browser, run: Path, width: int, scheme: str) -> None:
    show(browser, run, width, scheme)
    ask = browser.execute_script
    assert ask("return innerWidth") == width
    assert ask("return document.documentElement.scrollWidth") <= width
    assert ask("return document.documentElement.scrollHeight") <= 10 * SCREENS[width]
    assert ask(CONTRAST) == []
    ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert ask("return document.documentElement.scrollWidth") <= width
    assert ask(CONTRAST) == []
    assert ask("return [...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    # Wide content scrolls in a box of its own, which the keyboard reaches.
    boxes = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert all(ask(f"{boxes}.map(e => e.tabIndex === 0 && !!e.ariaLabel)"))
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    assert [url.split(":")[0] for url in urls if not url.startswith("data:")] == ["file"]


@pytest.mark.parametrize("width", list(SCREENS))
def test_the_first_screen_shows_the_finding_pictures_and_a_verdict(browser, run: Path, width: int) -> None:
    show(browser, run, width)
    first = f"e => e.checkVisibility() && e.getBoundingClientRect().bottom <= {SCREENS[width]}"
    pictures = browser.execute_script(
        f"return [...document.querySelectorAll('.four img')].filter({first}).map(i => i.width)"
    )
    assert len(pictures) >= 4 and min(pictures) >= 150
    assert browser.execute_script(f"return [document.querySelector('h1')].filter({first}).length") == 1
    chips = browser.execute_script(f"return [...document.querySelectorAll('.chip')].filter({first}).length")
    assert chips >= (4 if width > 500 else 1)
    smooth = (
        "return [...document.querySelectorAll('.four img, .thumbs img')].map(i => getComputedStyle(i).imageRendering)"
    )
    assert set(browser.execute_script(smooth)) == {"pixelated"}


def seen(browser) -> tuple[str, str]:
    """The picture in the second place, and what is written under it."""
    place = browser.find_element("css selector", ".flip")
    top = """const r = arguments[0].getBoundingClientRect(), e = document.elementFromPoint(r.left + r.width / 2, r.top + r.width / 2);
      return e.closest('.picture').querySelector('img').src"""
    return browser.execute_script(top, place), place.find_element("css selector", "figcaption").text


def test_live_and_held_swap_in_place_by_keyboard_and_by_press(browser, run: Path) -> None:
    show(browser, run)
    before = seen(browser)
    swap = browser.find_element("id", "swap")
    swap.send_keys(" ")
    held = seen(browser)
    assert held[0] != before[0] and held[1] != before[1]
    third = browser.execute_script("return document.querySelectorAll('.four figure')[2].querySelector('img').src")
    assert held[0] == third
    swap.send_keys(" ")
    assert seen(browser) == before
    browser.find_element("css selector", "[for=swap]").click()
    assert seen(browser) == held


def test_outlines_come_and_go(browser, run: Path) -> None:
    show(browser, run)
    drawn = "return [...document.querySelectorAll(arguments[0] + ' .outline')].filter(e => e.checkVisibility()).length"
    assert browser.execute_script(drawn, ".four") == 0
    browser.find_element("id", "lines").send_keys(" ")
    assert browser.execute_script(drawn, ".four") >= 2
    browser.execute_script("document.querySelector('#objects details').open = true")
    shown = browser.execute_script(drawn, "#object-chair")
    assert shown > 2
    browser.find_element("css selector", "#object-chair .lines").send_keys(" ")
    assert browser.execute_script(drawn, "#object-chair") == 0


def test_an_objects_name_opens_what_is_known_of_it(browser, run: Path) -> None:
    show(browser, run)
    browser.find_element("css selector", "a[href='#object-rug']").send_keys("\ue007")
    assert browser.execute_script("return document.getElementById('object-rug').checkVisibility()")
