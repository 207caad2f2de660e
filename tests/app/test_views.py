"""The page computes what the library computes: the same images, the same effects."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from planted import PlantedGenerator, PlantedSegmenter

from gandid import Study, did, load_generator, load_segmenter
from gandid.app import around, views
from gandid.app.models import Model, Ranked, Rankings
from gandid.app.state import LATENTS, STRIP, State, encode_region
from gandid.app.stream import STEP, tallies
from gandid.errors import UsageError
from gandid.interventions import REFERENCE, Arm, ablate, hold
from gandid.ranking import top_units
from gandid.segmenters import FunctionSegmenter
from gandid.verdicts import SOLID

if TYPE_CHECKING:
    from gandid.app.page import Page

STATE = State(layer="layer8", target="rug", number=10, count=6)


def region(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[rows, columns] = True
    return mask


def test_the_three_arms_are_those_of_a_runner(model: Model, ranked: Ranked) -> None:
    state = views.settle(replace(STATE, hold="all", alpha=0.5), model)
    view = views.look(state, model, ranked)
    units = top_units(ranked.relation, "rug", 6)
    runner = model.runner("layer8")
    change = ablate(units, alpha=0.5)
    arms = [REFERENCE, Arm(change), Arm(change, hold("capped", "all", runner.downstream))]
    images = runner.run(model.latents(0, [10]), arms)[:, 0]
    expected = images.add(1).mul(127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    assert np.abs(view.images.astype(int) - expected.astype(int)).max() <= 1
    assert view.shares(13)[0, model.segmenter.classes.index("rug")] == 1  # all of the rug's original pixels are rug
    assert view.gain.min() >= 1 - 1e-5  # THEORY: an ablation amplifies the survivors at the first site, never less


def test_nothing_is_edited_at_dose_zero(model: Model, ranked: Ranked) -> None:
    view = views.look(views.settle(replace(STATE, alpha=0.0), model), model, ranked)
    assert (view.images == view.images[:1]).all()
    assert not views.difference(view).any()


def test_an_edit_of_a_region_leaves_what_is_far_away(model: Model, ranked: Ranked) -> None:
    mask = region(slice(24, 32), slice(None))
    state = views.settle(replace(STATE, layer="layer8", region=encode_region(mask)), model)
    view = views.look(state, model, ranked)
    changed = (view.images[1] != view.images[0]).any(axis=-1)
    # Two more convolutions of 3 x 3 at 32 px and two at 64 px reach at most 2 * 2 + 2 + 2 pixels further.
    assert changed[48:].any()
    assert not changed[: 48 - 8 - 2].any()


def test_insertion_is_measured_where_it_is_made(model: Model, ranked: Ranked) -> None:
    state = views.settle(replace(STATE, mode="insert", number=0, count=16), model)
    assert state.region  # an insertion everywhere would be no insertion: it begins in the middle
    view = views.look(state, model, ranked)
    assert view.measured.sum() == 32 * 32
    assert view.shares(13).sum(axis=1) == pytest.approx(1)


def test_the_levels_of_an_insertion_are_conditional_means(model: Model) -> None:
    runner, z = model.runner("layer8"), model.latents(0, range(model.glance), "ranking")
    labels = model.segmenter(model.generator(z))
    area = [float((labels == k).float().mean()) for k in range(13)]
    present = [
        (share, model.levels("layer8", name))
        for share, name in zip(area, model.segmenter.classes, strict=True)
        if share
    ]
    total = sum(share * levels for share, levels in present)
    # The law of total expectation: weighted by the classes' areas they are the units' means.
    assert total.numpy() == pytest.approx(runner.activations(z).mean(dim=(0, 2, 3)).numpy(), rel=1e-3, abs=1e-3)


def test_without_a_ranking_the_image_is_shown_alone(model: Model) -> None:
    view = views.look(views.settle(STATE, model), model, Ranked())
    assert len(view.images) == 1
    assert not view.edited


def test_settling_replaces_what_a_model_does_not_have(model: Model) -> None:
    state = views.settle(
        State(layer="nowhere", target="submarine", units=(5, 3, 9999), count=10_000, region="2x2:f0"), model
    )
    assert (state.layer, state.target, state.units, state.count) == ("layer8", "window", (5, 3), 2)
    assert state.region == encode_region(np.ones((32, 32), bool))
    assert views.settle(state, model) == state


def test_the_opening_shows_an_object_on_which_normalization_acts(model: Model, ranked: Ranked) -> None:
    state = views.opening(model, ranked)
    view = views.look(state, model, ranked)
    k = model.segmenter.classes.index(state.target)
    assert view.measured.mean() >= views.SIZABLE
    assert view.shares(13)[1, k] != view.shares(13)[2, k]


def test_the_next_image_has_the_object(model: Model) -> None:
    state = views.settle(STATE, model)
    labels = model.segmenter(model.generator(model.latents(0, range(40))))
    share = (labels == model.segmenter.classes.index("rug")).float().mean(dim=(1, 2))
    shown = [number for number in range(40) if share[number] >= views.SIZABLE]
    assert views.neighbour(state, model, 1) == min(number for number in shown if number > state.number)
    assert views.neighbour(replace(state, number=30), model, -1) == max(n for n in shown if n < 30)
    assert views.neighbour(replace(state, number=0), model, -1) == 0


def test_a_later_start_has_the_ranking_and_the_opening_at_once(planted: Model, planted_page: "Page") -> None:
    opening = planted_page.opening(60)
    known = planted.rankings.wait("paint", 128, timeout=60)
    cache = planted.rankings.stem.parent
    later = Model(PlantedGenerator(), PlantedSegmenter(), cache, "paint")
    found = later.rankings.get("paint")
    assert found.latents == 128
    assert found.relation["ace"].equals(known.relation["ace"])
    assert type(planted_page)(later, planted_page.runs, "cpu")._opening == opening is not None
    other = Model(PlantedGenerator(0.05), PlantedSegmenter(), cache, "paint")  # another network has nothing of it
    assert other.rankings.get("paint").relation is None
    for each in (later, other):
        each.rankings.close()


@pytest.mark.slow
def test_the_numbers_that_stream_in_end_as_those_of_a_study(planted: Model) -> None:
    state = views.settle(State(target="a", hold="all"), planted)
    got = list(tallies(planted, replace(state, units=(0,))))
    assert [tally.latents for tally in got] == list(range(STEP, LATENTS + 1, STEP))
    panel = Study(PlantedGenerator(), PlantedSegmenter(), "paint").run(
        {"a": [0]}, control="capped", hold="all", latents=LATENTS
    )
    frame = did(panel).main.set_index(["outcome", "object"])
    rows = got[-1].rows.set_index(["outcome", "object"])
    for key, one in rows.iterrows():
        expected = frame.loc[key]
        for column in ("tau_live", "tau_held", "did", "ci_low", "ci_high"):
            assert one[column] == pytest.approx(expected[column])
        assert one["solid"] == (expected["verdict"] in SOLID)
    shares = dict(rows["did"])
    assert set(shares) == {("removed", "a"), ("inpainted", "b"), ("inpainted", "wall")}
    positive = float((planted.latents(0, range(LATENTS)) > 0).float().mean())
    assert shares["inpainted", "b"] == pytest.approx(positive)  # in closed form, see `planted`
    assert got[-1].images == LATENTS
    seen = [
        each
        for page in range(0, LATENTS, STRIP)
        for each in list(around.strip(planted, replace(state, units=(0,), number=page)))[-1]
    ]
    gaps = np.array([each.live - each.held for each in seen[:LATENTS]])
    number, gap = got[-1].strongest
    assert abs(gap) == np.nanmax(np.abs(gaps)) and gap == gaps[number]


@pytest.mark.slow
def test_an_insertion_is_counted_in_its_region(planted: Model) -> None:
    state = views.settle(State(target="a", mode="insert", region=encode_region(np.ones((8, 8), bool))), planted)
    last = list(tallies(planted, replace(state, units=(0,))))[-1]
    assert set(last.rows["outcome"]) == {"inserted", "displaced"}
    found = last.rows.set_index("object")["tau_live"]
    assert (found["a"], found["wall"]) == pytest.approx((0.5, 0.5))  # the right half, which was wall, is `a` too


def test_the_edits_of_an_image_have_no_order(planted: Model) -> None:
    everywhere = encode_region(np.ones((8, 8), bool))
    inserted = State(target="a", units=(0,), mode="insert", region=everywhere)
    for one, other in (
        (State(target="a", units=(0,), alpha=0.7), State(target="b", units=(0, 1), alpha=0.4)),
        (State(target="a", units=(0,), alpha=0.7), State(target="b", units=(1,), region=encode_region(np.eye(8) > 0))),
        (inserted, State(target="b", units=(0, 1))),
    ):
        seen = [
            views.look(views.settle(hand.beside([also]), planted), planted, Ranked())
            for hand, also in ((one, other), (other, one))
        ]
        assert (seen[0].images == seen[1].images).all()
        assert np.array_equal(seen[0].shares(4, 1), seen[1].shares(4, 0), equal_nan=True)
    # What is inserted for one object is not ablated for another; and of this one nothing is left then.
    both = views.settle(State(target="b", units=(0,)).beside([inserted]), planted)
    with pytest.raises(UsageError, match="All of these b units"):
        views.look(both, planted, Ranked())


def test_what_lies_around_is_what_is_seen_there(planted: Model) -> None:
    state = views.settle(State(target="a", units=(0,), number=14, alpha=0.5, hold="all"), planted)

    def seen(there: State) -> tuple[float, float]:
        _, live, held = 1 - views.look(there, planted, Ranked()).shares(4)[:, 1]
        return float(live), float(held)

    *_, strip = around.strip(planted, state)
    assert [one.turn["number"] for one in strip] == list(range(12, 24))
    *_, doses = around.doses(planted, state)
    assert {(one.live, one.held) for one in doses if one.turn["alpha"] == 0} == {(0, 0)}
    *_, [layer] = around.layers(planted, state)
    for one in (strip[3], strip[2], *doses, layer):
        assert (one.live, one.held) == pytest.approx(seen(replace(state, **one.turn)))
    assert (strip[2].image == views.look(state, planted, Ranked()).images[0]).all()
    never = views.settle(State(target="never", units=(0,)), planted)
    assert all(np.isnan(one.live) for one in next(around.strip(planted, never)))


def test_layers_that_nobody_asked_for_are_ranked_when_there_is_time(planted: Model, tmp_path: Path) -> None:
    rankings = Rankings(PlantedGenerator(), PlantedSegmenter(), tmp_path / "x", lambda: None, 64, ("paint", "norm"))
    ranked = rankings.wait("norm", 128, timeout=60)
    assert ranked.finished and rankings.known("paint").latents in (0, 4, 16)
    with rankings._changed:
        assert rankings._changed.wait_for(lambda: rankings.known("paint").latents == 16, 60)
    rankings.close()


def test_any_network_has_the_layers_that_can_be_edited(tmp_path: Path) -> None:
    """The example of an own generator names no layers; its segmenter comes with it."""
    own = str(Path(__file__).parents[2] / "examples" / "your_gan.py")
    model = Model(load_generator(f"{own}:make"), load_segmenter(f"{own}:colours"), tmp_path)
    assert "net.0" in model.layers
    assert model.default_layer in model.layers
    state = views.settle(State(), model)
    view = views.look(state, model, model.rankings.wait(state.layer, 4, timeout=120))
    assert view.edited
    model.rankings.close()


def test_a_segmenter_of_background_alone_is_refused(model: Model, tmp_path: Path) -> None:
    segmenter = FunctionSegmenter(
        lambda images: (images.mean(1) > 0).long(), ["dark", "bright"], background=["dark", "bright"]
    )
    with pytest.raises(UsageError, match="sees no objects"):
        Model(model.for_numbers, segmenter, tmp_path)
