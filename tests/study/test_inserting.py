"""A study that inserts: in the planted standard what is inserted, and what it displaces, is known of every latent."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gandid import Study, UsageError, cli, did
from gandid.config import StudyConfig
from gandid.generators import load_generator
from gandid.generators.planted import weak
from gandid.report.findings import findings
from gandid.report.run import read
from gandid.segmenters import load_segmenter
from gandid.truth import BEYOND, CLASSES, COLOURS, EDITED, FIRST, PRESENT, STRONG, threshold

REGION = (0.5, 0.0, 0.75, 0.5)  # where the painting is, of 2 x 4 pixels
PART = {"edit": "insert", "region": REGION, "alpha": 0.6, "hold": FIRST, "latents": 40, "ranking_latents": 4}
# A window has no painting's unit: to insert it is to take the painting away, too.
WINDOW = {"window": [EDITED.index("window"), EDITED.index("painting")]}


@pytest.fixture(scope="module")
def study():
    return Study(load_generator("planted"), load_segmenter("planted"), "layer1", seed=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "window"


@pytest.fixture(scope="module")
def panel(study, store):
    study.run(WINDOW, store=store, **PART | {"latents": 24})
    return study.run(WINDOW, store=store, dose=[1.0], placebos=2, **PART)  # one that goes on


def seen(study, latents, held):
    """What the painting's place shows by latent, most of the way to a window: the network anew, from what is written of it."""
    w = weak(study.latents(range(latents)))["window"].double().numpy()
    units = np.stack([0.4 * STRONG + 0 * w, w + 0.6 * (STRONG - w)], axis=1)  # the painting's, and the window's
    scale = np.sqrt(1 + (np.stack([STRONG + 0 * w, w], axis=1) if held else units) ** 2 @ [1, 1])
    drawn = np.maximum(units / scale[:, None] - [PRESENT, threshold(BEYOND["window"])], 0)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    palette = {name: np.array(colour) for name, colour in COLOURS.items()}
    mixed = palette["wall"] + drawn @ [palette[name] - palette["wall"] for name in ("painting", "window")]
    apart = np.square(mixed[:, None] - [palette[name] for name in CLASSES]).sum(axis=2)
    return np.array(CLASSES)[apart.argmin(axis=1)]


def test_what_is_inserted_live_and_held_is_the_closed_form(study, panel):
    counts = panel["inside"].sel(target="window").isel(segmenter=0)
    assert (counts.sum("object") == 8).all()  # the region of every image, whatever it shows
    live, frozen = (seen(study, 40, held) for held in (False, True))
    for arm, found in (("live", live), (f"frozen:{FIRST}", frozen)):
        for name in CLASSES:
            np.testing.assert_array_equal(counts.sel(arm=arm, object=name), 8 * (found == name))
    frame = did(panel).main.set_index(["outcome", "object", "control"])
    for outcome, name, sign in (("inserted", "window", 1), ("displaced", "painting", -1), ("displaced", "wall", -1)):
        row, before = frame.loc[(outcome, name, "frozen")], name == "painting"
        expected = [sign * ((found == name).mean() - before) for found in (live, frozen)]
        np.testing.assert_allclose([row.tau_live, row.tau_held], expected, atol=1e-12)
        assert row.did == pytest.approx(expected[0] - expected[1])
    assert 0.1 < frame.loc[("inserted", "window", "frozen")].did < 0.5


def test_what_is_inserted_is_more_to_divide_by(study):
    """On bare wall 0.56 of a window's unit is beyond what it takes, and live it is divided by itself, too."""
    wall = PART | {"region": (0.25, 0.5, 0.5, 0.75), "alpha": 0.28, "latents": 3, "control": ["frozen", "capped"]}
    counts = study.run({"window": [EDITED.index("window")]}, **wall)["inside"].sel(object="window").isel(segmenter=0)
    unit = 0.28 * STRONG
    assert unit / np.sqrt(1 + unit**2) < threshold(BEYOND["window"]) < unit
    # Capped is live: a site may attenuate as it would.
    for arm, pixels in (("reference", 0), ("live", 0), (f"capped:{FIRST}", 0), (f"frozen:{FIRST}", 4)):
        assert (counts.sel(arm=arm) == pixels).all()


def test_units_are_set_to_what_they_are_where_the_object_is_seen(panel):
    np.testing.assert_allclose(panel["values"].sel(draws=0).values.ravel(), [STRONG, 0], rtol=1e-6)
    assert panel.attrs["edit"] == "insert"


def test_a_dose_is_the_share_of_the_way(panel):
    curve = did(panel).frame.query("contrast == 'dose' and outcome == 'inserted' and control == 'frozen'")
    ends = curve.set_index("dose").loc[[0.0, 1.0], ["tau_live", "tau_held"]].to_numpy()
    np.testing.assert_allclose(ends, [[0, 0], [1, 1]], atol=1e-12)


def test_one_that_goes_on_is_the_one_that_was_never_cut_short(study, panel):
    whole = study.run(WINDOW, dose=[1.0], placebos=2, **PART)
    for name, values in whole.variables.items():
        np.testing.assert_array_equal(values, panel[name].values)


def test_report_and_terminal_say_what_is_in_the_table(store, panel):
    run = read(store)
    [one] = findings(run)
    assert one.regime.control == "frozen" and one.verdict == "caused by normalization"
    for side, arm in (("live", "live"), ("held", f"frozen:{FIRST}")):
        shares = run.place("window", one.regime, side)
        counts = panel["inside"].sel(target="window", arm=arm).isel(segmenter=0).sum("latent") / 320
        np.testing.assert_allclose(shares["still"], counts.sel(object="window"), atol=1e-12)
        np.testing.assert_allclose(shares["objects"], counts.sel(object="painting"), atol=1e-12)
        assert shares["background"] == shares["unknown"] == 0
    result = CliRunner().invoke(cli.app, ["report", str(store), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert {row["outcome"] for row in said[0]["effects"]} == {"inserted", "displaced"}
    assert "helps the insertion of a window" in said[0]["finding"]
    page = (store / "report.html").read_text(encoding="utf-8").partition("Configuration and versions")[0]
    assert "helps the insertion of a window" in page
    for word in ("ablat", "removed", "removal", "in-paint", "painted over", "original pixels", "Liu"):
        assert word not in page.replace("Liu et al. (2020) and Bau et al. (2019)", "")
    text = did(panel).summary() + " ".join(did(panel).sentences())
    assert "inserted" in text and "removed" not in text and "ablat" not in text.lower()


def test_an_insertion_needs_a_place_and_leaves_out_what_is_about_ablations(study):
    for options, words in (
        ({}, "--region"),
        ({"region": REGION, "ablation": "mean"}, "leave them out"),
        ({"region": REGION, "figure": True}, "leave them out"),
    ):
        with pytest.raises(UsageError, match=words):
            StudyConfig.check(edit="insert", **options)
    with pytest.raises(UsageError, match="no lamp is seen"):
        Study(study.generator, Blind(), "layer1").run({"lamp": [1]}, **PART)


class Blind:
    """Sees no lamp, though it knows the word."""

    classes, background = ("wall", "lamp"), ("wall",)

    def __call__(self, images):
        return images[:, 0].long() * 0
