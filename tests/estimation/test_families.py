"""Contrasts beside the study's own: planted dose-responses, games of sites, random units, segmenters, confusions, networks."""

from itertools import permutations
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panels import CLASSES, PLAN, make_panel
from scipy import stats

from gandid.estimation import did
from gandid.estimation.bounds import CONDITION
from gandid.estimation.credibility import permuted
from gandid.estimation.families import invert
from gandid.outcomes import TOGETHER
from gandid.panel.coalitions import sampled_weights

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of what other tests left to the collector
FAST = {"flips": 9, "resamples": 2}


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def whole(frame):
    return frame[(frame["outcome"] == "removed") | (frame["object"] == TOGETHER)]


def estimates(panel, contrast, **options):
    return pick(did(panel, **FAST, **options).frame, contrast=contrast)


def check(panel, name, **options):
    found = did(panel, **FAST, **options).checks
    return found[found["check"] == name]


class TestDoses:
    DOSES = (0.25, 0.5, 0.75, 1.0)
    # Shares of the target's original pixels that become painting; as many become wall.
    LIVE, HELD = (0.1, 0.2, 0.3, 0.4), (0.05, 0.1, 0.15, 0.2)

    def make(self, latents=60, noise=0.0, controls=("capped",), networks=(), live=LIVE, **held):
        def plan(arm):
            name = (
                "live"
                if arm.held == "none" and arm.network == "own"
                else arm.network
                if arm.network != "own"
                else arm.control
            )
            share = ({"live": live} | held).get(name, self.HELD)[self.DOSES.index(arm.dose)]
            return {"painting": share, "wall": share}

        options = {"controls": controls, "holds": ["all"], "networks": networks, "doses": self.DOSES}
        return make_panel(latents, ["window"], plan=plan, noise=noise, **options)

    def test_the_curve_is_the_planted_one_and_nothing_at_dose_0(self):
        frame = did(self.make(), **FAST).frame
        rows = pick(frame, contrast="dose", outcome="inpainted", object="painting")
        assert list(rows["dose"]) == [0, *self.DOSES]
        np.testing.assert_allclose(rows["tau_live"], [0, *self.LIVE], atol=1e-12)
        np.testing.assert_allclose(rows["did"], [0, *np.subtract(self.LIVE, self.HELD)], atol=1e-12)
        nothing = pick(frame, contrast="dose", dose=0.0)
        assert (nothing[["tau_live", "tau_held", "did", "se", "ci_low", "ci_high"]] == 0).all(axis=None)
        steps = pick(frame, contrast="step", outcome="removed")
        assert list(steps["dose"]) == list(self.DOSES)
        np.testing.assert_allclose(steps["did"], 0.1, atol=1e-12)

    def test_at_the_study_s_dose_it_is_the_study_s_did(self):
        frame = did(self.make(noise=0.1, latents=100, controls=("capped", "mean")), **FAST).frame
        keys = ["target", "object", "outcome", "arm"]
        both = pick(frame, contrast="dose", dose=1.0).merge(pick(frame, contrast="did"), on=keys, suffixes=("", "_did"))
        both = both[both["arm"] == "capped:all"]
        assert len(both) > 10
        for column in ("tau_live", "tau_held", "did", "se", "ci_low", "ci_high"):
            np.testing.assert_allclose(both[column], both[f"{column}_did"], rtol=1e-9, atol=1e-13)

    def test_a_step_is_paired_by_latent(self):
        """Two doses that differ by four pixels of each hole: a nearly certain step between two uncertain effects."""
        panel = self.make(noise=0.2)
        for name in ("pixels", "inside"):
            panel[name].loc[{"arm": ["live@0.75", "capped:all@0.75"]}] = (
                panel[name].sel(arm=["live", "capped:all"]).values
            )
            painted = panel[name].sel(arm="live", object="painting").values
            more = np.where(panel["inside"].sel(arm="live", object="painting").values > 4, 4, 0)
            panel[name].loc[{"arm": "live@0.75", "object": "painting"}] = painted - more
            panel[name].loc[{"arm": "live@0.75", "object": "chair"}] += more
        rows = pick(did(panel, **FAST).frame, outcome="inpainted", dose=1.0)
        chair = pick(rows, object="chair", contrast="dose").iloc[0]
        together = pick(rows, object=TOGETHER).set_index("contrast")
        assert chair["did"] == 0
        assert together.loc["step", ["did", "se"]].tolist() == [0, 0] and together.loc["dose", "se"] > 0.01

    def test_an_effect_that_grows_with_the_dose_passes(self):
        row = check(self.make(noise=0.1), "dose").iloc[0]
        assert row[["verdict", "arm", "target"]].tolist() == ["ok", "capped:all", "window"]
        assert row["bound"] == pytest.approx(3.59, abs=0.01)  # 3 errors for one comparison, here eight
        # A negative effect, self-repair, grows too.
        assert check(self.make(noise=0.1, live=self.HELD, capped=self.LIVE), "dose")["verdict"].item() == "ok"
        assert check(self.make(), "dose")["value"].item() == 0

    def test_an_effect_that_shrinks_on_the_way_is_flagged(self):
        row = check(self.make(noise=0.02, live=(0.1, 0.3, 0.1, 0.4)), "dose").iloc[0]
        assert row["verdict"] == "flagged" and "from dose 0.5 to 0.75" in row["detail"]
        meeting = self.make(live=(0.3, 0.5, 0.5, 0.5), capped=(0.1, 0.3, 0.4, 0.5))
        assert check(meeting, "dose")["verdict"].item() == "flagged"

    def test_a_control_that_moves_as_the_exact_one_has_parallel_trends(self):
        effects = did(self.make(noise=0.05, controls=("frozen", "mean")), **FAST)
        row = pick(effects.checks, check="parallel_trends").iloc[0]
        assert row[["verdict", "arm"]].tolist() == ["ok", "mean:all"]
        assert set(pick(effects.frame, contrast="departure")["arm"]) == {"mean:all"}

    def test_a_control_that_moves_by_itself_is_flagged_and_its_departure_is_what_was_planted(self):
        away = (0.0, 0.1, 0.15, 0.2)
        row = check(self.make(noise=0.02, controls=("frozen", "mean"), mean=away), "parallel_trends").iloc[0]
        assert row["verdict"] == "flagged" and "dose 0.25" in row["detail"]
        rows = pick(estimates(self.make(controls=("frozen", "mean"), mean=away), "departure"), outcome="inpainted")
        np.testing.assert_allclose(rows["did"], [0, *np.subtract(self.HELD, away)], atol=1e-12)

    def test_without_an_exact_control_the_effect_at_the_lowest_dose_must_vanish(self):
        row = check(self.make(noise=0.05, controls=("mean",)), "parallel_trends").iloc[0]
        assert row["verdict"] == "flagged" and "without an exact control" in row["detail"]

    def test_a_network_is_compared_with_frozen_before_capped(self):
        panel = self.make(controls=("capped", "frozen"), networks=["seed1"], frozen=(0.1, 0.1, 0.1, 0.1))
        rows = pick(estimates(panel, "departure"), arm="twin:seed1", outcome="inpainted")
        np.testing.assert_allclose(rows["did"], [0, *np.subtract((0.1, 0.1, 0.1, 0.1), self.HELD)], atol=1e-12)

    @pytest.mark.slow
    def test_chance_is_flagged_rarely(self):
        """No effect at any dose; what fills the holes of each latent varies by latent, arm and dose."""
        panel = self.make(25)
        edited = panel["arm"].values[panel["edit"].values].tolist()
        hole = panel["inside"].isel(segmenter=0).sel(target="window", arm="reference", object="window").values
        rng, flagged = np.random.default_rng(0), 0
        for _ in range(24):
            taken = np.floor(hole[:, None] * rng.random((len(hole), len(edited)))).astype(np.int32)
            panel["inside"].loc[{"arm": edited}] = 0
            panel["inside"].loc[{"arm": edited, "object": "painting"}] = taken[None, :, None]
            panel["inside"].loc[{"arm": edited, "object": "window"}] = (hole[:, None] - taken)[None, :, None]
            flagged += check(panel, "dose")["verdict"].item() != "ok"
        assert flagged <= 1


class TestSites:
    SITES = ("layer5.norm", "layer6.norm", "output.norm")
    PARTS = MappingProxyType(dict(zip(SITES, (0.30, 0.05, -0.10), strict=True)))

    def make(self, value, sites=SITES, noise=0.0, latents=60):
        """All coalitions; `value(live)` is the share that becomes painting with a set of sites live."""

        def plan(arm):
            return {"painting": value(frozenset(sites) - set(arm.sites(sites)))}

        options = {"controls": ["capped"], "holds": ["all"], "coalitions": True, "sites": sites}
        return make_panel(latents, ["window"], plan=plan, noise=noise, **options)

    def additive(self, live):
        """Every site adds what it adds, whichever others are live."""
        return 0.6 - sum(part for site, part in self.PARTS.items() if site not in live)

    def test_effects_that_add_up_are_the_shares(self):
        rows = pick(estimates(self.make(self.additive), "share"), outcome="removed")
        assert list(rows["site"]) == list(self.SITES)
        np.testing.assert_allclose(rows["did"], list(self.PARTS.values()), atol=1e-12)
        np.testing.assert_allclose(rows["tau_live"] - rows["tau_held"], 0.25, atol=1e-12)

    def test_an_interaction_is_split_equally_and_a_site_without_a_part_has_none(self):
        panel = self.make(lambda live: 0.6 - 0.40 * (not {"layer5.norm", "output.norm"} <= live))
        rows = pick(estimates(panel, "share"), outcome="removed").set_index("site")
        np.testing.assert_allclose(rows["did"], [0.20, 0.0, 0.20], atol=1e-12)
        assert rows.loc["layer6.norm", ["did", "se", "ci_low", "ci_high"]].eq(0).all()

    def test_a_share_is_the_mean_over_all_orders(self):
        """Against the definition, with errors of the same combination of latents."""
        panel = self.make(lambda live: 0.6 - 0.1 * (3 - len(live)), noise=0.1)
        inside = panel["inside"].isel(segmenter=0).sel(target="window")
        hole = inside.sel(arm="live").sum("object").values

        def value(live):
            held = "+".join(site for site in self.SITES if site not in live)
            arm = {"": "live", "+".join(self.SITES): "capped:all"}.get(held, f"capped:{held}")
            return hole - inside.sel(arm=arm, object="window").values

        rows = pick(estimates(panel, "share"), outcome="removed").set_index("site")
        added = {site: np.zeros(len(hole)) for site in self.SITES}
        for order in permutations(self.SITES):
            for place, site in enumerate(order):
                added[site] += (value(order[: place + 1]) - value(order[:place])) / 6
        for site, parts in added.items():
            influence = (parts - parts.sum() / hole.sum() * hole) / hole.sum()
            m = (hole > 0).sum()
            assert rows.loc[site, "did"] == pytest.approx(parts.sum() / hole.sum())
            assert rows.loc[site, "se"] == pytest.approx(np.sqrt((influence**2).sum() * m / (m - 1)))

    def test_the_shares_sum_to_the_effect_of_holding_all(self):
        panel = self.make(lambda live: 0.6 - 0.05 * (3 - len(live)) ** 2, noise=0.2)
        effects = did(panel, **FAST)
        row = pick(effects.checks, check="shapley_efficiency").iloc[0]
        assert row["verdict"] == "ok" and row["value"] < 1e-12
        summed = whole(pick(effects.frame, contrast="share")).groupby("outcome")["did"].sum()
        study = whole(effects.main).set_index("outcome")["did"]
        np.testing.assert_allclose(summed, study[summed.index], atol=1e-12)

    def test_random_orders_add_their_own_error(self):
        """A site that acts only alone with another: orders differ, latents do not, so that all of the error is of the orders."""
        sites = tuple(f"layer{i}.norm" for i in range(9))
        panel = self.make(lambda live: 0.6 - 0.4 * (not {"layer0.norm", "layer1.norm"} <= live), sites, latents=10)
        panel.attrs["orders"] = 16
        met, weights = sampled_weights(9, 16, 0)
        each = weights @ np.array([float({0, 1} <= live) * 0.4 for live in met])
        rows = pick(estimates(panel, "share"), outcome="removed")
        np.testing.assert_allclose(rows["did"], each.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(rows["se"], each.std(axis=0, ddof=1) / 4, atol=1e-12)
        assert rows["did"].sum() == pytest.approx(0.4)

    def test_a_coalition_that_was_not_measured_is_named(self):
        panel = self.make(self.additive)
        lacking = panel.sel(arm=[name for name in panel["arm"].values if name != "capped:layer5.norm+output.norm"])
        with pytest.raises(ValueError, match=r"no arm 'capped:layer5\.norm\+output\.norm'"):
            did(lacking, **FAST)


class TestRandomUnits:
    DRAWS = 39

    def make(self, effects, own=0.3, noise=0.02, latents=40, energy=1.0):
        """The target's own units cause `own` of in-painting by painting, each set of random units one of `effects`."""

        def plan(arm):
            live = (0.3 + effects[arm.draw - 1]) if arm.draw else 0.1 + own
            return {"painting": live if arm.held == "none" else 0.3 if arm.draw else 0.1}

        panel = make_panel(
            latents, ["window"], controls=["capped"], holds=["all"], draws=len(effects), plan=plan, noise=noise
        )
        panel["energy"][1:] = energy
        return panel

    def spread(self, largest):
        return np.linspace(-largest, largest, self.DRAWS)

    def test_each_draw_has_what_was_planted_and_draw_0_is_the_study_on_the_same_latents(self):
        panel = self.make([0.1, -0.2, 0.0], noise=0, latents=100)
        frame = did(panel, **FAST).frame
        rows = pick(frame, contrast="placebo", outcome="inpainted")
        assert list(rows["draw"]) == [0, 1, 2, 3] and (rows["object"] == TOGETHER).all()
        np.testing.assert_allclose(rows["did"], [0.3, 0.1, -0.2, 0.0], atol=0.005)  # of whole pixels
        noisy = self.make([0.0], noise=0.2, latents=100)
        few = estimates(noisy.isel(latent=slice(64)), "did")
        own = pick(estimates(noisy, "placebo"), draw=0)
        keys = ["outcome", "object"]
        both = own.merge(few, on=keys, suffixes=("", "_did"))
        assert len(both) == 2
        for column in ("did", "se", "ci_low", "n"):
            np.testing.assert_allclose(both[column], both[f"{column}_did"])

    def test_an_effect_beyond_those_of_random_units_passes(self):
        rows = check(self.make(self.spread(0.1)), "placebo_units")
        assert len(rows) == 2 and (rows["verdict"] == "ok").all()
        np.testing.assert_allclose(rows["value"], 1 / (1 + self.DRAWS))

    def test_an_effect_that_random_units_have_too_is_flagged(self):
        rows = check(self.make(self.spread(0.5)), "placebo_units")
        assert (rows["verdict"] == "flagged").all() and rows["detail"].str.contains("random units do as much").all()
        beyond = int((np.abs(self.spread(0.5)) >= 0.3).sum())
        np.testing.assert_allclose(rows["value"], (1 + beyond) / (1 + self.DRAWS), atol=2.1 / (1 + self.DRAWS))

    def test_no_effect_needs_no_random_units_to_doubt_it(self):
        rows = check(self.make(self.spread(0.5), own=0.0, noise=0.2), "placebo_units")
        assert (rows["verdict"] == "ok").all() and (rows["value"] > 0.05).all()

    @pytest.mark.parametrize("energy", [0.5, 1.11, np.nan])
    def test_random_units_of_another_energy_are_flagged(self, energy):
        panel = self.make(self.spread(0.1), energy=energy)
        rows = check(panel, "placebo_units")
        assert (rows["verdict"] == "flagged").all() and rows["detail"].str.contains("miss the energy").all()
        panel["energy"][1 : self.DRAWS // 2 + 2] = 0.95
        assert (check(panel, "placebo_units")["verdict"] == "ok").all()

    def test_too_few_random_units_cannot_show_anything(self):
        rows = check(self.make([0.0] * 5), "placebo_units")
        assert (rows["verdict"] == "flagged").all() and rows["detail"].str.contains("too few").all()
        np.testing.assert_allclose(rows["value"], 1 / 6)

    def test_sets_that_do_as_much_count_whatever_rounding_says(self):
        """The same pixels over the same hole, summed in another order."""
        assert permuted(pd.DataFrame({"draw": [0, 1, 2], "did": [0.1 + 0.2, 0.3, 0.1]}))[2] == 2 / 3


class TestSegmenters:
    def verdicts(self, second, latents=60, noise=0.1):
        panel = make_panel(latents, noise=noise, second=second)
        return check(panel, "second_segmenter").set_index(["target", "arm"])

    def test_the_same_counts_twice_differ_by_nothing(self):
        panel = make_panel(60, noise=0.1, second=PLAN)
        for name in ("pixels", "inside"):
            panel[name][1] = panel[name][0]
        effects = did(panel, **FAST)
        apart, again = (pick(effects.frame, contrast=name) for name in ("difference", "second"))
        assert (apart[["did", "se"]] == 0).all(axis=None)
        np.testing.assert_array_equal(apart["tau_live"], apart["tau_held"])
        assert set(again["segmenter"]) == {"another"} and not {"wall", "unknown"} & set(again["object"])
        rows = pick(effects.checks, check="second_segmenter")
        assert len(rows) == 8 and (rows["verdict"] == "ok").all() and (rows["value"] == 0).all()
        keys = ["target", "object", "outcome", "arm"]
        both = again.merge(effects.main, on=keys, suffixes=("", "_did"))
        for column in ("did", "se", "ci_low", "p_t"):
            np.testing.assert_allclose(both[column], both[f"{column}_did"], rtol=1e-9, atol=1e-13)

    def test_a_segmenter_that_misses_a_fifth_confirms(self):
        rows = self.verdicts({arm: {k: 0.8 * v for k, v in shares.items()} for arm, shares in PLAN.items()})
        assert (rows["verdict"] == "ok").all()

    def test_a_segmenter_that_sees_the_opposite_or_nothing_is_flagged(self):
        rows = self.verdicts({"live": PLAN["all"], "first": PLAN["all"], "all": PLAN["live"]})
        row = rows.loc[("window", "capped:all")]
        assert row["verdict"] == "flagged" and row["value"] > row["bound"] > 3 and "not confirmed" in row["detail"]
        rows = self.verdicts(dict.fromkeys(("live", "first", "all"), PLAN["live"]))
        assert rows.loc[("lamp", "frozen:all"), "verdict"] == "flagged"

    def test_only_what_both_know_is_compared_on_the_latents_that_both_saw(self):
        panel = make_panel(200, targets=("window", "rug"), noise=0.1, second=PLAN)
        panel["known"][1] = ~np.isin(panel["object"].values, ["rug", "plant"])
        for name in ("pixels", "inside"):
            panel[name].loc[{"object": ["rug", "plant"]}][1, :128] = 0
        frame = did(panel, **FAST).frame
        second = pick(frame, contrast="second")
        assert set(second["target"]) == {"window"} and not {"rug", "plant"} & set(second["object"])
        assert (pick(frame, contrast="difference", outcome="removed")["n"] < 128).all()

    def test_a_target_that_the_second_segmenter_never_sees_is_flagged(self):
        panel = make_panel(40, second=PLAN)
        for name in ("pixels", "inside"):
            panel[name].loc[{"segmenter": "another", "object": "lamp"}] = 0
        rows = check(panel, "second_segmenter").set_index(["target", "arm"])
        assert rows.loc[("lamp", "capped:all"), "verdict"] == "flagged"
        assert rows.loc[("window", "capped:all"), "verdict"] == "ok"


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


class TestConfusions:
    KEYS = ("target", "object", "outcome", "arm")

    def test_planted_shares_are_recovered_exactly_from_what_a_confused_segmenter_names(self):
        true = make_panel(60, noise=0.05)
        true = true.assign({name: 20 * true[name] for name in ("pixels", "inside")}).assign_attrs(
            image_pixels=20 * 4096
        )
        counts = {
            name: np.rint(true[name].values @ CONFUSION.to_numpy()).astype(np.int32) for name in ("pixels", "inside")
        }
        named = true.assign({name: (true[name].dims, values) for name, values in counts.items()})
        wanted = did(true, **FAST).main.set_index(list(self.KEYS))
        found = estimates(named, "corrected", confusion=CONFUSION).set_index(list(self.KEYS))
        wanted = wanted.loc[found.index]
        np.testing.assert_allclose(found["did"], wanted["did"], atol=1e-9)
        plain = did(named, **FAST).main.set_index(list(self.KEYS)).loc[found.index]
        assert (plain["did"] - wanted["did"]).abs().max() > 0.02  # the confusion mattered
        # Intervals are those of the true counts where enough latents carry them for the normal limit.
        carried = wanted["did"].abs() > 0.01
        assert carried.sum() >= 8
        np.testing.assert_allclose(found.loc[carried, ["ci_low"]], wanted.loc[carried, ["ci_low"]], atol=1e-8)

    def test_without_confusion_nothing_is_corrected(self):
        effects = did(make_panel(40, noise=0.05), confusion=PERFECT, **FAST)
        found = pick(effects.frame, contrast="corrected").set_index(list(self.KEYS))
        np.testing.assert_allclose(
            found["did"], effects.main.set_index(list(self.KEYS)).loc[found.index, "did"], atol=1e-9
        )

    @given(st.integers(2, 6), st.floats(0.6, 1.0), st.integers(0, 2**32 - 1))
    def test_undoing_keeps_the_number_of_pixels_and_bounds_their_errors(self, classes, recall, seed):
        rng = np.random.default_rng(seed)
        others = rng.dirichlet(np.ones(classes), classes) * (1 - np.eye(classes)) + 1e-9 * (1 - np.eye(classes))
        shares = recall * np.eye(classes) + (1 - recall) * others / others.sum(1, keepdims=True)
        inverse, condition = invert(pd.DataFrame(shares))
        named = rng.normal(size=(classes, 20))
        np.testing.assert_allclose((inverse @ named).sum(0), named.sum(0), atol=1e-9)
        grown = np.abs(inverse @ named).sum(0) / np.abs(named).sum(0)
        assert grown.max() <= 1 / (2 * recall - 1) * (1 + 1e-9)
        assert condition >= 1 - 1e-9

    def test_classes_that_are_one_to_the_segmenter_cannot_be_told_apart_afterwards(self):
        blind = CONFUSION.copy()
        blind.loc["window"] = blind.loc["wall"]
        assert invert(blind)[1] > CONDITION
        assert estimates(make_panel(40), "corrected", confusion=blind).empty
        row = check(make_panel(40), "ground_truth", confusion=blind).iloc[0]
        assert row["verdict"] == "flagged" and "window" in row["detail"] and "no correction" in row["detail"]

    def test_a_confusion_of_other_classes_is_refused(self):
        with pytest.raises(ValueError, match="the confusion is of sky, sea, the panel of wall"):
            did(make_panel(4), confusion=pd.DataFrame(np.eye(2), ["sky", "sea"], ["sky", "sea"]), **FAST)
        with pytest.raises(ValueError, match="same classes as rows and columns"):
            invert(CONFUSION[list(reversed(CLASSES))])

    def test_ground_truth_is_that_of_the_worst_object(self):
        for confusion, value, verdict in ((PERFECT, 1.0, "ok"), (CONFUSION, 0.75, "flagged")):
            row = check(make_panel(4), "ground_truth", confusion=confusion).iloc[0]
            assert row[["value", "verdict"]].tolist() == [value, verdict]
        # What fills any hole, and what is unknown, are no objects.
        poor = PERFECT.copy()
        poor.loc["unknown"] = poor.loc["floor"] = 1 / len(CLASSES)
        assert check(make_panel(4), "ground_truth", confusion=poor)["verdict"].item() == "ok"


class TestViolations:
    def make(self, **areas):
        """The unedited image of `mean` with each named class covering so many times what it does in the network's own."""
        options = {"controls": ["frozen", "mean"], "holds": ["all"], "doses": [0.1]}
        panel = make_panel(60, noise=0.05, **options)
        for name, times in areas.items():
            own = {"arm": "mean:all/unedited", "object": name}
            more = (panel["pixels"].loc[own] * (times - 1)).round().astype(np.int32)
            panel["pixels"].loc[own] += more
            panel["pixels"].loc[own | {"object": "wall"}] -= more
        return panel

    def test_the_gap_is_that_of_the_unedited_images(self):
        panel = self.make(window=0.9, lamp=0.5, chair=1.2)
        frame = did(panel, **FAST).frame
        assert set(pick(frame, contrast="gap")["arm"]) == {"mean:all"}
        usual = panel["pixels"].isel(segmenter=0, target=0).sel(arm="reference").mean("latent") / 4096
        expected = {
            ("window", "removed"): 0.1,  # of the target's pixels, as the effect is
            ("lamp", "removed"): 0.5,
            # The other objects: fewer lamps, more chairs.
            ("window", "inpainted"): abs(0.5 * usual.sel(object="lamp") - 0.2 * usual.sel(object="chair")),
        }
        for (target, outcome), gap in expected.items():
            about = {"target": target, "outcome": outcome, "arm": "mean:all"}
            wide, narrow = (whole(pick(frame, contrast=name, **about)).iloc[0] for name in ("gap", "did"))
            assert wide["did"] == narrow["did"]
            assert narrow["ci_low"] - wide["ci_low"] == pytest.approx(float(gap), abs=4e-3)  # of whole pixels
            seen = wide["ci_high"] - narrow["ci_high"]
            touching = np.sign(narrow["did"]) * wide["breakdown"] * seen
            end = narrow["ci_low"] if narrow["did"] > 0 else narrow["ci_high"]
            # At the breakdown value the robust interval just touches zero.
            assert (
                wide["breakdown"] == 0 if narrow["ci_low"] <= 0 <= narrow["ci_high"] else end == pytest.approx(touching)
            )

    def test_a_violation_that_grows_as_at_the_lowest_dose_is_ten_times_that_of_a_tenth(self):
        frame = did(self.make(), **FAST).frame
        seen = pick(frame, contrast="departure", dose=0.1).set_index(["target", "outcome"])["did"].abs() * 10
        narrow, wide = (
            whole(pick(frame, contrast=name, arm="mean:all")).set_index(["target", "outcome"])
            for name in ("did", "trend")
        )
        np.testing.assert_allclose(narrow["ci_low"] - wide["ci_low"], seen[narrow.index])
        np.testing.assert_allclose(wide["ci_high"] - narrow["ci_high"], seen[narrow.index])

    def test_regimes_that_show_as_much_of_the_target_pass_and_others_do_not(self):
        rows = check(self.make(window=0.9, lamp=0.5), "baseline_area").set_index("target")
        assert rows.loc["window", "verdict"] == "ok" and rows.loc["window", "value"] == pytest.approx(0.9, abs=0.01)
        assert rows.loc["lamp", ["verdict", "bound", "arm"]].tolist() == ["flagged", 0.7, "mean:all"]
        row = check(self.make(window=2.0), "baseline_area").set_index("target").loc["window"]
        assert row["verdict"] == "flagged" and row["bound"] == pytest.approx(1.43, abs=0.01)


class TestNetworks:
    NAMES = ("one", "two", "three")

    def make(self, names=NAMES, **options):
        plan = {"live": {"wall": 0.4, "painting": 0.2}, "first": {}}
        plan |= {name: {"wall": 0.4, "painting": 0.05 * number} for number, name in enumerate(names)}
        return make_panel(60, controls=["capped"], holds=["first"], networks=names, plan=plan, noise=0.05, **options)

    def test_the_network_is_the_cluster(self):
        effects = did(self.make(), **FAST)
        found = pick(effects.frame, contrast="networks")
        one = pick(found, target="window")
        assert one["object"].iloc[0] == "window" and set(one["object"]) == {*CLASSES, TOGETHER}
        row = one[one["object"] == "painting"].iloc[0]
        twins = pick(effects.main, target="window", object="painting", outcome="inpainted", control="twin")["tau_held"]
        np.testing.assert_allclose(twins, [0, 0.05, 0.1], atol=0.02)
        assert row["did"] == pytest.approx(row["tau_live"] - twins.mean(), abs=2e-3)
        # The spread of the networks is far above what latents leave open of each.
        assert row["between"] == pytest.approx(np.std(twins, ddof=1), rel=0.05)
        assert row["se"] == pytest.approx(np.std(twins, ddof=1) * np.sqrt(4 / 3), rel=0.05)
        assert row["ci_held_high"] - row["tau_held"] == pytest.approx(4.302653 * row["se_held"], rel=1e-6)
        assert row["ci_high"] - row["did"] == pytest.approx(12.7062 * row["se"], rel=1e-5)
        assert row["detectable"] == pytest.approx((12.7062 + stats.t.ppf(0.8, 1)) * row["se"], rel=1e-5)
        assert row["n"] == 4

    def test_distilled_networks_and_their_placebos_are_two_samples(self):
        painted = {
            "placebo-1": 0.3,
            "placebo-2": 0.32,
            "placebo-3": 0.34,
            "distilled-1": 0.1,
            "distilled-2": 0.2,
            "distilled-3": 0.15,
        }
        plan = {"live": {"painting": 0.3}, "first": {}} | {name: {"painting": share} for name, share in painted.items()}
        options = {"controls": ["capped"], "holds": ["first"], "networks": [*painted], "size": 128}
        found = pick(estimates(make_panel(60, ["window"], plan=plan, **options), "networks"), object="painting").iloc[0]
        one, other = list(painted.values())[:3], list(painted.values())[3:]
        # Images of networks whose planted shares do not vary over latents: all that is left open is networks.
        ends = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
        expected = {"did": 0.17, "tau_live": 0.32, "tau_held": 0.15, "ci_low": ends.low, "ci_high": ends.high, "n": 6}
        expected["between"] = np.hypot(0.02, 0.05)
        expected["next_low"] = 0.17 - 12.7062 * np.sqrt((0.02**2 + 0.05**2) * 4 / 3)
        assert found[[*expected]].to_dict() == pytest.approx(expected, abs=4e-3)

    def test_one_twin_has_no_interval_and_none_no_row(self):
        found = estimates(self.make(["all"]), "networks")
        assert found[["se", "ci_low", "ci_high"]].isna().all(axis=None) and found["did"].notna().all()
        assert estimates(self.make([]), "networks").empty

    def test_of_a_target_that_no_image_shows_nothing_is_said(self):
        found = estimates(self.make(absent=["lamp"]), "networks")
        numbers = found[["tau_live", "tau_held", "did", "se"]].isna().groupby(found["target"]).agg(["all", "any"])
        assert numbers.loc["lamp"].all() and not numbers.loc["window"].any()
