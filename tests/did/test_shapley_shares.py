from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from panels import make_panel

from gandid.did.shapley import sampled_weights
from gandid.did.sites import COLUMNS, checks, shares
from gandid.did.totals import TOGETHER, objects_inpainted

pytestmark = pytest.mark.filterwarnings("error")

SITES = ("layer5.norm", "layer6.norm", "output.norm")
LIVE = 0.60  # of the target's original pixels, become painting when every site is live


def held_sets(sites):
    return ["+".join(some) for size in range(1, len(sites) + 1) for some in combinations(sites, size)]


def make_sites(value, sites=SITES, latents=60, noise=0.0, seed=0, target=("window",), holds=None):
    """A panel of all coalitions; `value(live)` is the share that becomes painting with a set of sites live."""
    holds = holds or held_sets(sites)
    plan = {"live": {"painting": value(frozenset(sites))}}
    plan |= {held: {"painting": value(frozenset(sites) - set(held.split("+")))} for held in holds}
    return make_panel(
        latents, target, controls=["capped"], holds=holds, plan=plan, noise=noise, seed=seed
    ).assign_attrs(orders=0, orders_seed=0)


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def additive(parts):
    """Every site adds what it adds, whichever others are live."""
    return lambda live: LIVE - sum(part for site, part in parts.items() if site not in live)


PARTS = dict(zip(SITES, (0.30, 0.05, -0.10), strict=True))


def test_effects_that_add_up_are_the_shares():
    frame = shares(make_sites(additive(PARTS)))
    assert list(frame.columns) == COLUMNS
    rows = pick(frame, outcome="inpainted", object="painting")
    assert list(rows["site"]) == list(SITES)
    np.testing.assert_allclose(rows["share"], list(PARTS.values()), atol=1e-12)
    np.testing.assert_allclose(rows["did"], 0.25, atol=1e-12)
    np.testing.assert_allclose(pick(frame, outcome="removed")["share"], rows["share"], atol=1e-12)
    np.testing.assert_allclose(pick(frame, object=TOGETHER)["share"], rows["share"], atol=1e-12)
    assert (pick(frame, outcome="inpainted", object="chair")["share"] == 0).all()


def test_an_interaction_is_split_equally_and_a_site_without_a_part_has_none():
    def both(live):
        return LIVE - 0.40 * (not {"layer5.norm", "output.norm"} <= live)

    rows = pick(shares(make_sites(both)), outcome="removed").set_index("site")
    np.testing.assert_allclose(rows["share"], [0.20, 0.0, 0.20], atol=1e-12)
    assert rows.loc["layer6.norm", ["share", "se", "ci_low", "ci_high"]].eq(0).all()


def test_shares_do_not_depend_on_the_order_of_arms_or_of_sites():
    panel = make_sites(additive(PARTS), noise=0.1)
    frame = shares(panel)
    rng = np.random.default_rng(0)
    mixed = panel.isel(arm=[0, 1, *(2 + rng.permutation(panel.sizes["arm"] - 2))])
    mixed["held"] = ("arm", ["+".join(reversed(name.split("+"))) for name in mixed["held"].values])
    again = shares(mixed)
    keys = ["target", "object", "outcome", "site"]
    both = frame.merge(again, on=keys, suffixes=("", "_again"))
    assert len(both) == len(frame)
    for column in ("share", "se", "ci_low", "did"):
        np.testing.assert_allclose(both[f"{column}_again"], both[column], atol=1e-12)


def test_a_share_is_the_mean_over_orders_latent_by_latent():
    """Against the definition: every order, every latent, by itself; `area`, whose effect is a mean of them."""
    panel = make_sites(lambda live: LIVE - 0.1 * (3 - len(live)), noise=0.1)
    area = panel["pixels"].sel(target="window", object="painting") / panel.attrs["image_pixels"]

    def value(live):
        still = "+".join(site for site in SITES if site not in live)
        return area.sel(arm=f"capped:{still}" if still else "live").values

    added = {site: np.zeros(panel.sizes["latent"]) for site in SITES}
    for order in permutations(SITES):
        for place, site in enumerate(order):
            added[site] += (value(order[: place + 1]) - value(order[:place])) / 6
    rows = pick(shares(panel), outcome="area", object="painting").set_index("site")
    for site, of in added.items():
        assert rows.loc[site, "share"] == pytest.approx(of.mean())
        assert rows.loc[site, "se"] == pytest.approx(of.std(ddof=1) / np.sqrt(len(of)))


def test_the_shares_sum_to_the_effect_of_holding_all():
    panel = make_sites(lambda live: LIVE - 0.05 * (3 - len(live)) ** 2, noise=0.2)
    frame = shares(panel)
    summed = frame.groupby(["outcome", "object"]).agg({"share": "sum", "did": "first"})
    np.testing.assert_allclose(summed["share"], summed["did"], atol=1e-12)
    totals = objects_inpainted(panel).set_index("arm")
    whole = pick(frame, object=TOGETHER)["did"].iloc[0]
    assert whole == pytest.approx(totals.loc[f"capped:{'+'.join(SITES)}", "did"])


def sampled(value, orders, noise=0.0, sites=tuple(f"layer{i}.norm" for i in range(5))):
    met = sampled_weights(len(sites), orders, 7)[0]
    holds = ["+".join(site for i, site in enumerate(sites) if i not in live) for live in met]
    panel = make_sites(value, sites, noise=noise, holds=[held for held in holds if held])
    return panel.assign_attrs(orders=orders, orders_seed=7)


def test_random_orders_know_effects_that_add_up_as_well_as_all_orders_do():
    parts = {f"layer{i}.norm": part for i, part in enumerate((0.2, 0.1, 0.05, 0.05, 0.0))}
    rows = pick(shares(sampled(additive(parts), 2)), outcome="removed")
    np.testing.assert_allclose(rows["share"], list(parts.values()), atol=1e-12)
    assert (rows["se"] < 1e-12).all()


def test_random_orders_add_their_own_error():
    """A site that acts only alone with another: orders differ, latents do not, so that all of the error is of the orders."""

    def pairs(live):
        return LIVE - 0.4 * (not {"layer0.norm", "layer1.norm"} <= live)

    orders = 3
    met, weights = sampled_weights(5, orders, 7)
    game = np.array([float({0, 1} <= live) * 0.4 for live in met])
    each = weights @ game
    rows = pick(shares(sampled(pairs, orders)), outcome="removed")
    np.testing.assert_allclose(rows["share"], each.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(rows["se"], each.std(axis=0, ddof=1) / np.sqrt(orders), atol=1e-12)
    assert rows["did"].iloc[0] == pytest.approx(0.4)
    noisy = pick(
        shares(sampled(lambda live: pairs(live) - 0.05 * (5 - len(live)), orders, noise=0.1)), outcome="removed"
    )
    assert noisy["share"].sum() == pytest.approx(noisy["did"].iloc[0])


def test_intervals_cover_the_planted_share():
    """Latents in which the site's part varies around what was planted: 95 % intervals cover it in about 19 of 20 panels."""
    blank = make_sites(additive({"a": 0.2, "b": 0.1}), ("a", "b"), latents=40).copy(deep=True)
    hole = blank["inside"].sel(target="window", object="window", arm="reference").values
    rng, covered = np.random.default_rng(0), 0
    planted = {"a": 0.2, "b": 0.1}
    for _ in range(60):
        part = {site: rng.uniform(0, 2 * mean, len(hole)) for site, mean in planted.items()}
        for arm, lost in {"live": (), "capped:a": "a", "capped:b": "b", "capped:a+b": "ab"}.items():
            filled = np.round(hole * (LIVE - sum(part[site] for site in lost)))
            blank["inside"].loc[{"target": "window", "arm": arm}] = 0
            blank["inside"].loc[{"target": "window", "arm": arm, "object": "painting"}] = filled
            blank["inside"].loc[{"target": "window", "arm": arm, "object": "window"}] = hole - filled
        row = pick(shares(blank), outcome="removed", site="a").iloc[0]
        covered += row["ci_low"] <= planted["a"] <= row["ci_high"]
    assert 52 <= covered <= 60


def test_a_target_that_no_image_shows_has_no_shares():
    panel = make_sites(additive(PARTS), target=["window", "lamp"]).copy(deep=True)
    for name in ("pixels", "inside"):
        panel[name].loc[{"object": "lamp"}] = 0
    frame = shares(panel)
    assert pick(frame, target="lamp")[["share", "se", "did"]].isna().all(axis=None)
    assert {row["target"] for row in checks(frame, panel, study(panel))} == {"window"}


def test_a_coalition_that_was_not_run_is_named():
    panel = make_sites(additive(PARTS))
    lacking = panel.sel(arm=[name for name in panel["arm"].values if name != "capped:layer5.norm+output.norm"])
    with pytest.raises(ValueError, match=r"no arm 'capped:layer5\.norm\+output\.norm'"):
        shares(lacking)
    with pytest.raises(ValueError, match="holds no site"):
        shares(panel.sel(arm=["reference", "live"]))


def study(panel):
    """The study that the coalitions belong to: its arm `capped:all` holds all sites."""
    whole = panel.sel(arm=["reference", "live", f"capped:{'+'.join(SITES)}"])
    return whole.assign_coords(arm=["reference", "live", "capped:all"], held=("arm", ["none", "none", "all"]))


def test_the_sum_is_held_against_the_study():
    panel = make_sites(additive(PARTS), noise=0.1)
    (row,) = checks(shares(panel), panel, study(panel))
    assert row["check"] == "shapley_efficiency" and row["verdict"] == "ok" and row["value"] < 1e-12
    # A study of more latents, in another order, is compared on those that it shares.
    more = make_sites(additive(PARTS), noise=0.1, latents=60).isel(latent=slice(None, None, -1))
    (row,) = checks(shares(panel.isel(latent=slice(20))), panel.isel(latent=slice(20)), study(more))
    assert row["verdict"] == "ok"


def test_a_coalition_that_is_not_what_its_name_says_is_failed():
    """Two held sets exchanged: the shares still sum to their own effect, but not to the study's."""
    panel = make_sites(additive(PARTS))
    exchanged = panel.copy(deep=True)
    one, two = {"arm": "capped:layer5.norm"}, {"arm": f"capped:{'+'.join(SITES)}"}
    for name in ("pixels", "inside"):
        exchanged[name].loc[one], exchanged[name].loc[two] = panel[name].sel(two), panel[name].sel(one)
    frame = shares(exchanged)
    assert next(checks(frame, exchanged, study(exchanged)))["verdict"] == "ok"
    row = next(checks(frame, exchanged, study(panel)))
    assert row["verdict"] == "failed" and row["value"] > 1e-4


def test_a_site_that_is_missing_from_the_table_is_failed_even_without_the_study_s_arm():
    panel = make_sites(additive(PARTS), noise=0.1)
    frame = shares(panel)
    lacking = frame[frame["site"] != "layer5.norm"]
    bare = study(panel).sel(arm=["reference", "live"])
    (good,), (bad,) = checks(frame, panel, bare), checks(lacking, panel, bare)
    assert good["verdict"] == "ok" and good["bound"] == 1e-9 and "own arms" in good["detail"]
    assert bad["verdict"] == "failed"


def test_pixels_that_rounding_turns_are_no_failure():
    panel = make_sites(additive(PARTS), noise=0.1)
    other = study(panel).copy(deep=True)
    other["pixels"].loc[{"arm": "live", "latent": 0, "object": "wall"}] += 1
    other["pixels"].loc[{"arm": "live", "latent": 0, "object": "floor"}] -= 1
    (row,) = checks(shares(panel), panel, other)
    assert row["verdict"] == "ok" and 0 < row["value"] <= 1e-5


def test_the_table_is_one_row_per_target_outcome_class_and_site():
    frame = shares(make_sites(additive(PARTS)))
    assert not frame.duplicated(["target", "outcome", "object", "site"]).any()
    assert isinstance(frame, pd.DataFrame) and set(frame["control"]) == {"capped"}
