"""What the page claims is what the verdicts on the numbers are; what it is not given it leaves out."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import invented
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gandid import report
from gandid.errors import GandidError
from gandid.report import charts, findings, pictures
from gandid.report.run import read
from gandid.verdicts import CAUSED, MISSING, NEGLIGIBLE, OUTSIDE, PREVENTED, SOLID, UNSETTLED


class Page(HTMLParser):
    """Elements of a page: their names and attributes, and all text by the id of the part that it is in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def change(run: Path, folder: Path, **values: object) -> Path:
    """A copy of a run without pictures, in which all effects of live minus held have other values."""
    shutil.copytree(
        run, folder, ignore=shutil.ignore_patterns("figures", "*.npz", "after.zarr", "insertion.zarr", "relation*")
    )
    table = pd.read_csv(folder / "effects.csv", keep_default_na=False, na_values=[""])
    table.assign(**values).to_csv(folder / "effects.csv", index=False)
    return folder


def test_verdicts_are_those_of_the_numbers(run: Path) -> None:
    found = {one.target: one for one in findings.findings(read(run))}
    # Of the arms in range the one that holds all sites speaks; it halves what holding the first does.
    assert {one.regime.label for one in found.values()} == {"capped:all"}
    assert [row["verdict"] for row in found["chair"].rows.values()] == [PREVENTED, UNSETTLED]
    verdicts = {target: one.verdict for target, one in found.items()}
    assert verdicts == {"chair": PREVENTED, "rug": UNSETTLED, "lamp": UNSETTLED, "ghost": MISSING}
    head = findings.headline(read(run), list(found.values()))
    assert "2.5" in head and "chair" in head and "paints back" in head


def test_what_a_second_segmenter_does_not_see_is_said(run: Path, tmp_path: Path) -> None:
    folder = change(run, tmp_path / "run")
    table = pd.read_csv(folder / "effects.csv", keep_default_na=False, na_values=[""])
    known = read(folder)
    confirmed = findings.object_rows(known, findings.findings(known), dict.fromkeys(known.targets, "x"))
    table.loc[table["contrast"] == "second", ["did", "ci_low", "ci_high"]] = 0.0, -0.001, 0.001
    table.to_csv(folder / "effects.csv", index=False)
    known = read(folder)
    doubted = findings.object_rows(known, findings.findings(known), dict.fromkeys(known.targets, "x"))
    assert [bool(line["effects"][0]["doubt"]) for line in (confirmed[0], doubted[0])] == [False, True]


@pytest.mark.parametrize(("most", "other"), [(-0.011, PREVENTED), (0.004, UNSETTLED), (np.nan, PREVENTED)])
def test_how_far_an_effect_reaches_is_said_with_it(run: Path, tmp_path: Path, most: float, other: str) -> None:
    """With other units, in the next networks, along its curve; and the verdict, where other units would change it."""
    more = {"ci_units_low": -0.041 + 0 * most, "ci_units_high": most, "next_low": -0.9, "next_high": 0.7}
    folder = change(run, tmp_path / "run", **more)
    table = pd.read_csv(folder / "effects.csv", keep_default_na=False, na_values=[""])
    own = table[(table["contrast"] == "did") & (table["arm"] == "capped:all")]
    curve = [own.assign(contrast="ranking", draw=draw) for draw in (1, 2)]
    curve.append(own.assign(contrast="slope", arm="capped:all@k0.25", did=-0.17, ci_low=-0.19, ci_high=-0.15))
    curve.append(own.assign(contrast="beyond", did=-0.27, ci_low=-0.3, ci_high=-0.24, breakdown=0.48))
    pd.concat([table, *curve]).to_csv(folder / "effects.csv", index=False)
    there = read(folder)
    chair = findings.findings(there)[0]
    (said,) = findings.doubts(there, chair)
    for number in ("[−90, 70]", "−17 [−19, −15]", "−27 [−30, −24]", "than 48 "):
        assert number in said
    interval = "[−4.1, −1.1]" if most < 0 else "[−4, 0]"
    assert (f"{interval} with other units (2 halvings" in said) == ("halving" in said) == np.isfinite(most)
    assert [verdict for verdict in (PREVENTED, UNSETTLED) if verdict in said] == [other] * (other != PREVENTED)
    assert chair.verdict == PREVENTED  # by the interval over latents
    assert said in Page(report.build(folder).read_text(encoding="utf-8")).text


def test_identical_arms_are_one_and_named_so(run: Path) -> None:
    assert [regime.label for regime in read(run).regimes] == ["capped/frozen:first", "capped:all", "frozen:all"]


def test_distilled_networks_are_one_control_of_which_each_is_a_dot(run: Path, tmp_path: Path) -> None:
    folder = change(run, tmp_path / "run")
    table = pd.read_csv(folder / "effects.csv", keep_default_na=False, na_values=[""])
    one = table[table["arm"].eq("capped:first") & table["contrast"].eq("did") & table["target"].ne("ghost")]
    each = [
        one.assign(arm=f"{kind}:{k}", control=kind, held=str(k), tau_held=one["tau_held"] + shift)
        for kind, shift in (("distilled", 0.1), ("placebo", 0.0))
        for k in (1, 2, 3)
    ]
    about = {"contrast": "networks", "arm": "distilled", "control": "distilled", "held": "networks", "n": 6}
    whole = [one.assign(**about, did=-0.15, ci_low=-0.2, ci_high=-0.1, dose=dose) for dose in (0.5, 1.0)]
    pd.concat([table, *each, *whole]).to_csv(folder / "effects.csv", index=False)
    known = read(folder)
    (pooled,) = [regime for regime in known.regimes if regime.networks]
    assert [regime.label for regime in known.regimes].count(pooled.label) == 1 and len(known.regimes) == 4
    row = known.row("chair", "removed", pooled)
    assert row is not None and (row["did"], row["n"], row["dose"]) == (-0.15, 6, 1.0)
    lone = one[(one["target"] == "chair") & (one["outcome"] == "removed")].iloc[0]
    assert known.each("chair", "removed", pooled) == pytest.approx([lone["did"] - 0.1] * 3)
    assert known.each("chair", "removed", known.regimes[0]) == []
    text = report.build(folder).read_text(encoding="utf-8")
    assert "placebo:1" not in text and "distilled:2" not in text


def test_the_place_is_shared_out_in_full(run: Path) -> None:
    known = read(run)
    for regime in known.regimes:
        for side in ("live", "held"):
            assert sum(known.place("chair", regime, side).values()) == pytest.approx(1)
    live = known.place("chair", known.regimes[0], "live")
    assert live["objects"] == pytest.approx(0.2) and live["unknown"] == pytest.approx(0.2) and live["background"] == 0.5
    held = known.place("chair", known.regimes[0])
    assert live["still"] - held["still"] == pytest.approx(0.05)  # what is not removed: the difference on removal


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"supported": False}, OUTSIDE),
        ({"did": 0.001, "ci_low": 0.0, "ci_high": 0.002}, NEGLIGIBLE),
        ({"did": 0.2, "ci_low": 0.1, "ci_high": 0.3}, CAUSED),
        ({"did": 0.0, "ci_low": 0.0, "ci_high": 0.0, "n": 1000}, NEGLIGIBLE),
        ({"did": 0.0, "ci_low": -np.inf, "ci_high": np.inf}, UNSETTLED),
        ({"estimable": False}, MISSING),
    ],
)
def test_nothing_is_claimed_but_what_is_settled_and_in_range(
    run: Path, tmp_path: Path, values: dict, verdict: str
) -> None:
    folder = change(run, tmp_path / "run", **values)
    found = findings.findings(read(folder))
    assert found[0].verdict == verdict
    text = report.build(folder).read_text(encoding="utf-8")
    said = {name for name in SOLID if re.search(rf'class="chip (caused|prevented)".*{name}', text)}
    assert said == ({verdict} if verdict in SOLID else set())
    head = findings.headline(read(folder), found)
    assert any(verb in head for verb in findings.VERBS.values()) == (verdict in SOLID)
    assert not re.search(r"−0\.0+\b(?!\d)|\binf\b|\bnan\b|\b1 points\b", Page(text).text)


def test_hostile_names_and_words_are_text(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\"&'$x$"
    folder = invented.write(tmp_path / "<b>&", {"chair": name})
    text = report.build(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert "<img src=x" not in text and name in page.text
    assert "gandid run <&> --out runs/demo" in page.text
    assert not [attrs for _, attrs in page.elements if any(key.startswith("on") for key in attrs)]
    for drawing in (folder / "figures").glob("*.svg"):
        assert "<img" not in drawing.read_text(encoding="utf-8")


def test_the_page_is_one_file_without_scripts(page: str) -> None:
    found = Page(page)
    assert "script" not in {tag for tag, _ in found.elements}
    assert all(source.startswith("data:image/") for source in found.attributes("src"))
    assert "default-src 'none'" in found.attributes("content")[-1]
    assert all(link.startswith(("#", "data:", "effects.csv", "checks.csv")) for link in found.attributes("href"))
    assert "url(" not in page
    names = found.attributes("id")
    assert len(names) == len(set(names))
    assert {link[1:] for link in found.attributes("href") if link.startswith("#")} <= set(names)


def test_pictures_have_alternative_texts(page: str) -> None:
    images = [attrs for tag, attrs in Page(page).elements if tag == "img"]
    assert len(images) > 30 and all(attrs["alt"] for attrs in images)
    drawings = [attrs for tag, attrs in Page(page).elements if tag == "svg" and attrs.get("role") == "img"]
    assert len(drawings) > 6 and all(attrs["aria-label"] for attrs in drawings)


def test_figures_are_written_once_each(run: Path) -> None:
    names = {path.name for path in (run / "figures").iterdir()}
    assert {
        "finding.png",
        "effects-removed.svg",
        "effects-inpainted.svg",
        "examples-chair.png",
        "dose-chair.svg",
    } <= names
    assert {"sites-chair.svg", "random-units-chair.svg", "paper.png", "paper.svg", "paper.pdf"} <= names
    height = Image.open(run / "figures/finding.png").height
    assert height > 8 * invented.SIZE


def test_what_is_not_there_leaves_no_hole(tmp_path: Path) -> None:
    folder = invented.write(tmp_path / "bare", extra=False)
    text = report.build(folder).read_text(encoding="utf-8")
    assert "chair" in Page(text).text
    assert not re.search(r'<section id="units"|<img|None|undefined', text)


def test_a_broken_file_is_named_in_one_line(run: Path, tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(GandidError) as caught:
            report.build(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no run" in refused(tmp_path / "nowhere")
    for name, content in {
        "effects.csv": "target,object\nchair,rug\n",
        "checks.csv": "",
        "config.yaml": "a: [",
        "examples.npz": "half",
        "types.csv": "target\n",
        "relation.csv": "unit,object\n1,2\n",
    }.items():
        folder = tmp_path / name
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("figures", "report.html"))
        (folder / name).write_text(content)
        assert str(folder / name) in refused(folder)
        assert not (folder / "report.html").exists()
    old = change(run, tmp_path / "old")
    shutil.rmtree(old / "panel.zarr")
    invented.panel(["chair"], invented.CLASSES).assign_attrs(schema=1).to_zarr(old / "panel.zarr", zarr_format=2)
    assert "run the study again" in refused(old)
    shutil.rmtree(old / "panel.zarr")
    assert "panel.zarr" in refused(old)


def test_outlines_enclose_their_mask() -> None:
    """By Green's theorem, the area of a mask is the sum over its upright borders, signed by the side that is inside."""
    mask = np.zeros((9, 11), bool)
    mask[2:7, 3:9] = True
    mask[4:5, 5:7] = False
    area = 0
    for x0, y0, x1, y1 in pictures.segments(mask, speck=1):
        if x0 == x1:
            row = y0
            inside_right = x0 < mask.shape[1] and mask[row, x0]
            area += (-x0 if inside_right else x0) * (y1 - y0)
    assert area == mask.sum()
    assert pictures.path(np.eye(4, dtype=bool)) == ""  # specks


@pytest.mark.parametrize("side", [32, 200, 600])
def test_pictures_of_any_size_are_brought_to_one_without_new_colours(side: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (side, side // 2, 3), np.uint8)
    found = pictures.enlarged(image, 256)
    assert 128 < max(found.shape) < 512
    assert np.isin(*(picture.astype(int) @ [65536, 256, 1] for picture in (found, image))).all()


def test_a_change_is_counted_on_the_original_pixels() -> None:
    before, after = np.zeros((4, 4), int), np.zeros((4, 4), int)
    before[:2, :2] = 1
    after[0, 0], after[0, 1], after[3, 3] = 1, 2, 2
    found = pictures.change(before, after, ["wall", "chair", "rug"], ["chair", "rug"], "chair")
    assert (found.original, found.gone, found.painted) == (4, 0.75, {"rug": 0.25})
    assert found.appeared.sum() == 2 and found.vanished.sum() == 3


def test_colours_stand_out_in_light_and_dark() -> None:
    """WCAG 2.1: text 4.5 to 1 against what is behind it, marks 3 to 1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for palette in (charts.LIGHT, charts.DARK):
        for ink, least in {"ink": 4.5, "muted": 4.5, "live": 3.0, **{f"arm{k}": 3.0 for k in range(1, 7)}}.items():
            for ground in ("paper", "card", "band"):
                light, dark = sorted((luminance(palette[ink]), luminance(palette[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= least, (ink, ground)


def test_labels_keep_apart_and_in_order() -> None:
    wanted = np.array([10.0, 11, 12, 50, 10.5])
    found = charts.apart(wanted, 5, 0, 60)
    assert (np.diff(np.sort(found)) >= 5 - 1e-9).all()
    assert (np.argsort(found, kind="stable") == np.argsort(wanted, kind="stable")).all()
