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

import gandid.did
from gandid.did import COLUMNS, estimands, estimate
from gandid.did.inference import mean_effect, ratio_effect

pytestmark = pytest.mark.filterwarnings("error")
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
    return estimate(panel)


@pytest.mark.parametrize("hold", ["first", "all"])
def test_planted_effects_are_found_exactly(hold):
    frame = estimate(make_panel(60), **FAST).to_frame()
    for target in ("window", "lamp"):
        row = one(frame, target=target, outcome="removed", control="capped", held=hold)
        assert row["object"] == target
        assert row["tau_live"] == pytest.approx(0.6)
        assert row["tau_held"] == pytest.approx(sum(PLAN[hold].values()))
        assert row["did"] == pytest.approx(0.6 - sum(PLAN[hold].values()))
        for name in ("painting", "wall", "chair"):
            row = one(frame, target=target, object=name, outcome="inpainted", control="frozen", held=hold)
            assert row["did"] == pytest.approx(PLAN["live"].get(name, 0) - PLAN[hold].get(name, 0))
            # Every image is in-painted by exactly the same share: the linearized error is 0.
            assert row["se"] == pytest.approx(0, abs=1e-12)


def test_planted_absence_is_zero():
    plan = {"live": {"wall": 0.5, "painting": 0.1}, "first": {"wall": 0.5, "painting": 0.1}}
    frame = estimate(make_panel(60, holds=["first"], plan=plan), **FAST).to_frame()
    assert (frame["did"] == 0).all()
    assert (frame["se"] == 0).all()
    assert (frame[["p", "p_t", "q"]] == 1).all(axis=None)


def test_columns_and_rows(panel, effects):
    frame = effects.to_frame()
    assert list(frame.columns[: len(COLUMNS)]) == COLUMNS
    assert not frame.duplicated(KEYS).any()
    arms, targets, classes = 4, 2, len(CLASSES)
    # area, collateral, emerged of all; removed of the target; inpainted of all but the target
    assert len(frame) == arms * targets * (3 * classes + 1 + classes - 1)
    assert frame["estimable"].all()
    assert frame["supported"].all()
    assert set(frame["kind"]) == {"target", "object", "background", "unknown"}
    assert frame[COLUMNS].notna().all(axis=None)


def test_mean_outcomes_follow_their_definitions(panel, effects):
    size = panel.attrs["image_pixels"]
    for name in ("painting", "wall"):
        counts = panel["pixels"].sel(target="window", object=name)
        delta = (counts.sel(arm="live") - counts.sel(arm="capped:all")).values / size
        row = one(effects.frame, target="window", object=name, outcome="area", control="capped", held="all")
        known = mean_effect(delta)
        np.testing.assert_allclose(row[["did", "se", "ci_low", "ci_high", "p_t"]].astype(float), known[:5])
        assert row["tau_live"] == pytest.approx(
            float((counts.sel(arm="live") - counts.sel(arm="reference")).mean()) / size
        )
    edge = 0.003 * size
    counts = panel["pixels"].sel(target="window", object="painting")
    emerged = (counts.sel(arm="reference") < edge) & (counts.sel(arm="live") >= edge)
    row = one(effects.frame, target="window", object="painting", outcome="emerged", control="capped", held="all")
    assert row["tau_live"] == pytest.approx(float(emerged.mean()))


def test_ratio_outcomes_follow_their_definitions(panel, effects):
    inside = panel["inside"].sel(target="window")
    whole = inside.sel(arm="live").sum("object").values
    live, held = (inside.sel(arm=arm, object="painting").values for arm in ("live", "frozen:first"))
    row = one(effects.frame, target="window", object="painting", outcome="inpainted", control="frozen", held="first")
    known = ratio_effect(live, whole, held, whole)
    np.testing.assert_allclose(row[["did", "se", "ci_low", "ci_high", "p_t"]].astype(float), known[:5])
    assert row["n"] == (whole > 0).sum()
    assert row["se_boot"] == pytest.approx(row["se"], rel=0.15)
    assert row["ci_boot_low"] < row["did"] < row["ci_boot_high"]


def test_inpainted_sums_to_removed(effects):
    frame = effects.frame
    for values in ("tau_live", "tau_held", "did"):
        filled = frame[frame["outcome"] == "inpainted"].groupby(["target", "arm"])[values].sum()
        gone = frame[frame["outcome"] == "removed"].groupby(["target", "arm"])[values].sum()
        np.testing.assert_allclose(filled, gone, atol=1e-12)


def test_identical_arms_give_identical_numbers(panel):
    twin = panel.copy(deep=True)
    for name in ("pixels", "inside"):
        twin[name].loc[{"arm": "frozen:first"}] = panel[name].sel(arm="capped:first").values
    frame = estimate(twin, **FAST).to_frame()
    a, b = (pick(frame, control=c, held="first").drop(columns=["control", "arm"]) for c in ("capped", "frozen"))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


@settings(max_examples=3)
@given(st.integers(0, 1000))
def test_the_order_of_latents_changes_nothing(seed):
    panel = make_panel(40, noise=0.1, seed=seed)
    order = np.random.default_rng(seed).permutation(40)
    a, b = estimate(panel, **FAST), estimate(panel.isel(latent=order), **FAST)
    pd.testing.assert_frame_equal(a.frame, b.frame)
    pd.testing.assert_frame_equal(a.checks, b.checks)


@settings(max_examples=3)
@given(st.integers(0, 1000))
def test_a_class_that_never_occurs_changes_nothing(seed):
    panel = make_panel(40, noise=0.1, seed=seed)
    extra = panel[["pixels", "inside"]].isel(object=[4]) * 0
    extra = extra.assign_coords(object=["ghost"], background=("object", [False])).astype(np.int32)
    wider = xr.concat([panel[["pixels", "inside"]], extra], "object")
    wider = xr.merge([panel.drop_dims("object"), wider]).assign_attrs(panel.attrs)
    a, b = estimate(panel, **FAST).frame, estimate(wider, **FAST).frame
    b = b[b["object"] != "ghost"].reset_index(drop=True)
    pd.testing.assert_frame_equal(a, b, rtol=1e-9)


@settings(max_examples=3)
@given(st.integers(0, 1000))
def test_swapping_live_and_held_turns_the_sign(seed):
    panel = make_panel(40, noise=0.1, seed=seed, controls=["capped"], holds=["all"])
    swapped = panel.copy(deep=True)
    for name in ("pixels", "inside"):
        for to, of in (("live", "capped:all"), ("capped:all", "live")):
            swapped[name].loc[{"arm": to}] = panel[name].sel(arm=of).values
    a, b = estimate(panel, **FAST).frame, estimate(swapped, **FAST).frame
    np.testing.assert_allclose(a["did"], -b["did"], atol=1e-12)
    np.testing.assert_allclose(a[["se", "p", "q"]], b[["se", "p", "q"]], atol=1e-12)
    np.testing.assert_allclose(a["ci_low"], -b["ci_high"], atol=1e-12)


@settings(max_examples=3)
@given(st.permutations(range(len(CLASSES))))
def test_the_order_of_classes_changes_nothing_but_the_order_of_rows(order):
    panel = make_panel(40, noise=0.1)
    a, b = (estimate(p, **FAST).frame.set_index(KEYS) for p in (panel, panel.isel(object=list(order))))
    pd.testing.assert_frame_equal(a, b.loc[a.index], rtol=1e-9)


def test_unedited_arms_are_the_baseline_where_the_panel_has_them():
    panel = make_panel(40, noise=0.1, controls=["mean"], unedited=True)
    assert [arm.baseline for arm in estimands.held_arms(panel)] == [
        "mean:first/unedited",
        "mean:all/unedited",
    ]
    # The held regime's unedited image shows more wall: that is no effect of the edit.
    for arm in ("mean:all", "mean:all/unedited"):
        panel["pixels"].loc[{"arm": arm, "object": "wall"}] += 100
    frame = estimate(panel, **FAST).frame
    plain = estimate(make_panel(40, noise=0.1, controls=["mean"]), **FAST).frame
    pd.testing.assert_frame_equal(frame, plain)


def test_q_values_are_benjamini_hochberg_within_a_family(effects):
    from scipy.stats import false_discovery_control

    rows = pick(effects.frame, outcome="inpainted", control="capped", held="all", kind="object")
    tested = rows[(rows["tau_live"] > 0) | (rows["tau_held"] > 0)]
    assert 0 < len(tested) < len(rows)
    np.testing.assert_allclose(tested["q"], false_discovery_control(tested["p"]))
    assert (rows.drop(tested.index)["q"] == 1).all()


class TestDegenerate:
    def test_a_target_never_seen_is_not_estimable(self):
        effects = estimate(make_panel(40, noise=0.1, absent=["lamp"]), **FAST)
        lamp, window = (pick(effects.frame, target=name) for name in ("lamp", "window"))
        assert not lamp["estimable"].any()
        assert not lamp["supported"].any()
        assert lamp[["tau_live", "tau_held", "did", "se", "ci_low", "ci_high", "p", "q"]].isna().all(axis=None)
        assert window["estimable"].all()
        assert effects.sentences()[1] == "No image of 40 shows 'lamp': not estimable."
        assert "not estimable" in effects.summary()
        assert isinstance(effects.plot(), matplotlib.figure.Figure)

    def test_no_target_seen_at_all(self):
        effects = estimate(make_panel(10, absent=["lamp", "window"]), **FAST)
        assert not effects.frame["estimable"].any()
        assert len(effects.sentences()) == 2
        effects.plot()

    @pytest.mark.parametrize("latents", [1, 2, 3])
    def test_few_latents(self, latents):
        effects = estimate(make_panel(latents, noise=0.1), **FAST)
        assert len(effects.frame) == 288
        assert len(effects.sentences()) == 2
        effects.summary()

    def test_no_held_arm(self):
        effects = estimate(make_panel(10, controls=[]), **FAST)
        assert len(effects.frame) == 0
        assert list(effects.frame.columns[: len(COLUMNS)]) == COLUMNS
        assert effects.sentences() == []
        effects.plot()
        effects.summary()

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda p: p.drop_vars("inside"), "no variable 'inside'"),
            (lambda p: p.isel(latent=slice(0)), "no latent"),
            (lambda p: p.sel(arm=[a for a in p["arm"].values if a != "live"]), "no arm 'live'"),
            (lambda p: p.assign_attrs(image_pixels=1).drop_attrs(), "no attribute 'image_pixels'"),
            (lambda p: p.assign_coords(target=["window", "sofa"]), "'sofa' is not among its classes"),
            (lambda p: p["pixels"], "not DataArray"),
        ],
    )
    def test_what_is_no_panel_is_refused(self, spoil, message):
        with pytest.raises(ValueError, match=message):
            estimate(spoil(make_panel(5)))

    def test_a_panel_with_counts_only_is_enough(self):
        panel = make_panel(40, noise=0.1)
        bare = panel[["pixels", "inside"]].assign_attrs(image_pixels=4096)
        frame = estimate(bare, **FAST).frame
        assert frame["supported"].all()


class TestWords:
    def test_self_repair_and_inpainting_are_said_with_their_control(self, effects):
        text = effects.sentences()[0]
        assert "Ablating the 20 units of window removes 58" in text
        assert "Amplification by all downstream normalizations (capped control, all held)" in text
        assert "self-repair" in text
        assert "points of it with painting" in text
        assert "frozen" not in text
        assert "Response of the first normalization (frozen control" in effects.sentences("frozen")[0]

    def test_no_claim_from_an_arm_out_of_support(self):
        effects = estimate(make_panel(60, noise=0.05, strained=["capped:all", "frozen:all"]), **FAST)
        frame = effects.frame
        assert not pick(frame, held="all")["supported"].any()
        assert pick(frame, held="first")["supported"].all()
        text = effects.sentences()[0]
        after = text.split("all downstream normalizations (capped control, all held)")[1]
        assert after.startswith(": no claim, since the held arm leaves the network's range (strain")
        assert "not claimed: frozen:all (strain" in after
        assert "* the held arm leaves" in effects.summary()

    def test_noise_is_not_told_as_an_effect(self):
        plan = {"live": {"wall": 0.5, "painting": 0.2}, "first": {"wall": 0.5, "painting": 0.2}}
        effects = estimate(make_panel(60, noise=0.05, plan=plan, holds=["first"]))
        assert all("no effect beyond noise" in text for text in effects.sentences())

    def test_summary_and_repr(self, effects):
        text = effects.summary()
        assert text == str(effects)
        for arm in ("capped:first", "capped:all", "frozen:first", "frozen:all"):
            assert f"\n{arm} · " in text
        assert "Checks: " in text
        assert repr(effects).startswith("<gandid.did.Effects: 2 targets (window, lamp), 90 latents")
        assert "<table" in effects._repr_html_()

    def test_the_frame_is_a_copy(self, effects):
        frame = effects.to_frame()
        frame["did"] = 0.0
        assert (effects.to_frame()["did"] != 0).any()


def test_plot_draws_every_target(effects):
    figure = effects.plot()
    assert [axis.get_title(loc="left") for axis in figure.axes[:2]] == ["window ablated", "lamp ablated"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "live",
        "capped:first",
        "capped:all",
    ]


def test_the_package_is_its_verb(panel, effects):
    again = gandid.did(panel)
    pd.testing.assert_frame_equal(again.frame, effects.frame)


def test_torch_is_not_needed():
    code = "import sys, gandid.did, gandid.outcomes; sys.exit('torch' in sys.modules)"
    # What `gandid/__init__.py` imports is another matter: load the two packages without it.
    path = [gandid.did.__path__[0].rsplit("/", 1)[0]]
    stub = f"import sys, types; p = types.ModuleType('gandid'); p.__path__ = {path}; sys.modules['gandid'] = p; "
    subprocess.run([sys.executable, "-c", stub + code], check=True)


def test_controls_with_assumptions_are_told_with_them_and_disagreements_are_said():
    panel = make_panel(90, noise=0.05, holds=["all"])
    # As a twin's: the other held arm, with the effect turned around.
    panel = panel.assign_coords(
        arm=[name.replace("frozen", "twin") for name in panel["arm"].values.astype(str)],
        control=("arm", [name.replace("frozen", "twin") for name in panel["control"].values.astype(str)]),
    )
    live, held = panel["inside"].sel(arm="live"), panel["inside"].sel(arm="twin:all")
    arms = panel["arm"].values.tolist()
    turned = panel["inside"].copy(deep=True)
    turned[{"arm": arms.index("live")}], turned[{"arm": arms.index("twin:all")}] = held, live
    capped = {"arm": arms.index("capped:all")}
    turned[capped] = panel["inside"].sel(arm="reference")
    told = estimate(panel.assign(inside=turned), **FAST).sentences()[0]
    assert "twin without normalization (twin control)" in told
    assert "another training is another draw" in told
    assert "The controls disagree on how much of it painting in-paints (capped:all +" in told


def networks(removed_live: float, removed_twin: float, targets: int = 40, n: int = 100, seed: int = 0) -> xr.Dataset:
    """A panel of two networks: their images, and so their holes, have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    names, arms = [f"t{i}" for i in range(targets)], ["reference", "live", "twin:all", "twin:all/unedited"]
    inside = np.zeros((n, targets, len(arms), targets + 1), np.int32)
    for t in range(targets):
        for edited, unedited, share in ((1, 0, removed_live), (2, 3, removed_twin)):
            hole = rng.integers(20, 400, n) * (rng.random(n) < 0.7)
            # Pixels of an object go together, so that shares vary from image to image.
            gone = np.minimum(hole, np.round(hole * rng.beta(4 * share, 4 * (1 - share), n))).astype(int)
            inside[:, t, unedited, t] = hole
            inside[:, t, edited, t], inside[:, t, edited, -1] = hole - gone, gone
    dims = ("latent", "target", "arm", "object")
    return xr.Dataset(
        {"pixels": (dims, inside), "inside": (dims, inside)},
        coords={
            "latent": np.arange(n),
            "target": names,
            "arm": arms,
            "object": [*names, "wall"],
            "edit": ("arm", [False, True, True, False]),
            "control": ("arm", ["none", "none", "twin", "twin"]),
            "held": ("arm", ["none", "none", "all", "all"]),
            "background": ("object", [False] * targets + [True]),
        },
        attrs={"image_pixels": 4096},
    )


def test_sign_flips_between_two_networks_find_what_the_interval_finds():
    removed = pick(estimate(networks(0.94, 0.80), **FAST).frame, outcome="removed")
    assert ((removed["ci_low"] > 0) == (removed["p"] < 0.05)).mean() > 0.9
    assert (removed["p"] < 0.05).mean() > 0.9


def test_sign_flips_between_two_networks_keep_their_level():
    rejected = [
        pick(estimate(networks(0.9, 0.9, seed=seed), **FAST).frame, outcome="removed")["p"] < 0.05 for seed in range(3)
    ]
    assert 0.01 < np.concatenate(rejected).mean() < 0.11  # 120 tests


def test_a_twin_that_never_shows_the_target_has_no_effect_on_it():
    panel = networks(0.9, 0.8, targets=3, n=20)
    for name in ("pixels", "inside"):
        panel[name][:, 0, 2:] = 0
    effects = estimate(panel, **FAST).frame
    assert not pick(effects, target="t0", outcome="removed")["estimable"].any()
    assert pick(effects, target="t1", outcome="removed")["estimable"].all()
