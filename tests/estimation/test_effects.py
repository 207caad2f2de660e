"""Effects: planted effects are found exactly, and what must not matter does not."""

import subprocess
import sys

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import CLASSES, PLAN, make_panel
from scipy import stats
from scipy.stats import false_discovery_control

from gandid.estimation import COLUMNS, did, read_effects
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import parts, study_contrast
from gandid.estimation.plot import shown
from gandid.estimation.sums import gather
from gandid.stats import permutation

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of what other tests left to the collector
KEYS = ["target", "object", "outcome", "control", "held"]
FAST = {"flips": 199, "resamples": 50}


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def one(frame, **where):
    found = pick(frame, **where)
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def panel():
    return make_panel(90, noise=0.05)


@pytest.fixture(scope="module")
def effects(panel):
    return did(panel)


@pytest.mark.parametrize("hold", ["first", "all"])
def test_planted_effects_are_found_exactly(hold):
    frame = did(make_panel(60), **FAST).to_frame()
    for target in ("window", "lamp"):
        row = one(frame, target=target, outcome="removed", control="capped", held=hold)
        assert row["object"] == target
        assert row["tau_live"] == pytest.approx(0.6)
        assert row["did"] == pytest.approx(0.6 - sum(PLAN[hold].values()))
        for name in ("painting", "wall", "chair"):
            row = one(frame, target=target, object=name, outcome="inpainted", control="frozen", held=hold)
            assert row["did"] == pytest.approx(PLAN["live"].get(name, 0) - PLAN[hold].get(name, 0))
            # Every image is in-painted by exactly the same share: the linearized error is 0.
            assert row["se"] == pytest.approx(0, abs=1e-12)


def test_planted_absence_is_zero():
    plan = {"live": {"wall": 0.5, "painting": 0.1}, "first": {"wall": 0.5, "painting": 0.1}}
    frame = did(make_panel(60, holds=["first"], plan=plan), **FAST).main
    assert (frame[["did", "se"]] == 0).all(axis=None)
    assert (frame[["p", "p_t", "q"]] == 1).all(axis=None)


def test_columns_and_rows(effects):
    frame = effects.to_frame()
    assert list(frame.columns[: len(COLUMNS)]) == COLUMNS
    assert not frame.duplicated([*KEYS, "contrast"]).any()
    frame = effects.main.copy()
    arms, targets, classes = 4, 2, len(CLASSES)
    # area, collateral, emerged of all; removed of the target; inpainted of all but the target, and of all objects together
    assert len(frame) == arms * targets * (3 * classes + 1 + classes)
    assert frame[["estimable", "supported"]].all(axis=None)
    assert set(frame["kind"]) == {"target", "object", "background", "unknown", "together"}
    assert frame[COLUMNS].notna().all(axis=None)
    frame["did"] = 0.0
    assert (effects.to_frame()["did"] != 0).any()


def test_mean_outcomes_follow_their_definitions(panel, effects):
    size = panel.attrs["image_pixels"]
    counts = panel["pixels"].isel(segmenter=0).sel(target="window", object="painting")
    delta = (counts.sel(arm="live") - counts.sel(arm="capped:all")).values / size
    row = one(effects.frame, target="window", object="painting", outcome="area", control="capped", held="all")
    assert row["did"] == pytest.approx(delta.mean())
    assert row["se"] == pytest.approx(delta.std(ddof=1) / np.sqrt(90))
    unedited, live = counts.sel(arm="reference"), counts.sel(arm="live")
    assert row["tau_live"] == pytest.approx(float((live - unedited).mean()) / size)
    emerged = (unedited < 0.003 * size) & (live >= 0.003 * size)
    row = one(effects.frame, target="window", object="painting", outcome="emerged", control="capped", held="all")
    assert row["tau_live"] == pytest.approx(float(emerged.mean()))


def test_ratio_outcomes_follow_their_definitions(panel, effects):
    inside = panel["inside"].isel(segmenter=0).sel(target="window")
    whole = inside.sel(arm="live").sum("object").values
    live, held = (inside.sel(arm=arm, object="painting").values for arm in ("live", "frozen:first"))
    row = one(effects.frame, target="window", object="painting", outcome="inpainted", control="frozen", held="first")
    assert row["did"] == pytest.approx((live.sum() - held.sum()) / whole.sum())
    assert row["n"] == (whole > 0).sum()
    assert row["carriers"] == (live != held).sum()
    assert row["se_boot"] == pytest.approx(row["se"], rel=0.15)
    assert row["ci_boot_low"] < row["did"] < row["ci_boot_high"]


def test_inpainted_sums_to_removed_and_that_by_objects_to_together(effects):
    filled = effects.frame[effects.frame["outcome"] == "inpainted"]
    removed = effects.frame[effects.frame["outcome"] == "removed"]
    for values in ("tau_live", "tau_held", "did"):
        by_arm = [
            rows.groupby(["target", "arm"])[values].sum() for rows in (filled[filled["kind"] != "together"], removed)
        ]
        np.testing.assert_allclose(*by_arm, atol=1e-12)
        by_arm = [pick(filled, kind=kind).groupby(["target", "arm"])[values].sum() for kind in ("object", "together")]
        np.testing.assert_allclose(*by_arm, atol=1e-12)


def test_identical_arms_give_identical_numbers_and_are_named(panel, effects):
    twin = panel.copy(deep=True)
    for name in ("pixels", "inside"):
        twin[name].loc[{"arm": "frozen:first"}] = panel[name].sel(arm="capped:first").values
    found = did(twin, **FAST)
    a, b = (pick(found.frame, control=c, held="first").drop(columns=["control", "arm"]) for c in ("capped", "frozen"))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))
    held = list(dict.fromkeys(row["arm"] for row in shown(found)))
    assert held == ["capped:first, frozen:first", "capped:all", "frozen:all"]
    assert len({row["arm"] for row in shown(effects)}) == 4


@settings(max_examples=2)
@given(st.integers(0, 1000))
def test_the_order_of_latents_changes_nothing(seed):
    panel = make_panel(40, noise=0.1, seed=seed)
    order = np.random.default_rng(seed).permutation(40)
    a, b = did(panel, **FAST), did(panel.isel(latent=order), **FAST)
    pd.testing.assert_frame_equal(a.frame, b.frame)
    pd.testing.assert_frame_equal(a.checks, b.checks)


@settings(max_examples=2)
@given(st.integers(0, 1000))
def test_a_class_that_never_occurs_changes_nothing(seed):
    panel = make_panel(40, noise=0.1, seed=seed)
    wider = make_panel(40, noise=0.1, seed=seed, classes=[*CLASSES, "ghost"])
    counts = {name: panel[name].pad(object=(0, 1), constant_values=0).values for name in ("pixels", "inside")}
    wider = wider.assign({name: (wider[name].dims, values.astype(np.int32)) for name, values in counts.items()})
    a, b = did(panel, **FAST).frame, did(wider, **FAST).frame
    b = b[b["object"] != "ghost"].reset_index(drop=True)
    pd.testing.assert_frame_equal(a.drop(columns="supported"), b.drop(columns="supported"), rtol=1e-9)


@settings(max_examples=2)
@given(st.integers(0, 1000))
def test_swapping_live_and_held_turns_the_sign(seed):
    panel = make_panel(40, noise=0.1, seed=seed, controls=["capped"], holds=["all"])
    swapped = panel.copy(deep=True)
    for name in ("pixels", "inside"):
        for to, source in (("live", "capped:all"), ("capped:all", "live")):
            swapped[name].loc[{"arm": to}] = panel[name].sel(arm=source).values
    a, b = did(panel, **FAST).frame, did(swapped, **FAST).frame
    np.testing.assert_allclose(a["did"], -b["did"], atol=1e-12)
    np.testing.assert_allclose(a[["se", "p", "q"]], b[["se", "p", "q"]], atol=1e-12)
    np.testing.assert_allclose(a["ci_low"], -b["ci_high"], atol=1e-12)


@settings(max_examples=2)
@given(st.permutations(range(len(CLASSES))))
def test_the_order_of_classes_changes_nothing_but_the_order_of_rows(order):
    panel = make_panel(40, noise=0.1)
    a, b = (did(p, **FAST).frame.set_index(KEYS) for p in (panel, panel.isel(object=list(order))))
    pd.testing.assert_frame_equal(a, b.loc[a.index], rtol=1e-9)


def test_unedited_arms_are_the_baseline_of_their_control():
    panel = make_panel(40, noise=0.1, controls=["mean"])
    moved = panel.copy(deep=True)
    # The held regime's unedited image shows more wall: that is no effect of the edit.
    for arm in ("mean:all", "mean:all/unedited"):
        moved["pixels"].loc[{"arm": arm, "object": "wall"}] += 100
    a, b = (did(p, **FAST).main for p in (panel, moved))
    pd.testing.assert_frame_equal(a, b)


def test_q_values_are_benjamini_yekutieli_within_a_family(effects):
    rows = pick(effects.frame, outcome="inpainted", control="capped", held="all", kind="object")
    tested = rows[(rows["tau_live"] > 0) | (rows["tau_held"] > 0)]
    assert 0 < len(tested) < len(rows)
    np.testing.assert_allclose(tested["q"], false_discovery_control(tested["p"], method="by"))
    assert (rows.drop(tested.index)["q"] == 1).all()
    together = pick(effects.frame, control="capped", held="all", kind="together")
    np.testing.assert_allclose(together["q"], false_discovery_control(together["p"], method="by"))


def test_intervals_of_picked_effects_are_wider_by_how_many_were_not_picked():
    plan = {"live": {"painting": 0.2, "chair": 0.1}, "first": {"chair": 0.1}}
    effects = did(make_panel(60, holds=["first"], controls=["capped"], noise=0.03, plan=plan), **FAST)
    rows = pick(effects.main, outcome="inpainted", kind="object")
    picked, tested = (
        rows["verdict"].isin(["caused by normalization", "prevented by normalization"]),
        rows["carriers"] > 0,
    )
    assert 0 < picked.sum() < tested.sum()
    row = rows[picked].iloc[0]
    quantile = stats.t.isf(0.025 * picked.sum() / tested.sum(), row["n"] - 1)
    assert row["fcr_high"] == pytest.approx(row["did"] + quantile * row["se"])
    assert row["fcr_low"] < row["ci_low"] and row["fcr_high"] > row["ci_high"]


class TestDegenerate:
    def test_a_target_never_seen_is_not_estimable(self):
        effects = did(make_panel(40, noise=0.1, absent=["lamp"]), **FAST)
        lamp, window = (pick(effects.frame, target=name) for name in ("lamp", "window"))
        assert not lamp[["estimable", "supported"]].any(axis=None)
        assert lamp[["tau_live", "tau_held", "did", "se", "ci_low", "ci_high", "p", "q"]].isna().all(axis=None)
        assert window["estimable"].all()
        assert "not estimable" in effects.sentences()[1] and "not estimable" in effects.summary()
        assert isinstance(effects.plot(), matplotlib.figure.Figure)

    def test_no_target_seen_at_all(self):
        effects = did(make_panel(10, absent=["lamp", "window"], controls=["frozen", "mean"], draws=2), **FAST)
        assert not effects.frame["estimable"].any()
        assert len(effects.sentences()) == 2
        effects.plot()

    @pytest.mark.parametrize("latents", [1, 2, 3])
    def test_few_latents(self, latents):
        effects = did(make_panel(latents, noise=0.1, doses=[0.5], draws=2, coalitions=True), **FAST)
        assert len(effects.main) == 2 * 4 * 37
        effects.summary()

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda p: p.drop_vars("inside"), "no variable 'inside'"),
            (lambda p: p.assign_coords(measured=0 * p["measured"]), "no latent"),
            (lambda p: p.isel(arm=[0, *range(2, 6)]), "no arm 'live'"),
            (lambda p: p.isel(arm=[0, 1]), "no held arm or other network to compare live with"),
            (lambda p: p.drop_attrs(), "no attribute 'image_pixels'"),
            (lambda p: p.assign_coords(target=["window", "sofa"]), "'sofa' is not among its classes"),
            (lambda p: p["pixels"], "not DataArray"),
            (lambda p: p.astype(float), "not whole numbers"),
            (lambda p: p.isel(segmenter=0, drop=True), "run the study again"),
        ],
    )
    def test_what_is_no_panel_is_refused(self, spoil, message):
        with pytest.raises(ValueError, match=message):
            did(spoil(make_panel(5)))

    def test_a_panel_with_counts_only_is_enough(self):
        bare = make_panel(40, noise=0.1)[["pixels", "inside"]].assign_attrs(image_pixels=4096)
        assert did(bare, **FAST).frame["supported"].all()


def networks(removed_live, removed_twin, targets=20, n=100, seed=0):
    """A panel of two networks: their images, and so their holes, have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    names = [f"t{i}" for i in range(targets)]
    panel = make_panel(n, names, controls=[], networks=["all"], plan={"live": {}, "all": {}}, classes=[*names, "wall"])
    arms = panel["arm"].values.tolist()
    inside = np.zeros_like(panel["inside"].values)
    for t in range(targets):
        for edited, unedited, share in (
            ("live", "reference", removed_live),
            ("twin:all", "twin:all/unedited", removed_twin),
        ):
            hole = rng.integers(20, 400, n) * (rng.random(n) < 0.7)
            # Pixels of an object go together, so that shares vary from image to image.
            gone = np.minimum(hole, np.round(hole * rng.beta(4 * share, 4 * (1 - share), n))).astype(int)
            after, before = arms.index(edited), arms.index(unedited)
            inside[0, :, t, before, t], inside[0, :, t, after, t], inside[0, :, t, after, -1] = hole, hole - gone, gone
    return panel.assign(inside=(panel["inside"].dims, inside), pixels=(panel["inside"].dims, inside))


def test_sign_flips_between_two_networks_find_what_the_interval_finds():
    removed = pick(did(networks(0.94, 0.80), **FAST).main, outcome="removed")
    assert ((removed["ci_low"] > 0) == (removed["p"] < 0.05)).mean() > 0.9
    assert (removed["p"] < 0.05).mean() > 0.9


def test_sign_flips_between_two_networks_keep_their_level():
    rejected = list[np.ndarray]()
    for seed in range(4):
        contents = Contents(networks(0.9, 0.9, seed=seed))
        sums = gather(contents, contents.study)
        live, *held = sums.index(contents.compared)
        each = [study_contrast(parts(contents, sums, t, "removed"), live, held, 0.95)[1][:, 0] for t in range(20)]
        rejected.append(permutation(np.concatenate(each, axis=1), 999) < 0.05)
    assert 0.01 < np.concatenate(rejected).mean() < 0.12  # 80 tests


def test_a_twin_that_never_shows_the_target_has_no_effect_on_it():
    panel = networks(0.9, 0.8, targets=3, n=20)
    for name in ("pixels", "inside"):
        panel[name][:, :, 0, 2:] = 0
    effects = did(panel, **FAST).main
    assert not pick(effects, target="t0", outcome="removed")["estimable"].any()
    assert pick(effects, target="t1", outcome="removed")["estimable"].all()


class TestWords:
    def test_what_is_shown_is_claimed_with_its_control_only(self, effects):
        text = effects.sentences()[0]
        assert "20 units of window" in text and "self-repair" in text and "painting" in text
        assert "capped control" in text and "frozen" not in text
        assert "frozen control" in effects.sentences("frozen")[0]

    def test_no_claim_from_an_arm_out_of_support(self):
        effects = did(make_panel(60, noise=0.05, strained=["capped:all", "frozen:all"]), **FAST)
        assert not pick(effects.frame, held="all")["supported"].any()
        assert pick(effects.frame, held="first")["supported"].all()
        assert "no claim" in effects.sentences()[0]
        assert "out of range" in effects.summary()

    def test_noise_is_no_effect(self):
        plan = {"live": {"wall": 0.5, "painting": 0.2}, "first": {"wall": 0.5, "painting": 0.2}}
        panel = make_panel(60, noise=0.05, plan=plan, holds=["first"])
        assert all("not settled" in text for text in did(panel, **FAST).sentences())
        assert all("no relevant effect" in text for text in did(panel, **FAST, relevant=0.2).sentences())

    def test_an_effect_that_is_too_small_to_matter_or_that_too_few_images_show_is_not_claimed(self, panel):
        assert set(pick(did(panel, **FAST, relevant=0.5).main, outcome="inpainted")["verdict"]) == {
            "no relevant effect"
        }
        few = did(panel.isel(latent=slice(25)).assign_coords(measured=panel["measured"].clip(max=25)), **FAST)
        removed = pick(few.main, outcome="removed", target="window")
        assert (removed["q"] < 0.05).all() and set(removed["verdict"]) == {"not settled"}
        assert all("not settled" in text for text in few.sentences())

    def test_it_prints_itself(self, effects):
        assert effects.summary() == str(effects)
        assert "2 targets (window, lamp), 90 latents" in repr(effects)
        assert "<table" in effects._repr_html_()


def test_a_notebook_shows_the_whole_effects_and_their_verdicts(effects):
    tidy, page = effects.tidy(), effects._repr_html_()
    assert len(tidy) == 2 * len(effects.targets) * len(effects.arms)
    assert page.count("<tr>") == len(tidy) + 1  # no two of the arms are the same
    assert set(tidy["verdict"]) == {verdict for verdict in tidy["verdict"] if verdict in page}
    hollow = page.count('fill="none"')
    assert hollow == (~tidy["supported"] & tidy["did"].notna()).sum()
    main = effects.main.set_index(["target", "outcome", "arm", "kind"])["did"]
    for row in tidy.to_dict("records"):
        kind = "target" if row["outcome"] == "removed" else "together"
        assert row["did"] == main[row["target"], row["outcome"], row["arm"], kind]


def test_plots_show_live_minus_held_of_every_target_and_arm_hollow_where_out_of_range(effects):
    both, one = effects.plot("capped"), effects.plot("capped", kind="removed")
    assert [len(figure.axes) for figure in (both, one)] == [2, 1]
    rows = effects.tidy().query("outcome == 'removed' and arm.str.startswith('capped')")
    marks = [line for line in one.axes[0].get_lines() if line.get_marker() not in ("None", "|", "_")]
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx(list(100 * rows["did"]))
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == list(~rows["supported"])
    names = [text.get_text().split()[0] for text in one.axes[0].get_yticklabels()]
    assert names == list(rows["target"])


@pytest.mark.parametrize("dim", ["target", "segmenter", "latent"])
def test_one_that_is_selected_is_a_panel_of_one(dim):
    panel = make_panel(60, noise=0.05, doses=[0.5])
    one, listed = (did(panel.isel({dim: which}), **FAST) for which in (0, [0]))
    pd.testing.assert_frame_equal(one.frame, listed.frame)
    pd.testing.assert_frame_equal(one.checks, listed.checks)


def test_some_of_the_latents_are_a_panel_of_those():
    panel = make_panel(60, noise=0.05, doses=[0.5])
    panel["measured"][0, panel["dose"].values == 0.5] = 40
    for name in ("pixels", "inside"):
        panel[name][:, 40:, :, panel["dose"].values == 0.5] = -1
    effects = did(panel.isel(latent=slice(30, 60)), **FAST)
    assert effects.latents == 30
    assert (effects.frame.query("contrast == 'dose' and dose == 0.5")["n"].dropna() <= 10).all()


def test_what_is_no_panel_of_effects_is_told_in_a_line():
    panel = make_panel(20)
    for part, words in (({"arm": 1}, "'arm'"), ({"arm": [1]}, "no arm 'reference'"), ({"object": 0}, "'object'")):
        with pytest.raises(ValueError, match=words):
            did(panel.isel(part), **FAST)


def test_what_was_written_is_read_again(tmp_path):
    panel = make_panel(60, noise=0.05, controls=["capped", "mean"], networks=["one"], absent=["lamp"], doses=[0.5])
    effects = did(panel, **FAST)
    effects.frame.to_csv(tmp_path / "effects.csv", index=False)
    effects.checks.to_csv(tmp_path / "checks.csv", index=False)
    again = read_effects(tmp_path, panel)
    pd.testing.assert_frame_equal(again.frame, effects.frame, check_dtype=False)
    pd.testing.assert_frame_equal(again.checks, effects.checks, check_dtype=False)
    rejudged = read_effects(tmp_path, panel, relevant=0.9).main["verdict"]
    assert set(rejudged[again.main["verdict"] == "caused by normalization"]) == {"no relevant effect"}
    assert (again.latents, again.units) == (effects.latents, effects.units)
    assert again.sentences() == effects.sentences()


@pytest.mark.parametrize("module", ["estimation", "stats", "outcomes", "panel.store"])
def test_torch_is_not_needed(module):
    code = f"import sys, gandid.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_panel_opened_lazily_is_read_by_whole_chunks_and_says_the_same(tmp_path):
    panel = make_panel(50, noise=0.1, doses=[0.5])
    chunks = {name: {"chunks": (1, 7, *panel[name].shape[2:])} for name in ("pixels", "inside")}
    panel.to_zarr(tmp_path / "panel.zarr", zarr_format=2, encoding=chunks)
    lazy = xr.open_zarr(tmp_path / "panel.zarr", chunks=None)
    a, b = did(lazy, **FAST), did(panel, **FAST)
    pd.testing.assert_frame_equal(a.frame, b.frame, check_exact=True)
    pd.testing.assert_frame_equal(a.checks, b.checks, rtol=1e-12)
    assert not any(isinstance(lazy[name].variable._data, np.ndarray) for name in ("pixels", "inside", "strain"))
