"""The page as its readers use it, in Debian's Chromium: with a mouse, with the keyboard alone, and on a phone."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium")
pytest.importorskip("gradio")

from browsing import Reader
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from served import Served

pytestmark = pytest.mark.browser
# A state with every part of the page at work, and independent of the ranking.
LINK = "?number=10&layer=layer8&target=rug&units=3.17.5.9.21&count=5"


@pytest.fixture
def desk(reader: Reader, page: Served) -> Iterator[Reader]:
    """The page on a desk, at `LINK`; whatever is done with it, its console stays free of errors."""
    reader.screen()
    reader.open(page.at(LINK))
    yield reader
    assert reader.problems() == []


@pytest.mark.slow
def test_a_newcomer_is_shown_an_effect(reader: Reader, page: Served) -> None:
    reader.screen()
    reader.open(page.at())
    said = reader.says("#finding", "normalization")
    assert re.search(r"Ablating the \d+ [\w ]+ units removes \d+ % of this [\w ]+\. With normalization held", said)
    reader.until(lambda: re.search("(32|64) of 64", reader.text("#numbers-all")), patience=200)
    assert reader.asked() <= {page.address.rstrip("/"), "data", "blob", "about"}
    assert reader.problems() == []


def test_a_click_chooses_an_object(desk: Reader) -> None:
    box = desk.find("#original").rect
    # The middle of a window or painting of image 10; which one it is, the hint under the pictures says on hovering.
    where = desk.js("const s = document.querySelector('#canvas img'); return [s.naturalWidth, s.naturalHeight]")
    assert where == [64, 64]
    found = None
    for y in range(4, 64, 6):
        for x in range(4, 64, 6):
            move = ActionChains(desk.driver, duration=0).move_to_element_with_offset(
                desk.find("#original"), round((x / 64 - 0.5) * box["width"]), round((y / 64 - 0.5) * box["height"])
            )
            move.perform()
            hint = desk.text("#canvas .hint")
            if "click to edit it" in hint:
                found = hint.split(":")[0]
                break
        if found:
            break
    assert found and found != "rug"
    desk.repainted(lambda: ActionChains(desk.driver).click().perform())
    assert desk.find("#target input:checked").get_attribute("value") == found
    assert f"target={found}" in desk.driver.current_url
    desk.says("#finding", found)


def test_every_slider_and_choice_repaints(desk: Reader) -> None:
    for slider, value, said in (("#alpha", 0.5, "by 50 %"), ("#count", 3, "the 3 rug units")):
        desk.repainted(lambda slider=slider, value=value: desk.slide(slider, value))
        desk.says("#finding", said)
    desk.repainted(lambda: desk.find("#hold input[value=all]").click())
    desk.repainted(lambda: desk.find("#control input[value=frozen]").click())
    desk.says("#finding", "all sites")
    desk.repainted(lambda: desk.slide("#layer", 9))
    desk.until(lambda: "layer9, 24 units" in desk.text("#layer"))
    assert all(part in desk.driver.current_url for part in ("alpha=0.5", "hold=all", "control=frozen", "layer=layer9"))
    desk.repainted(lambda: desk.find("#next").click())  # the next that has a rug
    desk.until(lambda: "number=10" not in desk.driver.current_url)
    assert int(desk.driver.current_url.split("number=")[1].split("&")[0]) > 3
    assert ", none" not in desk.text("#target label:has(:checked)")
    desk.repainted(lambda: desk.find("#previous").click())
    desk.until(lambda: "number=10" in desk.driver.current_url)


def test_a_brush_limits_the_edit_and_can_be_taken_back(desk: Reader) -> None:
    before = desk.says("#numbers-here", "rug removed")
    desk.find("input[value=brush] + span").click()
    box = desk.find("#original").rect
    drag = ActionChains(desk.driver).move_to_element_with_offset(desk.find("#original"), 0, round(0.2 * box["height"]))
    drag.click_and_hold().move_by_offset(round(0.15 * box["width"]), 0)
    desk.repainted(lambda: drag.release().perform())
    assert "region=32x32:" in desk.driver.current_url
    desk.says("#finding", "in the region")
    assert len(desk.js("return [...document.querySelectorAll('#original rect.cell')]")) >= 2
    desk.says("#keep", "--region")
    desk.repainted(lambda: desk.find("#clear-region").click())
    assert "region=" not in desk.driver.current_url
    desk.until(lambda: desk.text("#numbers-here") == before)


def test_a_press_shows_the_next_picture_in_its_place(desk: Reader) -> None:
    shown = "return [...document.querySelectorAll('#canvas .stage img')].map(i => i.src)"
    pictures = desk.js(shown)
    held = ActionChains(desk.driver).move_to_element(desk.driver.find_elements("css selector", "#canvas .picture")[1])
    held.click_and_hold().perform()
    desk.until(lambda: desk.js(shown) == [pictures[0], pictures[2], *pictures[2:]])
    assert "held" in desk.driver.find_elements("css selector", "#canvas figcaption")[1].text
    ActionChains(desk.driver).release().perform()
    desk.until(lambda: desk.js(shown) == pictures)


@pytest.mark.slow
def test_back_and_forward_restore_edits(desk: Reader) -> None:
    first, said = desk.driver.current_url, desk.text("#finding")
    desk.repainted(lambda: desk.slide("#alpha", 0.4))
    time.sleep(1.2)  # what follows at once is the same drag
    desk.repainted(lambda: desk.find("#hold input[value=all]").click())
    second = desk.driver.current_url
    desk.repainted(lambda: desk.find("#undo").click())
    assert "alpha=0.4" in desk.driver.current_url and "hold=all" not in desk.driver.current_url
    desk.repainted(desk.driver.back)
    assert (desk.driver.current_url, desk.text("#finding")) == (first, said)
    assert desk.find("#alpha input[type=number]").get_attribute("value") == "1"
    desk.repainted(lambda: desk.driver.find_elements("css selector", ".film button")[2].click())
    assert desk.driver.current_url == second
    assert desk.find("#hold input[value=all]").is_selected()
    desk.repainted(lambda: desk.find("#reset").click())
    assert "alpha=" not in desk.driver.current_url and "number=10" in desk.driver.current_url
    desk.until(lambda: "--alpha" not in desk.text("#keep"))  # nor would a study run with it


def test_the_hand_is_beside_the_pictures(reader: Reader, page: Served) -> None:
    box = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
    reader.screen()
    reader.open(page.at(LINK))
    for part in ("#canvas .stage", "#target", "#mode", "#count", "#alpha", "#layer", "#control", "#hold"):
        place = reader.js(box, part)
        assert place["top"] >= 0 and place["bottom"] <= 900, (part, place)
    reader.screen(390, 844)
    reader.js("document.querySelector('#hold').scrollIntoView({block: 'end'})")
    time.sleep(0.5)
    stage, hold = reader.js(box, "#canvas .stage"), reader.js(box, "#hold")
    assert stage["top"] >= 0 and hold["top"] > stage["bottom"] and hold["bottom"] <= 845


def test_insertion_begins_in_the_middle(desk: Reader) -> None:
    desk.repainted(lambda: desk.find("#mode input[value=insert]").click())
    desk.says("#finding", "Inserting the 5 rug units makes")
    assert "mode=insert" in desk.driver.current_url and "region=32x32:" in desk.driver.current_url
    desk.says("#keep", "--edit insert")
    desk.repainted(lambda: desk.find("#mode input[value=ablate]").click())
    assert "region=" not in desk.driver.current_url


@pytest.mark.slow
def test_one_object_is_ablated_while_another_is_inserted(desk: Reader) -> None:
    chips = "return [...document.querySelectorAll('#edits li')].map(e => e.innerText.split('\\n')[0])"
    desk.repainted(lambda: desk.find("#edits button").click())
    desk.repainted(lambda: desk.find("#target input[value=lamp]").click())
    desk.repainted(lambda: desk.find("#mode input[value=insert]").click())
    desk.until(lambda: desk.js(chips)[:2] == ["lamp inserted", "rug ablated"])
    assert desk.says("#finding", "Edited besides: rug ablated.").startswith("Inserting the")
    assert "rug removed" in desk.text("#numbers-here")
    desk.repainted(
        lambda: desk.find("#target input[value=rug]").click()
    )  # it is edited: so it is taken in hand as it is
    assert desk.says("#finding", "Edited besides: lamp inserted.").startswith("Ablating the 5 rug units")
    assert desk.find("#mode input[value=ablate]").is_selected()
    desk.until(lambda: "64 of 64" in desk.text("#numbers-all"), patience=200)
    desk.repainted(lambda: desk.find("#edits [data-turn='drop=lamp']").click())
    assert "also=" not in desk.driver.current_url
    assert "Edited besides" not in desk.text("#finding")


@pytest.mark.slow
def test_what_lies_around_leads_there(desk: Reader) -> None:
    current = "return [...document.querySelectorAll('#around [aria-current=true]')].map(e => e.dataset.turn)"
    desk.until(lambda: desk.js(current) == ["number=10", "alpha=1.0", "layer=layer8"])
    desk.until(lambda: len(desk.js("return [...document.querySelectorAll('.strip img')]")) == 12)
    shown = "return document.querySelector('.strip [aria-current=true]').innerText.trim()"
    assert desk.js(shown) in desk.text("#numbers-here")  # the effect under the image is that of the table
    desk.repainted(lambda: desk.find(".curve [data-turn='alpha=0.5']").click())
    desk.says("#finding", "by 50 %")
    desk.until(lambda: desk.js(current)[1] == "alpha=0.5")
    desk.repainted(lambda: desk.find(".strip [data-turn='number=7']").click())
    assert all(part in desk.driver.current_url for part in ("number=7", "alpha=0.5", "units=3.17.5.9.21"))
    desk.repainted(lambda: desk.find(".curve [data-turn='layer=layer9']").click())
    desk.until(lambda: "layer9, 24 units" in desk.text("#layer"))
    assert desk.find("#number input").get_attribute("value") == "7"


def test_units_are_ticked_in_and_out(desk: Reader) -> None:
    desk.until(lambda: desk.js("return document.querySelectorAll('#units input').length") == 32)
    ticked = (
        "return [...document.querySelectorAll('#units input:checked')].map(e => Number(e.value)).sort((a, b) => a - b)"
    )
    assert desk.js(ticked) == [3, 5, 9, 17, 21]
    desk.repainted(lambda: desk.find("#units input[value='17']").click())
    desk.says("#about-units", "4 ticked by hand")
    assert "units=" in desk.driver.current_url and "17" not in desk.driver.current_url.split("units=")[1].split("&")[0]
    desk.repainted(lambda: desk.find("#automatic").click())
    desk.until(lambda: len(desk.js(ticked)) == 4)  # the first four of the ranking


def test_the_link_shows_the_same_again(desk: Reader, page: Served) -> None:
    desk.repainted(lambda: desk.slide("#alpha", 0.7))
    desk.repainted(lambda: desk.find("#hold input[value=all]").click())
    desk.says("#keep", "--hold all")
    link, seen = desk.driver.current_url, [desk.text(q) for q in ("#finding", "#numbers-here", "#keep")]
    pictures = "return [...document.querySelectorAll('#canvas .stage img')].map(i => i.src)"
    shown = desk.js(pictures)
    desk.open(link)
    desk.says("#keep", "--alpha 0.7")
    assert [desk.text(q) for q in ("#finding", "#numbers-here", "#keep")] == seen
    assert desk.js(pictures) == shown
    assert desk.find("#alpha input[type=number]").get_attribute("value") == "0.7"


def test_garbage_in_the_address_is_survived(reader: Reader, page: Served) -> None:
    reader.screen()
    reader.open(page.at("?layer=%3Cscript%3E&units=a.b&alpha=7&region=9x9:zz&number=-4&target=" + "x" * 500))
    reader.says("#finding", "window")  # the first object
    assert reader.find("#alpha input[type=number]").get_attribute("value") == "1"
    assert reader.problems() == []


def test_the_segmentation_can_be_laid_over(desk: Reader) -> None:
    opaque = (
        "return [...document.querySelectorAll('#canvas .picture canvas')].map(c => "
        "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v > 0).length)"
    )
    assert desk.js(opaque) == [0, 0, 0, 0]
    desk.find("#segmentation").click()
    assert desk.js(opaque) == [64 * 64] * 3 + [0]
    desk.says("#canvas .legend", "rug")


def test_the_keyboard_alone_is_enough(desk: Reader) -> None:
    keys = lambda *pressed: ActionChains(desk.driver).send_keys(*pressed).perform()  # noqa: E731
    focus = "const e = document.activeElement; return [...(function* () { for (let n = e; n; n = n.parentElement) if (n.id) yield n.id; })()].join(' ')"
    reached: list[str] = []
    desk.js("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(200):  # what was shown before, the images around, the units and the points of curves are stops, too
        keys(Keys.TAB)
        reached.append(desk.js(focus))
        ring = desk.js("const e = document.activeElement; return e.matches(':focus-visible')")
        assert ring, reached[-1]
        if reached[-1].startswith("start "):
            break
    said = " ".join(reached)
    for part in (
        "original",
        "segmentation",
        "target",
        "number",
        "next",
        "mode",
        "count",
        "alpha",
        "layer",
        "units",
        "name",
        "start",
    ):
        assert part in said, (part, reached)
    # Choose with arrows and Enter in the picture: somewhere there is another object than the rug.
    desk.js("document.querySelector('#original').focus()")
    for key in [Keys.ARROW_UP] * 14 + [Keys.ARROW_LEFT] * 14 + [Keys.ARROW_DOWN] * 8 + [Keys.ARROW_RIGHT] * 28:
        keys(key)
        if "click to edit it" in desk.text("#canvas .hint"):
            break
    desk.repainted(lambda: keys(Keys.ENTER))
    assert desk.find("#target input:checked").get_attribute("value") != "rug"
    # A slider moves with the arrows, and the brush with Space.
    desk.js("document.querySelector('#alpha input[type=range]').focus()")
    desk.repainted(lambda: keys(Keys.ARROW_LEFT))
    desk.says("#finding", "by 95 %")
    desk.js("document.querySelector('input[value=brush]').click(); document.querySelector('#original').focus()")
    keys(Keys.ARROW_DOWN)
    keys(Keys.SPACE)
    desk.until(lambda: "region=" in desk.driver.current_url)


@pytest.mark.parametrize("width", [pytest.param(390, marks=pytest.mark.slow), 1280])
def test_everything_fits_and_can_be_read(reader: Reader, page: Served, width: int) -> None:
    reader.screen(width, 844, "dark")
    reader.open(page.at(LINK))
    reader.until(lambda: "64 of 64" in reader.text("#numbers-all"), patience=200)
    assert reader.js("return innerWidth") == width
    assert reader.js("return document.documentElement.scrollWidth") <= width
    assert reader.js(OVERLAPS) == []
    assert reader.js(CUT_OFF) == []
    assert reader.js(UNLABELLED) == []
    assert reader.js("return document.body.classList.contains('dark')")
    assert reader.js(FAINT) == []
    reader.js("document.body.classList.remove('dark')")
    time.sleep(0.5)  # colours change smoothly
    assert reader.js(FAINT) == []
    assert reader.problems() == []


# Parts that stand beside or under each other must not meet.
OVERLAPS = """
const parts = [...document.querySelectorAll('#brand, #finding, #status, #canvas figure, #canvas .tools > *, #canvas .hint, '
  + '#target, #number, #seed, #steps, #edits, #mode, #count, #alpha, #layer, #control, #hold, #numbers-here, #numbers-all, #about-units, '
  + '#units, #around, #name, #latents, #start, #stop, #progress, #keep, #another')].filter(e => e.getClientRects().length);
const boxes = parts.map(e => e.getBoundingClientRect());
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
const named = e => e.id || e.className || e.tagName;
return boxes.flatMap((a, i) => boxes.slice(i + 1).flatMap((b, j) => meet(a, b) ? [named(parts[i]) + ' / ' + named(parts[i + j + 1])] : []));
"""
# What is wider than the part that shows it, and cannot be scrolled.
CUT_OFF = """
return [...document.querySelectorAll('.card, .panel-card, #finding, #keep pre, .units label, .tools, #choices')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.id || e.className);
"""
UNLABELLED = """
const named = e => e.ariaLabel || e.getAttribute('aria-labelledby') || e.alt || e.title || (e.labels && e.labels.length) || e.innerText?.trim();
return [...document.querySelectorAll('button, input:not([type=hidden]), textarea, select, [tabindex="0"]')]
  .filter(e => e.getClientRects().length && !named(e)).map(e => e.outerHTML.slice(0, 120));
"""
# Text whose contrast with what is behind it is less than WCAG's AA asks for: 4.5, or 3 for large text.
FAINT = """
const rgb = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
const found = new Set();
const walk = document.createTreeWalker(document.querySelector('.gradio-container'), NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, s = getComputedStyle(e);
  if (!walk.currentNode.data.trim() || !e.getClientRects().length || s.visibility === 'hidden' || e.closest(':disabled, script, style')) continue;
  const [a, b] = [light(rgb(s.color)), light(behind(e))].sort((x, y) => y - x);
  const large = parseFloat(s.fontSize) >= 24 || (parseFloat(s.fontSize) >= 18.66 && Number(s.fontWeight) >= 700);
  if ((a + .05) / (b + .05) < (large ? 3 : 4.5)) found.add(`${((a + .05) / (b + .05)).toFixed(2)} ${walk.currentNode.data.trim().slice(0, 40)} ${e.tagName}.${e.className}`);
}
return [...found];
"""


def test_what_reproduces_the_state_can_be_copied(desk: Reader) -> None:
    for button, text in zip(
        desk.driver.find_elements("css selector", "#keep [data-copy]"),
        ("127.0.0.1", "Command", "Python", "layer:"),
        strict=True,
    ):
        desk.js("document.querySelector('#keep .copied').textContent = ''")
        button.click()
        assert desk.until(lambda: desk.text("#keep .copied")) in (
            "Copied.",
            "The browser does not let the page copy: the text is selected, press Ctrl+C.",
        )
        assert text in desk.text("#keep")


def test_the_gallery_is_empty_in_words_at_first(desk: Reader) -> None:
    desk.js("[...document.querySelectorAll('[role=tab]')].find(e => e.innerText.includes('Finished')).click()")
    desk.until(lambda: "No finished run" in desk.text("#gallery"))


def test_a_bad_upload_is_told_in_words(desk: Reader, page: Served, tmp_path: Path) -> None:
    bad = tmp_path / "not-a-gan.pth"
    bad.write_bytes(b"nothing of the kind")
    desk.js("document.querySelector('#another button').click()")
    desk.until(lambda: desk.js("return document.querySelectorAll('#upload input[type=file]').length"))
    desk.find("#upload input[type=file]").send_keys(str(bad))
    said = desk.until(lambda: desk.text("#upload .problem"))
    assert said.startswith("not-a-gan.pth is not a checkpoint")
    assert not list((page.runs / "uploads").glob("*"))
    assert all("422" in problem for problem in desk.problems())
