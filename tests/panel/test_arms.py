"""The arm table: names are unique, blocks come back from a panel, and no arm is asked for twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gandid.panel.coalitions import exact_weights, sampled_weights
from gandid.panel.schema import Classes, arm_table, blocks_of, empty_panel
from gandid.panel.table import (
    REFERENCE,
    SITES,
    Coordinates,
    coalition_arm,
    dose_blocks,
    extra_blocks,
    placebo_blocks,
    sites_block,
    study_block,
)

SITE = ("one", "two", "three")
HELD = [("capped", "first"), ("capped", "all"), ("mean", "one+three"), ("frozen", "all")]


def panel(blocks, dose=1.0):
    return empty_panel(
        blocks,
        targets=["a"],
        segmenters={"s": Classes(("wall", "a"), ("wall",))},
        sites=dict.fromkeys(SITE, True),
        networks=["own", "x", "y"],
        units=np.zeros((3, 1, 1, 2)),
        values=None,
        energy=np.ones((1, 1)),
        attrs={"alpha": dose},
    )


@given(
    st.lists(st.sampled_from(HELD), min_size=1, unique=True),
    st.sampled_from([0.3, 1.0]),
    st.lists(st.sampled_from([0, 0.1, 0.24, 0.3, 0.5, 0.8, 1]), unique=True),
    st.none() | st.lists(st.sampled_from([0.1, 0.5, 1.0]), unique=True).map(sorted),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_every_arm_has_a_name_of_its_own_and_comes_back_from_the_panel(held, dose, doses, strengths, draws, halvings):
    study = study_block([("capped", "all"), *held[:3]] if held[0] != ("capped", "all") else held, ["x", "y"], dose)
    asked = (doses, strengths, SITE, draws, halvings)
    blocks = [study, *extra_blocks([study], *asked)]
    made = panel(blocks, dose)
    assert extra_blocks(blocks_of(made), *asked) == []
    names = made["arm"].values.tolist()
    arms = [arm for block in blocks for arm in block.arms]
    if len(set(study.arms)) == len(study.arms):
        assert len(set(names)) == len(names)
        assert arm_table(made) == arms
        assert [block.arms for block in blocks_of(made)] == [block.arms for block in blocks]
    for arm in study.arms:
        assert arm.baseline.name(dose) in names
        assert arm.exact == (arm.baseline == REFERENCE)


def test_names_say_what_is_done():
    arm = Coordinates(dose=0.3, control="capped", held="first", strength=1.0)
    assert arm.name() == "capped:first@0.3"
    assert arm.name(0.3) == "capped:first"
    assert arm._replace(draw=7).name(0.3) == "capped:first#7"
    assert Coordinates().name() == "live"
    assert REFERENCE.name() == "reference"
    assert Coordinates(network="x").baseline.name() == "twin:x/unedited"
    assert arm._replace(control="mean").baseline.name() == "mean:first/unedited"


def test_doses_and_placebos_leave_out_what_is_there():
    study = study_block(HELD, ["x"], 0.5)
    assert [block.arms[0].dose for block in dose_blocks(study, [1, 0, 0.5, 0.2, 0.2])] == [0.2, 1.0]
    for block in placebo_blocks(study, 3):
        assert {arm.control for arm in block.arms} == {
            "none",
            "capped",
            "frozen",
        }  # those whose baseline is the reference
        assert {arm.network for arm in block.arms} == {"own"}


@pytest.mark.parametrize("count", [1, 3, 9])
def test_every_coalition_has_its_arm(count):
    sites = [f"site{i}" for i in range(count)]
    study = study_block([("mean", "all"), ("frozen", "first"), ("frozen", "all")])
    blocks = sites_block(study, sites, seed=3)
    names = [arm.name() for block in [study, *blocks] for arm in block.arms]
    live_sets, weights = exact_weights(count) if count <= 8 else sampled_weights(count, 16, 3)
    arms = {
        coalition_arm(names, "frozen", [s for i, s in enumerate(sites) if i not in live], sites) for live in live_sets
    }
    assert len(arms) == len(live_sets)
    assert {"live", "frozen:all"} <= arms
    assert sum(len(block.arms) for block in blocks) == len(arms) - 2
    assert all(block.name == SITES for block in blocks)
    # Shares sum to the whole effect whatever the game: the weights of all sites leave live less held.
    total = weights.sum(axis=-2)
    expected = np.array([(len(live) == count) - 1.0 * (len(live) == 0) for live in live_sets])
    np.testing.assert_allclose(total.reshape(-1, len(live_sets)).mean(axis=0), expected, atol=1e-12)


def test_a_coalition_that_was_not_measured_is_named():
    with pytest.raises(ValueError, match="no arm 'capped:one'"):
        coalition_arm(["live"], "capped", ["one"], SITE)


def test_shares_of_a_game_that_adds_up_are_its_parts():
    worth = np.array([1.0, -2.0, 0.5])
    live_sets, weights = exact_weights(3)
    game = np.array([sum(worth[list(live)]) for live in live_sets])
    np.testing.assert_allclose(weights @ game, worth)
