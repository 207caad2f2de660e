import numpy as np
import pytest
from panels import make_panel

import gandid
from gandid import outcomes
from gandid.did.combinations import combine, numerators, shown, signed_z
from gandid.did.totals import TOGETHER, objects_inpainted

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def panel():
    return make_panel(60, noise=0.2, controls=["capped", "mean"], unedited=True)


def test_live_less_held_is_the_did_of_estimate_in_every_outcome(panel):
    frame = gandid.did.estimate(panel, flips=1, resamples=0).to_frame()
    for (target, outcome, arm), rows in frame.groupby(["target", "outcome", "arm"]):
        found = numerators(panel, target, outcome)
        weights = np.eye(5)[0] - np.eye(5)[1 + list(frame["arm"].unique()).index(arm)]
        did = combine(found.numerator, found.denominator, weights)
        single = found.objects != TOGETHER
        assert list(found.objects[single]) == list(rows["object"])
        for column, of in {
            "did": did.value,
            "se": did.se,
            "ci_low": did.low,
            "ci_high": did.high,
            "p_t": did.p,
        }.items():
            np.testing.assert_allclose(of[0, single], rows[column], rtol=1e-9, atol=1e-13, err_msg=column)


def test_all_objects_together_are_what_the_totals_are(panel):
    totals = objects_inpainted(panel).set_index(["target", "arm"])
    for target in ("window", "lamp"):
        found = numerators(panel, target, "inpainted")
        assert found.objects[-1] == TOGETHER and found.kind[-1] == "together"
        did = combine(found.numerator, found.denominator, [1, 0, -1, 0, 0])
        for column, of in {"did": did.value, "se": did.se, "ci_low": did.low, "ci_high": did.high}.items():
            assert of[0, -1] == pytest.approx(totals.loc[(target, "capped:all"), column])


def test_arms_that_cancel_leave_nothing_not_even_rounding(panel):
    """A third, a sixth and a half of one arm against the whole of it: certain, whatever floating point makes of it."""
    found = numerators(panel, "window", "inpainted")
    copies = found.numerator[:, [1, 1, 1, 1]], found.denominator[:, [1, 1, 1, 1]]
    nothing = combine(*copies, [1 / 3, 1 / 6, 1 / 2, -1])
    assert (nothing.value == 0).all() and (nothing.se == 0).all() and (nothing.p == 1).all()
    assert (signed_z(nothing) == 0).all()


def test_a_difference_of_differences_is_paired_by_latent():
    """An effect that is the same in every latent has no error, though each of its parts varies over latents."""
    rng = np.random.default_rng(0)
    live, held = rng.integers(0, 50, (2, 30, 1))
    numerator = np.stack([live, held, live + 7, held + 3], axis=1)
    found = combine(numerator, np.ones((30, 4)), [[1, -1, 0, 0], [-1, 1, 1, -1]])
    assert found.value[1, 0] == pytest.approx(4) and found.se[1, 0] == 0
    assert found.se[0, 0] > 1


def test_an_arm_that_never_shows_the_target_says_nothing():
    found = combine(np.ones((5, 2, 1)), np.array([[1, 0]] * 5), [1, -1])
    assert np.isnan([found.value, found.se, found.low]).all()
    assert combine(np.ones((5, 2, 1)), np.array([[1, 0]] * 5), [1, 0]).value == 1


def test_a_few_carriers_make_a_wide_interval():
    numerator = np.zeros((200, 2, 1))
    numerator[:5, 0, 0] = 1, 2, 1, 3, 1
    found = combine(numerator, np.ones((200, 2)), [1, -1])
    assert (found.high - found.value)[0, 0] / found.se[0, 0] == pytest.approx(2.776, abs=1e-3)  # t, 4 degrees


def test_images_that_show_the_target_are_counted_from_its_presence_on():
    panel = make_panel(80, absent=["lamp"])
    least = panel.attrs["presence"] * panel.attrs["image_pixels"]
    assert shown(panel, "lamp") == 0
    window = panel["pixels"].sel(target="window", arm="reference", object="window").values
    assert shown(panel, "window") == (window >= least).sum()


def test_every_outcome_has_the_classes_that_it_is_about(panel):
    for outcome in outcomes.OUTCOMES:
        found = numerators(panel, "window", outcome)
        assert found.numerator.shape == (60, 5, len(found.objects))
        assert (found.objects == "window").sum() == (outcome != "inpainted")
