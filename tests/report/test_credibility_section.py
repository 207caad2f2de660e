"""Six questions to an effect: the answers follow from what is planted, and claim no more than was measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import invented_evidence as invented
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from chromium import chromium
from hypothesis import given, settings
from hypothesis import strategies as st
from test_page import Page

from gandid import report
from gandid.did import Effects
from gandid.report import credibility, evidence, figures, folder
from gandid.report.folder import label

THERE, SITE, DOSE, RANDOM, SECOND, WRONG = range(6)
# All controls see self-repair and in-painting, so that no question is put to nothing.
AGREED = {
    "live": {"wall": 0.40, "painting": 0.20},
    "first": {"wall": 0.45, "painting": 0.17},
    "capped:all": {"wall": 0.80, "painting": 0.04},
    "frozen:all": {"wall": 0.75, "painting": 0.06},
    "mean:all": {"wall": 0.70, "painting": 0.08},
    "twin:all": {"wall": 0.65, "painting": 0.05},
}
ARMS = ("capped:first", "capped:all", "frozen:first", "frozen:all", "mean:all", "twin:all")
# Frozen sees the opposite of what the others see.
DISAGREED = AGREED | {"frozen:all": {"wall": 0.05, "painting": 0.40}}


def written(path: Path, panel: xr.Dataset) -> Path:
    path.mkdir()
    panel.to_zarr(path / "panel.zarr", zarr_format=2)
    (path / "config.yaml").write_text(yaml.safe_dump({"generator": "x"}))
    return path


@pytest.fixture(scope="module")
def agreed() -> xr.Dataset:
    return invented.panel(plan=AGREED, noise=0.02)


@pytest.fixture(scope="module")
def where(agreed: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("runs") / "believed", agreed)


@pytest.fixture(scope="module")
def effects(agreed: xr.Dataset) -> Effects:
    return invented.believed(agreed)


@pytest.fixture(scope="module")
def run(where: Path, effects: Effects) -> folder.Run:
    return folder.read(where, effects)


@pytest.fixture(scope="module")
def shown(agreed: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the window alone: figures take long to draw."""
    one = agreed.sel(target=["window"])
    return report.build(written(tmp_path_factory.mktemp("runs") / "shown", one), invented.believed(one))


@pytest.fixture(scope="module")
def page(shown: Path) -> Page:
    return Page(shown.read_text(encoding="utf-8"))


def asked(run: folder.Run, effects: Effects | None = None, outcome: str = "removed") -> list[credibility.Answer]:
    """The answers about the window, with other effects than the run's if they are given."""
    return credibility.answers(replace(run, effects=effects) if effects else run)["window", outcome]


def elsewhere(path: Path, **plan: object) -> folder.Run:
    """A run of another panel, with evidence that agrees with it."""
    panel = invented.panel(targets=("window",), noise=0.02, **plan)  # type: ignore[arg-type]
    return folder.read(written(path / "run", panel), invented.believed(panel))


def test_what_all_evidence_agrees_on_is_believed(run: folder.Run) -> None:
    found = credibility.answers(run)
    assert list(found) == [(target, outcome) for target in ("window", "lamp") for outcome in ("removed", "inpainted")]
    for answers in found.values():
        assert [(answer.verdict, answer.word) for answer in answers] == [
            ("ok", "yes"), ("ok", "layer5"), ("ok", "yes"), ("ok", "no"), ("ok", "yes"), ("ok", "not in sign"),
        ]  # fmt: skip
    said = credibility.lead(list(found.values()))
    assert said.startswith("4 effects of 4 are shown under every control in support.")
    assert "4 can be laid on a site, 4 grow with the dose, 4 go beyond random units" in said


def test_answers_carry_the_numbers_of_the_tables(run: folder.Run, effects: Effects) -> None:
    row = effects.frame.set_index(["target", "outcome", "arm"]).loc[("window", "removed", "twin:all")]
    numbers = [f"{100 * row[name]:.1f}".replace("-", "−") for name in ("did", "ci_low", "ci_high")]
    assert f"twin without normalization {numbers[0]} [{numbers[1]}, {numbers[2]}]" in asked(run)[THERE].text
    whole = run.together.set_index(["target", "arm"]).loc[("window", "capped:all")]
    assert f"all sites capped +{100 * whole['did']:.1f} [" in asked(run, outcome="inpainted")[THERE].text
    # 1 of 51: no random set of 50 does as much.
    assert "of 50 random sets (p\u00a0=\u00a00.020)" in asked(run)[RANDOM].text
    assert "98\u00a0% to 102\u00a0% of the energy" in asked(run)[RANDOM].text


@pytest.mark.parametrize(
    ("missing", "question", "flag"),
    [
        ("shapley", SITE, "--sites shapley"),
        ("dose", DOSE, "--dose"),
        ("placebos", RANDOM, "--placebos 50"),
        ("sensitivity", SECOND, "--second-segmenter NAME"),
    ],
)
def test_what_was_not_measured_is_not_answered_but_named(
    run: folder.Run, effects: Effects, missing: str, question: int, flag: str
) -> None:
    less = replace(run, effects=invented.without(effects, missing))
    answered = credibility.answers(less)
    for answers in answered.values():
        assert answers[question].verdict == "none" and flag in answers[question].text
        assert all(answer.verdict == "ok" for q, answer in enumerate(answers) if q not in (question, WRONG))
        # One way of measuring is none that was tried.
        assert answers[WRONG].word == ("one way only" if missing == "sensitivity" else "not in sign")
    section = credibility.credibility_section(less, {"window": "w", "lamp": "l"}, figures.class_colours(less), answered)
    assert [asks for _, asks in section["missing"]] == [flag]
    assert bool(section["doses"]) == (missing != "dose")


def test_controls_that_disagree_in_sign_settle_nothing(tmp_path: Path) -> None:
    for answers in credibility.answers(elsewhere(tmp_path, plan=DISAGREED)).values():
        assert (answers[THERE].verdict, answers[THERE].word) == ("flagged", "not settled")
        assert "In sign" in answers[THERE].text and "all sites frozen" in answers[THERE].text


def test_an_arm_out_of_support_has_no_say(tmp_path: Path) -> None:
    run = elsewhere(tmp_path, plan=DISAGREED, strained=("frozen:first", "frozen:all"))
    found = asked(run)
    assert found[THERE].word == "yes"
    assert "(out of support, not claimed)" in found[THERE].text
    assert "Out of support, not claimed: all sites frozen" in found[DOSE].text
    for question in (RANDOM, SECOND, WRONG):
        assert "frozen" not in found[question].text


def test_of_a_control_the_arm_speaks_that_holds_most_in_support(run: folder.Run, tmp_path: Path) -> None:
    def names(run: folder.Run) -> list[str]:
        return [arm.name for arm in evidence.leading(run, "window")]

    assert names(run) == ["capped:all", "frozen:all", "mean:all", "twin:all"]
    strained = elsewhere(tmp_path, plan=AGREED, strained=("capped:all", "mean:all"))
    assert names(strained) == ["capped:first", "frozen:all", "mean:all", "twin:all"]
    assert "Besides: all sites capped" in asked(strained)[THERE].text


def test_where_no_arm_is_in_support_nothing_is_claimed(tmp_path: Path) -> None:
    run = elsewhere(tmp_path, plan=AGREED, strained=ARMS)
    found = asked(run)
    assert all(answer.verdict != "ok" for answer in found)
    assert {found[question].word for question in (THERE, DOSE, WRONG)} == {"not settled"}


def test_no_effect_leaves_nothing_to_explain_and_says_what_would_have_been_found(tmp_path: Path) -> None:
    same = dict.fromkeys(AGREED, AGREED["live"])
    run = elsewhere(tmp_path, plan=same)
    found = asked(run)
    assert [answer.verdict for answer in found] == ["none"] * 6
    smallest = run.rows("window", "removed")["smallest"].iloc[0]
    assert 0 < smallest < 0.1
    assert "would be found in four of five such studies" in found[THERE].text


def test_a_difference_that_shrinks_at_high_doses_is_no_steady_growth(run: folder.Run, agreed: xr.Dataset) -> None:
    found = asked(run, invented.believed(agreed, peak=0.6))[DOSE]
    assert (found.verdict, found.word) == ("flagged", "not steadily")
    assert " at 0.6" in found.text
    did = run.rows("window", "removed", run.arms[1])["did"].iloc[0]
    assert f"but {200 * did:.1f} at 0.6".replace("-", "−") in found.text


def test_an_effect_without_an_edit_refutes_the_dose_response(run: folder.Run, effects: Effects) -> None:
    bad = invented.checked(effects, "dose", "window", "failed", "capped:all", "the largest effect at dose 0")
    assert asked(run, bad)[DOSE].verdict == "failed"
    assert credibility.answers(replace(run, effects=bad))["lamp", "removed"][DOSE].verdict == "ok"


@pytest.mark.parametrize(
    ("times", "verdict", "word"), [(1.04, "flagged", "not told apart"), (4.0, "failed", "yes"), (0.5, "ok", "no")]
)
def test_random_units_that_do_as_much_are_told(
    run: folder.Run, agreed: xr.Dataset, times: float, verdict: str, word: str
) -> None:
    found = asked(run, invented.believed(agreed, random=times))[RANDOM]
    assert (found.verdict, found.word) == (verdict, word)


def test_weak_random_units_prove_little(run: folder.Run, agreed: xr.Dataset) -> None:
    found = asked(run, invented.believed(agreed, energy=0.5))[RANDOM]
    assert (found.verdict, found.word) == ("flagged", "no, but weaker")


def test_the_permutation_p_is_the_rank_of_the_own_units() -> None:
    rng = np.random.default_rng(0)
    for own in (-0.3, 0.0, 0.1, 2.0):
        draws = rng.normal(0, 0.2, 99)
        rows = pd.DataFrame({"draw": np.arange(-1, 99), "did": [own, *draws]})
        rank = np.argsort(np.argsort(-np.abs([own, *draws]), kind="stable"), kind="stable")[0] + 1
        assert evidence.permuted(rows)[2] == pytest.approx(rank / 100)


@pytest.mark.parametrize(("times", "verdict", "word"), [(-1.0, "failed", "no"), (0.0, "flagged", "not settled")])
def test_what_another_segmenter_does_not_see_is_not_confirmed(
    run: folder.Run, agreed: xr.Dataset, times: float, verdict: str, word: str
) -> None:
    found = asked(run, invented.believed(agreed, second=times))
    assert (found[SECOND].verdict, found[SECOND].word) == (verdict, word)
    assert found[WRONG].word == ("the sign turns" if times < 0 else "could be 0")


def test_trends_that_may_differ_widely_leave_the_sign_open(run: folder.Run, agreed: xr.Dataset) -> None:
    found = asked(run, invented.believed(agreed, gap=0.5))[WRONG]
    assert (found.verdict, found.word) == ("flagged", "could be 0")
    row = run.rows("window", "removed", run.arms[-1]).iloc[0]
    assert f"if trends differed by {-row['ci_high'] / 0.5:.1f} times the gap of the baselines" in found.text


def test_what_is_not_shown_is_no_other_way_of_measuring_what_is(run: folder.Run, effects: Effects) -> None:
    """Of capped alone anything is shown, and it was measured once; that mean was measured in four ways adds nothing."""
    table = effects.evidence["sensitivity"]
    once = table[~((table["control"] != "mean") & (table["variation"] != "as measured"))]
    frame = effects.frame.assign(q=effects.frame["q"].where(effects.frame["control"] == "capped", 0.9))
    found = asked(run, replace(effects, frame=frame, evidence={**effects.evidence, "sensitivity": once}))
    assert found[THERE].word == "in part"
    assert (found[WRONG].verdict, found[WRONG].word) == ("flagged", "one way only")


def test_one_pair_of_networks_is_said_to_be_one_draw(run: folder.Run, effects: Effects) -> None:
    assert "one pair of networks is one draw" in asked(run)[WRONG].text
    several = pd.DataFrame(
        {
            "target": ["window"], "outcome": ["removed"], "object": ["window"], "did": [-0.1], "ci_low": [-0.4],
            "ci_high": [0.2], "networks": ["1 live, 3 twins"],
        }
    )  # fmt: skip
    found = asked(run, replace(effects, evidence={**effects.evidence, "twins": several}))[WRONG]
    assert found.word == "could be 0"
    assert "Over networks (1 live, 3 twins): −10.0 [−40.0, 20.0]" in found.text


@pytest.mark.parametrize(
    ("parts", "word", "said"),
    [
        ((0.5, 0.5, 0.0), "several", "More than one"),
        ((1.6, 0.0, -0.6), "layer5", "output works against it"),
        ((0.0, 0.0, 1.0), "output", "Mostly output: "),
        ((0.0, 0.0, 0.0), "nothing to share", "No site"),
    ],
)
def test_the_site_is_named_that_makes_the_effect(
    run: folder.Run, agreed: xr.Dataset, parts: tuple[float, ...], word: str, said: str
) -> None:
    found = asked(run, invented.believed(agreed, parts=parts))[SITE]
    assert found.word == word
    assert said in found.text


def test_shares_that_do_not_add_up_are_not_believed(run: folder.Run, effects: Effects) -> None:
    bad = invented.checked(effects, "shapley_efficiency", "window", "failed", detail="largest gap")
    assert asked(run, bad)[SITE].verdict == "failed"


def test_checks_that_are_not_passed_are_named(run: folder.Run, effects: Effects) -> None:
    bad = invented.checked(effects, "parallel_trends", "window", "flagged", "twin:all")
    assert "parallel trends" in asked(run, bad)[WRONG].text
    assert "parallel trends," not in asked(run)[WRONG].text


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.floats(0.001, 0.1),
)
@settings(max_examples=60, deadline=None)
def test_labels_keep_apart_and_near_their_lines(wanted: list[float], gap: float) -> None:
    places = evidence.apart(np.array(wanted), gap, 0, 1)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(places[order]) >= gap - 1e-9).all()
    assert places.min() >= -1e-9 and places.max() <= 1 + 1e-9
    if (np.diff(np.sort(wanted)) >= gap).all():
        np.testing.assert_allclose(places, wanted, atol=1e-9)


def test_curves_are_those_of_the_table(run: folder.Run, effects: Effects) -> None:
    drawn = evidence.dose(run, "window")
    titles = [text.get_text() for text in drawn.texts[1:]]
    assert titles[:2] == ["removed, % of window", "in-painted by other objects, %"]
    assert titles[2:] == ["in-painted by painting, %"]  # the only object that moves
    rows = evidence.of(effects.evidence["dose"], "window", "removed")
    curves = {line.get_color(): line.get_ydata() for line in drawn.axes[0].lines if len(line.get_xdata()) == 11}
    for arm in (None, *run.arms):
        of = evidence.of_arm(rows, arm or run.arms[0]).sort_values("alpha")
        want = 100 * of["tau_live" if arm is None else "tau_held"].to_numpy()
        np.testing.assert_allclose(curves[figures.arm_style(run, arm)[0]], want)


def test_each_figure_is_a_file_and_told_in_the_page(shown: Path, page: Page) -> None:
    names = {path.name for path in (shown.parent / "figures").iterdir()}
    stems = ("shapley", "dose-window", "placebos-window", "sensitivity-window")
    assert {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} <= names
    told = [svg["aria-label"] for svg in page.all("svg") if svg.get("aria-label", "").startswith("Chart. window")]
    for said in ("parts from α = 0.1 on", "sum −", "of 50 random sets", "second segmenter −"):
        assert any(said in one.replace("\u00a0", " ") for one in told), said


def test_the_page_asks_and_answers_over_all_and_per_target(page: Page) -> None:
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    assert {"credibility", "believe-window"} <= ids
    assert {"#credibility", "#believe-window"} <= {attrs["href"] for attrs in page.all("a")}
    for asks in credibility.QUESTIONS:
        assert page.text.count(asks) == 2
    said = " ".join(page.text.split())
    for control in ("capped", "frozen", "mean", "twin"):
        assert " ".join(credibility.CONTROLS[control].split()) in said
    assert "Not asked in this run" not in said
    assert said.count("a causal reading rests on parallel trends") == 2  # the claims of mean and of twin
    assert not any("nan" in word.lower().split() for word in said.split("."))


def test_a_run_without_evidence_says_what_would_give_it(tmp_path: Path, agreed: xr.Dataset) -> None:
    text = report.build(written(tmp_path / "run", agreed.isel(target=[0]))).read_text(encoding="utf-8")
    for flag in ("--dose", "--sites shapley", "--placebos 50", "--second-segmenter NAME"):
        assert f"<code>{flag}</code>" in text


def test_regimes_are_told_in_words() -> None:
    assert [label([name]) for name in ("mean:first", "mean:all", "mean:a.norm", "mean:a.norm+b.norm")] == [
        "first site at its mean",
        "all sites at their means",
        "a.norm at its mean",
        "a.norm + b.norm at their means",
    ]
    assert label(["twin:all"]) == "twin without normalization"
    assert label(["twin:seed1"]) == "twin seed1"
    assert label(["twin:all/unedited"]) == "twin, unedited"
    assert label(["mean:all/unedited"]) == "all sites at their means, unedited"
    assert label(["capped:first", "frozen:first"]) == "first site held"


def test_twins_share_a_colour_and_differ_in_marks(run: folder.Run) -> None:
    arms = [folder.Arm(name, (name,), name) for name in ("capped:all", "mean:all", "twin:a", "twin:b")]
    looks = [figures.arm_style(replace(run, arms=arms), arm) for arm in arms]
    assert len(set(looks)) == 4
    assert looks[2][0] == looks[3][0] not in (looks[0][0], looks[1][0])


def test_a_twins_change_is_against_its_own_original(where: Path, run: folder.Run) -> None:
    """The twin's own image shows a window elsewhere; half of it goes."""
    arms = ["reference", "live", "twin:all", "twin:all/unedited"]
    classes = ["wall", "window"]
    labels = np.zeros((1, 4, 16, 16), np.uint8)
    labels[0, 0, :8, :8] = 1  # the network's own window, all of which goes when it is ablated
    labels[0, 3, 8:, 8:] = 1
    labels[0, 2, 8:, 12:] = 1
    images = np.repeat(labels[..., None] * 200, 3, axis=-1)
    gain = np.ones((1, 4, 4), np.float32)
    examples = folder.Examples(
        arms, classes, {"window": np.array([3])}, {"window": images}, {"window": labels}, {"window": gain}
    )
    shown = replace(run, examples=examples, background={"wall": True, "window": False})
    columns = folder.columns(shown, "window")
    assert [column.label for column in columns] == [
        "original", "ablated, all live", "twin, unedited", "twin without normalization",
    ]  # fmt: skip
    from gandid.report.target import _strip

    [cells] = _strip(shown, "window")["rows"]
    assert [cell["text"].replace("\u00a0", " ") for cell in cells[:4]] == [
        "latent 3", "100 % gone", "its own original", "50 % gone",
    ]  # fmt: skip
    assert "covers 25.0 % of it" in cells[2]["alt"]
    drawn = {text.get_text() for text in figures.strip(shown, "window").axes[0].texts}
    assert {"100 % gone", "50 % gone", "its own original"} <= drawn
    # A twin whose image of the latent shows no window has none to lose.
    labels[0, 2:] = 0
    [cells] = _strip(shown, "window")["rows"]
    assert [cell["text"] for cell in cells[2:4]] == ["its own original", "no window in it"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


# Every text in the section and the blocks, its colour and what is behind it, as the browser paints them.
CONTRAST = """
const rgb = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) { const b = rgb(getComputedStyle(e).backgroundColor); if (b[3] > .99) return b; }
  return [255, 255, 255, 1]; };
return [...document.querySelectorAll('#credibility *, .answers *, section.target figure *')]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.checkVisibility())
  .map(e => { const ink = e.closest('svg') ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const [a, b] = [light(rgb(ink)), light(behind(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.textContent.trim().slice(0, 40)]; }).sort((x, y) => x[0] - y[0]);
"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_section_fits_and_is_legible_without_scripts(browser, shown: Path, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(shown.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        within = (
            "return [...document.querySelectorAll('#credibility *, .answers *')]"
            ".filter(e => !e.closest('.scroll') && !e.closest('svg') && e.checkVisibility())"
            ".map(e => e.getBoundingClientRect()).filter(r => r.right > innerWidth + 1).length"
        )
        assert browser.execute_script(within) == 0
        found = browser.execute_script(CONTRAST)
        assert len(found) > 200
        assert found[0][0] >= 4.5, found[:3]
        # Letters of charts are near those of the page's notes.
        sizes = browser.execute_script(
            "return [...document.querySelectorAll('#credibility svg text')]"
            ".map(e => e.getBoundingClientRect().height).filter(h => h > 0)"
        )
        assert min(sizes) > 8.5
        browser.find_element("css selector", "#credibility details summary").click()
        assert "Shapley shares" in browser.find_element("id", "credibility").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
