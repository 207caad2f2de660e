"""The page's address holds the whole state, and survives whatever stands in it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gandid.app.state import EDITED, State, decode_region, encode_region, read_query
from gandid.panel.table import EXACT_CONTROLS

regions = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays(bool, size))
edits: dict[str, st.SearchStrategy[Any]] = dict(
    target=st.sampled_from(["rug", "chest of drawers", "a&b=c;d"]),
    units=st.none() | st.lists(st.integers(0, 511), min_size=1, max_size=64, unique=True).map(tuple),
    count=st.integers(1, 64),
    alpha=st.floats(0, 1),
    mode=st.sampled_from(["ablate", "insert"]),
    region=st.just("") | regions.map(encode_region),
)
states = st.builds(
    State,
    generator=st.text("abc-0123456789", max_size=12),
    seed=st.integers(0, 2**31 - 1),
    number=st.integers(0, 2**31 - 1),
    layer=st.sampled_from(["", "layer4", "net.0"]),
    control=st.sampled_from(EXACT_CONTROLS),
    hold=st.sampled_from(["first", "all"]),
    **edits,
)


@given(states)
def test_a_link_leads_back_to_the_state_that_made_it(state: State) -> None:
    assert read_query(state.query()) == state


@given(states, st.builds(State, **edits), st.builds(State, **edits))
def test_the_edits_of_an_image_are_in_its_link(state: State, one: State, other: State) -> None:
    together = read_query(state.beside([one, other]).query())
    hand, *others = together.edits()
    assert hand == state
    for found, asked in zip(others, (one, other), strict=True):
        assert {name: getattr(found, name) for name in EDITED} == {name: getattr(asked, name) for name in EDITED}
        assert (found.layer, found.number, found.hold) == (state.layer, state.number, state.hold)


def test_a_move_forgets_what_is_of_another_object_or_mode() -> None:
    state = State(target="rug", units=(1, 2), region="2x2:60", mode="insert", layer="layer4")
    assert state.moved(alpha=0.5) == replace(state, alpha=0.5)
    for news in ({"target": "lamp"}, {"layer": "layer5"}, {"count": 3}):
        assert state.moved(**news) == replace(state, units=None, **news)
    assert state.moved(mode="ablate") == replace(state, mode="ablate", region="")
    assert state.moved(units=(5,), target="lamp").units == (5,)
    lamp = State(target="lamp", units=(7,), alpha=0.5)
    together = state.beside([lamp])
    taken = together.moved(target="lamp")  # it is edited already
    assert (taken.target, taken.units, taken.alpha, taken.mode) == ("lamp", (7,), 0.5, "ablate")
    assert taken.moved(target="rug") == together
    assert [each.units for each in together.moved(layer="layer5").edits()] == [None, None]


@given(regions)
def test_a_region_survives_its_text(mask: np.ndarray) -> None:
    assert (decode_region(encode_region(mask)) == mask).all()
    twice = decode_region(encode_region(mask), (2 * mask.shape[0], 2 * mask.shape[1]))
    assert (twice == mask.repeat(2, axis=0).repeat(2, axis=1)).all()


@given(st.dictionaries(st.sampled_from([f.name for f in State.__dataclass_fields__.values()]), st.text(max_size=60)))
def test_garbage_in_an_address_is_as_if_it_were_not_there(query: dict[str, str]) -> None:
    state = read_query(query)
    assert 0 <= state.alpha <= 1
    assert state.count >= 1
    assert state.control in EXACT_CONTROLS
    assert read_query(state.query()) == replace(state)


@pytest.mark.parametrize(
    "query",
    [
        {"alpha": "nan"},
        {"alpha": "2"},
        {"number": "-1"},
        {"number": "9" * 30},
        {"units": "3,17"},
        {"units": "1." * 9000},
        {"hold": "<script>"},
        {"region": "8x8:zz"},
        {"region": "999x999:00"},
        {"region": "8x8:00"},
        {"unknown": "1"},
    ],
)
def test_what_makes_no_sense_is_left_out(query: dict[str, str]) -> None:
    assert read_query(query) == State()
