"""The sentence over the pictures says what the pictures show, and no more."""

import numpy as np
import pytest

from gandid.app import words
from gandid.app.state import State
from gandid.app.views import View

CLASSES = ("wall", "rug", "chair")


def view(live: list[int], held: list[int], state: State, original: list[int] | None = None) -> View:
    """Three images of ten pixels; the first eight are rug unless told otherwise."""
    labels = np.array([original or [1] * 8 + [0] * 2, live, held])[:, None]
    measured = labels[0] == 1 if state.mode == "ablate" else np.ones((1, 10), bool)
    images = np.zeros((3, 1, 10, 3), np.uint8)
    return View(state, images, labels, np.zeros((4, 1, 1)), np.ones((1, 1)), (measured,))


def said(live: list[int], held: list[int], state: State, original: list[int] | None = None) -> str:
    return words.finding(view(live, held, state, original), CLASSES, ("rug", "chair"), 20)


RUG = State(target="rug")


@pytest.mark.parametrize(
    ("live", "held", "told"),
    [
        ([1] * 4 + [0] * 6, [0] * 10, "removes 50 % of this rug. With normalization held at the first site, 100 % goes: "
         "normalization paints 50 points of it back."),
        ([0] * 10, [1] * 2 + [0] * 8, "removes 100 % of this rug. With normalization held at the first site, only 75 % goes: "
         "normalization removes 25 points more."),
        ([1] * 4 + [0] * 6, [1] * 4 + [0] * 6, "removes 50 % of this rug. With normalization held at the first site as much goes: "
         "here normalization changes nothing of it."),
        ([2] * 8 + [0] * 2, [0] * 10, "as much goes. But normalization turns 100 points more of it into chair."),
        ([0] * 10, [2] * 4 + [0] * 6, "as much goes. But normalization turns 50 points less of it into chair."),
    ],
)  # fmt: skip
def test_an_ablation_is_told_by_its_sign(live: list[int], held: list[int], told: str) -> None:
    assert told in said(live, held, RUG)


def test_an_insertion_is_told_by_its_sign() -> None:
    state = State(target="rug", mode="insert", hold="all", alpha=0.5)
    told = said([1] * 5 + [0] * 5, [1] * 3 + [0] * 7, state, [0] * 9 + [1])
    assert told == (
        "Inserting the 20 rug units by 50 % makes 50 % of the region rug (before: 10 %). With normalization held at all sites "
        "it is 30 %: normalization adds 20 points."
    )


def test_an_insertion_that_normalization_gives_to_others_is_told() -> None:
    state = State(target="rug", mode="insert")
    told = said([1] * 5 + [2] * 3 + [0] * 2, [1] * 5 + [0] * 5, state, [0] * 10)
    assert told.endswith("it is the same. But normalization turns 30 points more of it into chair.")
    assert said([1] * 5 + [0] * 5, [1] * 5 + [0] * 5, state).endswith("here normalization has no part in it.")


def test_an_absent_object_is_told() -> None:
    assert "There is no rug in this image" in said([0] * 10, [0] * 10, RUG, [0] * 10)


def test_small_numbers_are_not_told_as_none() -> None:
    assert words.percent(0.001) == "under 1 %"
    assert words.percent(0) == "0 %"
    assert (words.points(0.01), words.points(-0.034), words.points(0.2)) == ("1 point", "3.4 points", "20 points")
