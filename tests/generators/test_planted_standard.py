"""The planted standard does what is written of it: latent by latent, and on average."""

import pytest
import torch

import gandid
from gandid.generators.planted import planted, weak
from gandid.generators.storage import save_generator
from gandid.interventions import REFERENCE, Arm, Runner, ablate
from gandid.segmenters.planted import careful, careless
from gandid.truth import BEYOND, CLASSES, EDITED, OBJECTS, PLAN, shares

N = 500
FIRST, BOTH = ("layer2.norm",), ("layer2.norm", "layer3.norm")


@pytest.fixture(scope="module")
def z():
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(0))


REGIMES = {
    "live": {},
    **{
        f"{c} {len(held)}": {"control": c, "held": held} for c in ("capped", "frozen", "mean") for held in (FIRST, BOTH)
    },
    "second frozen": {"control": "frozen", "held": ("layer3.norm",)},
    "partly held": {"control": "capped", "held": BOTH, "strength": 0.2},
    "partly ablated": {"dose": 0.6},
    "partly both": {"control": "frozen", "held": FIRST, "strength": 0.5, "dose": 0.6},
}


@pytest.fixture(scope="module")
def images(z):
    """Of each target: arm -> (n, 3, 8, 8); its unedited image under `mean` is called `unedited`."""
    runner, found = Runner(planted(), "layer1"), {}
    runner.calibrate([torch.randn(4096, 3, generator=torch.Generator().manual_seed(1))])
    for target in OBJECTS.values():
        arms = {"reference": REFERENCE}
        for name, how in REGIMES.items():
            held = dict.fromkeys(how.get("held", ()), how.get("control"))
            edit = ablate((EDITED.index(target),), alpha=how.get("dose", 1.0))
            arms[name] = Arm(edit, held, how.get("strength", 1.0))
            if how.get("control") == "mean":
                arms[f"{name} unedited"] = Arm(None, held)
        found[target] = dict(zip(arms, runner.run(z, list(arms.values())), strict=True))
    return found


def place(target):
    """The pixels of a target, (8, 8) bool."""
    initial = next(key for key, name in OBJECTS.items() if name == target)
    cells = torch.tensor([[cell == initial for cell in line] for line in PLAN])
    return cells.repeat_interleave(2, 0).repeat_interleave(2, 1)


def truth(target, called, **how):
    """The truth of ablating a target's own unit."""
    return shares(target, (EDITED.index(target),), called, **how)


def share(labels, target, name):
    """Of the target's pixels, the share that has a label, in each latent: (n,)."""
    return (labels[:, place(target)] == CLASSES.index(name)).float().mean(dim=1)


def test_it_is_a_generator_like_any_other(tmp_path, z):
    again = gandid.load_generator(save_generator(planted(), tmp_path / "planted.safetensors"))
    torch.testing.assert_close(again(z[:8]), planted()(z[:8]))
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


def test_what_is_planted_is_what_the_documents_say():
    """The table of docs/planted.md; what is not in it is wall."""
    said = {"rug": {"rug": 0.25}, "painting": {"window": 0.4}, "chair": {"mirror": 0.3}}
    for target in OBJECTS.values():
        for called in ("planted", "planted-careful"):
            named = {} if (target, called) == ("chair", "planted-careful") else said.get(target, {})
            for how in REGIMES.values():
                if "dose" in how or how.get("control") == "mean" or "strength" in how:
                    continue
                glow = (
                    {"lamp": 1.0}
                    if target == "plant" and "layer3.norm" in how.get("held", ()) and how["control"] == "frozen"
                    else {}
                )
                expected = glow if how else named
                found = {
                    name: share for name, share in truth(target, called, **how).items() if share and name != "wall"
                }
                assert found == pytest.approx(expected), (target, called, how)


def test_the_network_does_what_its_truth_says(images):
    """Every class, regime, dose and strength, under both segmenters: shares of pixels over latents."""
    for called, segmenter in {"planted": careless, "planted-careful": careful}.items():
        for target, arms in images.items():
            for arm, how in REGIMES.items():
                before = arms.get(f"{arm} unedited", arms["reference"])
                hole = segmenter(before) == CLASSES.index(target)
                labels, known = segmenter(arms[arm]), truth(target, called, **how)
                for name, share_of in known.items():
                    found = ((labels == CLASSES.index(name)) & hole).sum().item() / max(hole.sum().item(), 1)
                    error = 4 * (share_of * (1 - share_of) / N) ** 0.5
                    assert abs(found - share_of) <= error + 0.003, (called, target, name, arm, found, share_of)


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


@pytest.fixture(scope="module")
def panel():
    study = gandid.Study(gandid.load_generator("planted"), gandid.load_segmenter("planted"))
    options = {"control": ["capped", "frozen", "mean"], "sites": "shapley", "dose": (0.6,), "placebos": 1}
    return study.run(["rug", "painting", "chair", "plant"], latents=64, ranking_latents=16, **options)


@pytest.fixture(scope="module")
def effects(panel):
    return gandid.did(panel, flips=9, resamples=2)


class TestAStudyOfIt:
    """`gandid run --generator planted`: what is estimated is what is planted."""

    def test_it_finds_the_units(self, panel):
        chosen = panel["units"].values[0, 0]
        assert [list(units[units >= 0]) for units in chosen] == [[EDITED.index(t)] for t in panel["target"].values]

    def test_every_interval_holds_its_truth(self, effects):
        rows = effects.checks.query("check == 'truth'")
        assert {-0.25, 0.4, 0.3, -1.0, -0.125, 0.2} <= set(rows["bound"].round(9))  # the last two are sites' shares
        assert (rows["verdict"] == "ok").all()
        for words in ("dose 0.6", "layer3.norm", "planted-careful"):
            assert rows["detail"].str.contains(words).any(), words
        assert {"capped:first", "frozen:all", "mean:all", "capped:all@k0.25"} <= set(rows["arm"])

    def test_an_estimate_that_is_wrong_is_told(self, panel):
        wrong = panel.sel(target=["rug"]).copy(deep=True)
        names = list(panel["arm"].values)
        wrong["inside"][{"arm": names.index("live")}] = wrong["inside"].isel(arm=names.index("capped:first"))
        rows = gandid.did(wrong, flips=9, resamples=2).checks.query("check == 'truth' and arm == 'capped:first'")
        own = ~rows["detail"].str.contains("dose")
        assert own.any() and (rows.loc[own, "verdict"] == "flagged").all()

    def test_other_networks_are_not_judged(self, panel):
        other = panel.sel(target=["rug"]).assign_attrs(generator="rooms")
        assert "truth" not in set(gandid.did(other, flips=9, resamples=2).checks["check"])
