"""The segmenter as an instrument: planted confusions are undone exactly; a second segmenter confirms or contradicts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panels import CLASSES, PLAN, make_panel

from gandid import did
from gandid.did import instrument
from gandid.did.totals import TOGETHER, objects_inpainted

TWENTIETHS = {
    "wall": {"wall": 19, "unknown": 1},
    "floor": {"floor": 18, "rug": 1, "wall": 1},
    "window": {"window": 18, "wall": 2},
    "painting": {"painting": 15, "window": 3, "unknown": 2},
    "lamp": {"lamp": 16, "wall": 4},
    "chair": {"chair": 17, "rug": 2, "floor": 1},
    "plant": {"plant": 20},
    "rug": {"rug": 16, "floor": 4},
    "unknown": {"unknown": 17, "wall": 2, "painting": 1},
}
CONFUSION = pd.DataFrame(TWENTIETHS, CLASSES).T.reindex(columns=CLASSES).fillna(0) / 20
PERFECT = pd.DataFrame(np.eye(len(CLASSES)), CLASSES, CLASSES)


def confused(panel, confusion=CONFUSION):
    """Twenty times the panel, and the same as a segmenter of this confusion names it: whole pixels, both."""
    true = panel.copy()
    for name in ("pixels", "inside"):
        true[name] = 20 * panel[name]
    true.attrs["image_pixels"] = 20 * panel.attrs["image_pixels"]
    named = true.copy()
    for name in ("pixels", "inside"):
        named[name] = true[name].dims, np.rint(true[name].values @ confusion.to_numpy()).astype(np.int32)
    return true, named


def measured(panel):
    """DIDs as they are estimated without a correction, in the rows of `corrected`."""
    frame = did.estimate(panel, flips=9, resamples=2).frame
    about = (frame["outcome"] == "removed") | ((frame["outcome"] == "inpainted") & (frame["kind"] == "object"))
    together = objects_inpainted(panel).assign(outcome="inpainted", object=TOGETHER)
    return pd.concat([frame[about], together]).set_index(instrument.LABELS)[instrument.ESTIMATES]


def test_planted_areas_are_recovered_exactly_from_what_a_confused_segmenter_names():
    true, named = confused(make_panel(60, noise=0.05))
    wanted = measured(true)
    found = instrument.corrected(named, CONFUSION).set_index(instrument.LABELS).loc[wanted.index]
    np.testing.assert_allclose(found["did"], wanted["did"], atol=1e-8)
    plain = measured(named)
    assert (plain["did"] - wanted["did"]).abs().max() > 0.02  # the confusion mattered
    # Intervals are those of the true counts where enough latents carry them for the normal limit.
    carried = wanted["did"].abs() > 0.01
    assert carried.sum() >= 8
    np.testing.assert_allclose(found[carried], wanted[carried], atol=1e-8)


def test_without_confusion_nothing_is_corrected():
    panel = make_panel(40, noise=0.05)
    wanted = measured(panel)
    found = instrument.corrected(panel, PERFECT).set_index(instrument.LABELS).loc[wanted.index]
    np.testing.assert_allclose(found["did"], wanted["did"], atol=1e-9)


def test_no_correction_depends_on_the_order_of_the_latents():
    _, named = confused(make_panel(40, noise=0.05))
    other = named.isel(latent=np.random.default_rng(0).permutation(40))
    pd.testing.assert_frame_equal(instrument.corrected(named, CONFUSION), instrument.corrected(other, CONFUSION))


@given(st.integers(2, 6), st.floats(0.6, 1.0), st.integers(0, 2**32 - 1))
def test_undoing_keeps_the_number_of_pixels_and_bounds_their_errors(classes, recall, seed):
    rng = np.random.default_rng(seed)
    others = rng.dirichlet(np.ones(classes), classes) * (1 - np.eye(classes)) + 1e-9 * (1 - np.eye(classes))
    shares = recall * np.eye(classes) + (1 - recall) * others / others.sum(1, keepdims=True)
    inverse, condition = instrument.invert(pd.DataFrame(shares))
    named = rng.normal(size=(classes, 20))
    np.testing.assert_allclose((inverse @ named).sum(0), named.sum(0), atol=1e-9)
    grown = np.abs(inverse @ named).sum(0) / np.abs(named).sum(0)
    assert grown.max() <= 1 / (2 * recall - 1) * (1 + 1e-9)
    assert condition >= 1 - 1e-9


def test_classes_that_are_one_to_the_segmenter_cannot_be_told_apart_afterwards():
    blind = CONFUSION.copy()
    blind.loc["window"] = blind.loc["wall"]
    panel = make_panel(40)
    assert instrument.invert(blind).condition > instrument.CONDITION
    assert instrument.corrected(panel, blind)[instrument.ESTIMATES].isna().all(axis=None)
    (row,) = instrument.checks(panel, confusion=blind)
    assert row["verdict"] == "flagged"
    assert "worst is window" in row["detail"]
    assert row["detail"].endswith("no correction")


def test_a_confusion_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="the confusion is of sky, sea, the panel of wall"):
        instrument.corrected(make_panel(4), pd.DataFrame(np.eye(2), ["sky", "sea"], ["sky", "sea"]))
    with pytest.raises(ValueError, match="same classes as rows and columns"):
        instrument.invert(CONFUSION[list(reversed(CLASSES))])


def test_ground_truth_is_judged_by_the_worst_object():
    panel = make_panel(4)
    (row,) = instrument.checks(panel, confusion=PERFECT)
    assert (row["check"], row["value"], row["verdict"]) == ("ground_truth", 1.0, "ok")
    (row,) = instrument.checks(panel, confusion=CONFUSION)  # a painting is found in 15 of 20 pixels
    assert (row["value"], row["bound"], row["verdict"]) == (0.75, 0.8, "flagged")
    # What fills any hole, and what is unknown, are no objects.
    poor = PERFECT.copy()
    poor.loc["unknown"] = poor.loc["floor"] = 1 / len(CLASSES)
    (row,) = instrument.checks(panel, confusion=poor)
    assert row["verdict"] == "ok"


SWAPPED = {"live": PLAN["all"], "first": PLAN["all"], "all": PLAN["live"]}


def verdicts(first, again):
    rows = instrument.checks(first, instrument.second(first, again))
    return {(row["target"], row["arm"]): row for row in rows}


def test_the_same_segmenter_twice_differs_by_nothing():
    panel = make_panel(60, noise=0.1)
    seen = instrument.second(panel, panel)
    assert (seen["difference"] == 0).all()
    assert (seen["difference_z"] == 0).all()
    np.testing.assert_array_equal(seen["did"], seen["did_second"])
    rows = verdicts(panel, panel)
    assert len(rows) == 8  # two targets, four held arms
    assert all(row["verdict"] == "ok" and row["value"] == 0 for row in rows.values())


def test_what_each_sees_is_what_it_would_be_estimated_to_be_alone():
    first, again = make_panel(60, noise=0.1), make_panel(60, noise=0.1, seed=1)
    seen = instrument.second(first, again).set_index(instrument.LABELS)
    for panel, names in (
        (first, ["did", "ci_low", "ci_high"]),
        (again, ["did_second", "ci_second_low", "ci_second_high"]),
    ):
        alone = measured(panel).loc[seen.index]
        np.testing.assert_allclose(seen["did" if panel is first else "did_second"], alone["did"], atol=1e-9)
        sure = alone["did"].abs() > 0.01
        np.testing.assert_allclose(seen.loc[sure, names], alone[sure], rtol=0.05)


def test_a_segmenter_that_is_blurred_and_misses_a_part_confirms():
    plan = {arm: {name: 0.8 * share for name, share in shares.items()} for arm, shares in PLAN.items()}
    rows = verdicts(
        make_panel(60, noise=0.05), make_panel(60, noise=0.1, plan=plan)
    )  # it misses a fifth of what changes
    assert all(row["verdict"] == "ok" for row in rows.values())
    assert all(row["value"] == 0 for (_, arm), row in rows.items() if arm.endswith("all"))  # confirmed


def test_a_segmenter_that_sees_the_opposite_is_flagged():
    panel = make_panel(60, noise=0.1)
    rows = verdicts(panel, make_panel(60, noise=0.1, plan=SWAPPED))
    assert rows["window", "capped:all"]["verdict"] == "flagged"
    assert rows["window", "capped:all"]["value"] > rows["window", "capped:all"]["bound"] > 3
    assert "not confirmed" in rows["window", "capped:all"]["detail"]


def test_an_effect_that_only_one_segmenter_sees_is_flagged():
    alike = dict.fromkeys(("live", "first", "all"), PLAN["live"])
    rows = verdicts(make_panel(60, noise=0.1), make_panel(60, noise=0.1, plan=alike))
    assert rows["lamp", "frozen:all"]["verdict"] == "flagged"


def test_few_latents_may_fail_to_confirm_but_do_not_contradict():
    first, blurred = make_panel(60, noise=0.1), make_panel(60, noise=0.6)  # the same scenes
    rows = verdicts(first, blurred.isel(latent=slice(0, 8)))
    assert all(row["verdict"] == "ok" for row in rows.values())
    assert any("not confirmed" in row["detail"] for row in rows.values())


def test_only_what_both_know_is_compared_and_each_counts_its_own_objects():
    panel = make_panel(30, targets=("window", "lamp", "rug"), noise=0.1)
    fewer = make_panel(
        60, targets=("window", "lamp"), noise=0.1, classes=[c for c in CLASSES if c not in ("rug", "plant")]
    )
    fewer = fewer.isel(latent=[7, 3, 50, 12, 29, 1])
    seen = instrument.second(panel, fewer.drop_sel(arm="frozen:first"))
    assert set(seen["target"]) == {"window", "lamp"}
    assert set(seen["arm"]) == {"capped:first", "capped:all", "frozen:all"}
    assert not {"rug", "plant", "wall", "unknown"} & set(seen["object"])
    assert {"painting", TOGETHER} <= set(seen["object"])
    common = panel.sel(latent=[1, 3, 7, 12, 29])
    wanted = measured(common)["did"]
    np.testing.assert_allclose(
        seen.set_index(instrument.LABELS)["did"],
        wanted.loc[pd.MultiIndex.from_frame(seen[instrument.LABELS])],
        atol=1e-9,
    )


def test_a_target_that_the_second_segmenter_never_sees_is_flagged():
    panel = make_panel(40)
    rows = verdicts(panel, make_panel(40, absent=("lamp",)))
    assert rows["lamp", "capped:all"]["verdict"] == "flagged"
    assert rows["window", "capped:all"]["verdict"] == "ok"


def unsure(panel, **shares):
    """The panel with shares of uncertain pixels: the same in every image of an arm but for a small spread."""
    spread = 0.001 * np.random.default_rng(0).random(panel.sizes["latent"])
    level = np.array([shares.get(name.replace(":", "_"), 0.01) for name in panel["arm"].values])
    values = np.broadcast_to((level + spread[:, None])[:, None], panel["pixels"].shape[:3])
    return panel.assign(uncertain=(("latent", "target", "arm"), values.astype(np.float32)))


def test_uncertain_pixels_are_judged_as_unknown_ones_are():
    panel = unsure(make_panel(40, unedited=False), live=0.05, capped_first=0.05, capped_all=0.08)
    effects = did.estimate(panel, flips=9, resamples=2)
    rows = effects.checks[effects.checks["check"] == "uncertain"].set_index(["target", "arm"])
    assert rows.loc[("window", "live"), "verdict"] == "flagged"  # the edit left the range by itself
    assert rows.loc[("window", "capped:first"), "verdict"] == "ok"  # holding added nothing
    assert rows.loc[("window", "capped:all"), "verdict"] == "flagged"
    assert rows.loc[("window", "frozen:all"), "verdict"] == "ok"
    assert rows.loc[("window", "capped:all"), "value"] == pytest.approx(0.0805, abs=1e-3)
    assert "before the edit: 1.0" in rows.loc[("window", "capped:all"), "detail"]
    supported = effects.frame.groupby("arm")["supported"].all()
    assert not supported["capped:all"]
    assert supported["frozen:all"]
