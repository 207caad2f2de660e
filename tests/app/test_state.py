"""The page's address holds the whole state, and survives whatever stands in it."""

from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gandid.app.state import State, decode_region, encode_region, read_query
from gandid.panel.arms import EXACT_CONTROLS

regions = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays(bool, size))
states = st.builds(
    State,
    generator=st.text("abc-0123456789", max_size=12),
    seed=st.integers(0, 2**31 - 1),
    number=st.integers(0, 2**31 - 1),
    layer=st.sampled_from(["", "layer4", "net.0"]),
    target=st.sampled_from(["", "rug", "chest of drawers", "a&b=c"]),
    units=st.none() | st.lists(st.integers(0, 511), min_size=1, max_size=64, unique=True).map(tuple),
    count=st.integers(1, 64),
    alpha=st.floats(0, 1),
    control=st.sampled_from(EXACT_CONTROLS),
    hold=st.sampled_from(["first", "all"]),
    mode=st.sampled_from(["ablate", "insert"]),
    region=st.just("") | regions.map(encode_region),
)


@given(states)
def test_a_link_leads_back_to_the_state_that_made_it(state: State) -> None:
    assert read_query(dict(parse_qsl(state.query()))) == state


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
    assert read_query(dict(parse_qsl(state.query()))) == replace(state)


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
