"""The planted standard does what is written of it: latent by latent, and on average."""

import numpy as np
import pytest
import torch

import gandid
from gandid.generators.planted import planted, weak
from gandid.generators.storage import read_generator, save_generator
from gandid.interventions import REFERENCE, Arm, Runner, ablate
from gandid.segmenters.planted import careful, careless
from gandid.truth import BEYOND, CLASSES, EDITED, OBJECTS, PLAN, truths, vanishing_doses

N = 500
FIRST, BOTH = ("layer2.norm",), ("layer2.norm", "layer3.norm")


@pytest.fixture(scope="module")
def z():
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def images(z):
    """Of each target: arm -> (n, 3, 8, 8)."""
    runner, found = Runner(planted(), "layer1"), {}
    for target in OBJECTS.values():
        edit = ablate((EDITED.index(target),))
        arms = {
            "reference": REFERENCE,
            "live": Arm(edit),
            **{f"first {c}": Arm(edit, dict.fromkeys(FIRST, c)) for c in ("capped", "frozen")},
            **{f"both {c}": Arm(edit, dict.fromkeys(BOTH, c)) for c in ("capped", "frozen")},
            **{f"second {c}": Arm(edit, {"layer3.norm": c}) for c in ("capped", "frozen")},
        }
        found[target] = dict(zip(arms, runner.run(z, list(arms.values())), strict=True))
    return found


def place(target):
    """The pixels of a target, (8, 8) bool."""
    initial = next(key for key, name in OBJECTS.items() if name == target)
    cells = torch.tensor([[cell == initial for cell in line] for line in PLAN])
    return cells.repeat_interleave(2, 0).repeat_interleave(2, 1)


def share(labels, target, name):
    """Of the target's pixels, the share that has a label, in each latent: (n,)."""
    return (labels[:, place(target)] == CLASSES.index(name)).float().mean(dim=1)


def test_it_is_a_generator_like_any_other(tmp_path, z):
    again = read_generator(save_generator(planted(), tmp_path / "planted.safetensors"))
    assert torch.equal(again(z[:8]), planted()(z[:8]))
    assert again.sites == ("layer1.norm", *BOTH)


def test_the_unedited_scene_is_the_plan(images):
    names = {**OBJECTS, ".": "wall"}
    plan = torch.tensor([[CLASSES.index(names[cell]) for cell in line] for line in PLAN])
    for segmenter in (careless, careful):
        labels = segmenter(images["rug"]["reference"])
        assert (labels == plan.repeat_interleave(2, 0).repeat_interleave(2, 1)).all()


def test_weak_units_are_uniform(z):
    for level in weak(z).values():
        assert (level.sort().values - torch.linspace(0, 1, N)).abs().max() < 1.63 / N**0.5  # Kolmogorov, at 1 %


def test_every_latent_does_what_its_weak_units_say(z, images):
    levels = weak(z)
    for target, name, unit in (
        ("rug", "rug", "weak rug"),
        ("painting", "window", "window"),
        ("chair", "mirror", "stain"),
    ):
        sure = (levels[unit] - BEYOND[unit]).abs() > 1e-5
        drawn = share(careless(images[target]["live"]), target, name)
        assert torch.equal(drawn[sure], (levels[unit] > BEYOND[unit])[sure].float())


def test_every_pair_and_outcome_is_what_is_planted(images):
    """All that is not in the list is 0, in every regime, under both segmenters."""
    for called, segmenter in {"planted": careless, "planted-careful": careful}.items():
        listed = {(t.target, t.object, t.outcome): t for t in truths() if t.segmenter in (None, called)}
        for target, arms in images.items():
            labels = {arm: segmenter(image) for arm, image in arms.items()}
            for name in OBJECTS.values():
                outcome = "removed" if name == target else "inpainted"
                truth = listed.get((target, name, outcome))
                found = {arm: share(labels[arm], target, name).mean().item() for arm in arms}
                if outcome == "removed":
                    found = {arm: 1 - value for arm, value in found.items()}
                for arm, value in found.items():
                    if arm == "reference" or truth is None:
                        expected = 0.0
                    elif arm == "live":
                        expected = truth.live
                    else:
                        sites, control = arm.split()
                        expected = truth.first if sites == "first" else getattr(truth, sites)[control]
                    error = 4 * (expected * (1 - expected) / N) ** 0.5
                    assert abs(value - expected) <= error, (called, target, name, arm, value)


def test_nothing_changes_elsewhere(images):
    for target, arms in images.items():
        elsewhere = ~place(target)
        for arm in arms.values():
            assert torch.equal(careful(arm)[:, elsewhere], careful(arms["reference"])[:, elsewhere])


def test_the_gain_has_its_closed_form(z):
    runner, level = Runner(planted(), "layer1"), weak(z[:50])["weak rug"]
    _, readings = runner.read(z[:50], [REFERENCE, Arm(ablate((EDITED.index("rug"),)))])
    measured = readings.gain("layer2.norm", 1)[:, 3, 1]
    assert torch.allclose(measured, ((5 + level**2) / (1 + level**2)).sqrt(), rtol=1e-5)


def test_shapley_shares():
    shares = {(t.target, t.outcome): t.shapley("frozen") for t in truths()}
    assert shares["rug", "removed"] == pytest.approx((-0.125, -0.125))  # each site lets half of it through
    assert shares["painting", "inpainted"] == pytest.approx((0.2, 0.2))
    assert shares["plant", "inpainted"] == (0, -1)  # the artefact is the second site's
    assert shares["lamp", "removed"] == (0, 0)


@pytest.mark.parametrize("name", ["lamp", "mirror", "window"])
def test_an_object_vanishes_at_its_dose(name, z):
    runner, doses = Runner(planted(), "layer1"), vanishing_doses(name)
    held = {"live": (), "first": FIRST, "both": BOTH}
    assert doses["live"] > doses["first"] > doses["both"] > 0.2
    arms = [REFERENCE]
    for regime, dose in doses.items():
        for alpha in (dose - 0.005, dose + 0.005):
            edit = ablate((EDITED.index(name),), alpha=alpha)
            arms.append(Arm(edit, dict.fromkeys(held[regime], "frozen")))
    there = [share(careless(image), name, name).mean().item() for image in runner.run(z[:20], arms)]
    assert there == [1, 1, 0, 1, 0, 1, 0]


@pytest.fixture(scope="module")
def panel():
    study = gandid.Study(gandid.load_generator("planted"), gandid.load_segmenter("planted"))
    return study.run(latents=64, control=["capped", "frozen"], sites="shapley")


class TestAStudyOfIt:
    """`gandid run --generator planted`: what is estimated is what is planted."""

    def test_it_finds_the_units(self, panel):
        chosen = panel["units"].values[0, 0]
        assert [list(units[units >= 0]) for units in chosen] == [[EDITED.index(t)] for t in panel["target"].values]

    def test_every_interval_holds_its_truth(self, panel):
        rows = gandid.did(panel).checks.query("check == 'truth'")
        assert set(rows["target"]) == {"rug", "painting", "chair", "plant"}
        assert {-0.25, 0.4, 0.3, -1.0} <= set(rows["bound"].round(9))
        assert (rows["verdict"] == "ok").all()

    def test_an_estimate_that_is_wrong_is_told(self, panel):
        wrong = panel.copy(deep=True)
        rug = list(panel["target"].values).index("rug")
        names = list(panel["arm"].values)
        wrong["inside"][{"target": rug, "arm": names.index("live")}] = panel["inside"].isel(
            target=rug, arm=names.index("capped:first")
        )
        rows = gandid.did(wrong).checks.query("check == 'truth' and target == 'rug'")
        assert (rows["verdict"] == "flagged").all()

    def test_shapley_shares_are_the_planted_ones(self, panel):
        effects = gandid.did(panel).to_frame().query("contrast == 'share' and object in @OBJECTS.values()")
        known = {(t.target, t.object, t.outcome): t.shapley("capped") for t in truths()}
        for row in effects[effects["outcome"].isin(["removed", "inpainted"])].itertuples():
            both = known.get((row.target, row.object, row.outcome), (0.0, 0.0))
            truth = both[row.site == "layer3.norm"]
            if np.isfinite(row.did):
                assert abs(row.did - truth) <= max(3 * row.se, 1e-9), row

    def test_other_studies_of_it_are_not_judged(self):
        study = gandid.Study(gandid.load_generator("planted"), gandid.load_segmenter("planted"))
        found = gandid.did(study.run(["rug"], latents=16, alpha=0.5)).checks
        assert "truth" not in set(found["check"])
