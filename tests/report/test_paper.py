"""The paper's figure: every number in it is the run's, its text is text, its images are the pixels of the examples."""

import base64
import io
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from gandid.relation.concentration import effective_units, share
from gandid.report import folder, paper

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def read(run: Path) -> folder.Run:
    return folder.read(run)


@pytest.fixture(scope="module")
def svg(run: Path) -> ElementTree.Element:
    return ElementTree.parse(run / "figures" / "paper.svg").getroot()


@pytest.fixture(scope="module")
def texts(svg: ElementTree.Element) -> list[str]:
    return [" ".join("".join(text.itertext()).split()) for text in svg.iter(f"{SVG}text")]


def test_there_is_a_row_per_object_and_none_of_what_no_image_shows(read: folder.Run, texts: list[str]) -> None:
    assert paper.targets(read) == ["window"]
    # The title of the row; and a line each of its two charts.
    assert [texts.count(name) for name in ("window", "mirror")] == [1, 2]


def test_rows_say_the_type_and_what_is_removed(run: Path, texts: list[str]) -> None:
    for row in pd.read_csv(run / "types.csv").to_dict("records"):
        if row["target"] == "mirror":
            continue
        probability = row["p_" + row["type"].replace("-", "_")]
        removed, painted = 100 * row["removed"], 100 * row["inpainted_objects"]
        said = f"{paper.TYPES[row['type']]} with probability {probability:.2f}, {removed:.1f} % removed live"
        assert any(text.startswith(said) and text.endswith(f"{painted:.1f} % in-painted by objects") for text in texts)


def test_concentration_is_that_of_the_relation(run: Path, read: folder.Run, texts: list[str]) -> None:
    relation = xr.open_zarr(run / "relation.zarr", chunks=None)
    for target in paper.targets(read):
        ace, units = relation["ace"].sel(object=target).values, read.units(target)
        assert f"{100 * share(ace, units):.0f} % in {len(units)} of {len(ace)}," in texts
        assert f"{effective_units(ace):.0f} effective" in texts


def test_ratios_and_ranks_are_those_of_the_dataset(run: Path, read: folder.Run, texts: list[str]) -> None:
    after = xr.open_zarr(run / "after.zarr", chunks=None)
    for target in paper.targets(read):
        shown = paper.others(read, target)
        assert target not in shown
        before = [int(after["rank_before"].sel(target=target, arm="live", object=name)) for name in shown]
        assert before == sorted(before)
        for name in shown:
            # Planted: half more with everything live, a tenth more with the first site held.
            live, held = (paper.ratios(read, target, arm, name) for arm in ("live", "capped:first"))
            assert live[1] <= 1.5 <= live[2] or abs(live[0] - 1.5) < 0.1
            assert held[0] < live[0]
    assert sum(text.endswith("→") for text in texts) == sum(len(paper.others(read, t)) for t in paper.targets(read))


def test_first_examples_are_shown_pixel_by_pixel(read: folder.Run, svg: ElementTree.Element) -> None:
    found = []
    for image in svg.iter(f"{SVG}image"):
        data = base64.b64decode(image.get("{http://www.w3.org/1999/xlink}href", "").split(",")[1])
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert len(pixels) >= paper.SHARP  # enlarged by a whole factor: every block is one pixel
        small = pixels[::4, ::4]
        assert (pixels == small.repeat(4, axis=0).repeat(4, axis=1)).all()
        found.append(small)
    assert read.examples is not None and read.insertion is not None
    arms = read.examples.arms
    for target in paper.targets(read):
        examples = read.examples.images[target][0]
        inserted = read.insertion["image"].sel(target=target)
        for picture in (
            *(examples[arms.index(arm)] for arm in ("reference", "live", "capped:first", "capped:all")),
            *(inserted.sel(arm2=arm).values for arm in ("original", "live")),
        ):
            # matplotlib may write an image upside down, with a transform that turns it back.
            assert any((picture == one).all() or (picture == one[::-1]).all() for one in found)


def test_letters_are_large_enough_and_the_width_is_a_journals(svg: ElementTree.Element) -> None:
    styles = " ".join(text.get("style", "") for text in svg.iter(f"{SVG}text"))
    sizes = {float(size) for size in re.findall(r"font(?:-size)?:[^;]*?([\d.]+)px", styles)}
    assert sizes
    assert all(6 <= size <= 8 for size in sizes)
    assert float(svg.get("width", "").removesuffix("pt")) == pytest.approx(7.2 * 72)


def test_fonts_are_in_the_pdf_as_outlines(run: Path) -> None:
    written = (run / "figures" / "paper.pdf").read_bytes()
    assert b"/FontFile2" in written  # TrueType, embedded
    assert b"/Subtype /Type3" not in written


def test_no_text_lies_on_another(read: folder.Run) -> None:
    drawn = paper.figure(read)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    unseen = {
        label
        for axes in drawn.axes
        for n, axis in enumerate((axes.xaxis, axes.yaxis))
        for label in axis.get_ticklabels()
        if not axes.axison
        or not min(axis.get_view_interval()) <= label.get_position()[n] <= max(axis.get_view_interval())
    }
    boxes = [
        (text.get_text(), text.get_window_extent(canvas.get_renderer()))
        for text in drawn.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in unseen
    ]
    assert len(boxes) > 40
    page = drawn.bbox
    for said, box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, said
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, (one, other)


def test_the_same_run_gives_the_same_files(read: folder.Run, run: Path, tmp_path: Path) -> None:
    paper.save(paper.figure(read), tmp_path / "paper")
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / f"paper.{kind}").read_bytes() == (run / "figures" / f"paper.{kind}").read_bytes()
