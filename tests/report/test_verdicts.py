"""A verdict is passed on a whole interval, by size."""

import math

import pandas as pd
import pytest

from gandid import verdicts
from gandid.text import digits, number, percent, points


def effect(did: float = 0.0, low: float = 0.0, high: float = 0.0, **rest) -> dict:
    return {"did": did, "ci_low": low, "ci_high": high, "n": 400, "estimable": True, "supported": True} | rest


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (effect(0.03, 0.02, 0.04), verdicts.CAUSED),
        (effect(-0.03, -0.04, -0.02), verdicts.PREVENTED),
        (effect(0.004, 0.001, 0.007), verdicts.NEGLIGIBLE),  # beyond noise, and yet too small to matter
        (effect(0.02, 0.005, 0.035), verdicts.UNSETTLED),
        (effect(0.0, -0.02, 0.02), verdicts.UNSETTLED),
        (effect(0.001, -math.inf, math.inf), verdicts.UNSETTLED),
        (effect(0.3, 0.2, 0.4, supported=False), verdicts.OUTSIDE),
        (effect(math.nan, math.nan, math.nan, estimable=False), verdicts.MISSING),
        (effect(n=400), verdicts.NEGLIGIBLE),  # never differed: below 3 of 400 images, 0.75 %
        (effect(n=200), verdicts.UNSETTLED),  # below 1.5 %
        (effect(-0.3, -0.4, -0.2, n=29), verdicts.UNSETTLED),  # hardly an image shows it
        (effect(-0.3, -0.4, -0.2, n=30), verdicts.PREVENTED),
        (effect(-0.3, -0.4, -0.2, n=6, contrast="networks"), verdicts.PREVENTED),  # six networks are six networks
    ],
)
def test_the_whole_interval_decides(row: dict, expected: str) -> None:
    assert verdicts.verdict(row) == expected
    table = verdicts.judged(pd.DataFrame([{"contrast": "did"} | row] * 2), latents=500)
    assert list(table["verdict"]) == [expected] * 2
    wanted = verdicts.settling(row, 500) if expected == verdicts.UNSETTLED else None
    assert table["settled_by"].fillna(0).tolist() == [wanted or 0] * 2


def test_what_matters_is_the_users_to_say() -> None:
    assert verdicts.verdict(effect(0.03, 0.02, 0.04), relevant=0.05) == verdicts.NEGLIGIBLE
    assert verdicts.verdict(effect(0.03, 0.02, 0.04), relevant=0.025) == verdicts.UNSETTLED


def test_the_latents_that_settle_an_effect_would() -> None:
    """With as many latents the interval, shrunk by the root, excludes the smallest effect of interest, and not with fewer."""
    row, latents = effect(0.02, 0.0, 0.04), 500
    wanted = verdicts.settling(row, latents)
    for more, settled in ((wanted, True), (0.8 * wanted, False)):
        half = 0.02 * math.sqrt(latents / more)
        again = effect(0.02, 0.02 - half * 0.999, 0.02 + half * 0.999)
        assert (verdicts.verdict(again) == verdicts.CAUSED) == settled
    assert verdicts.settling(effect(0.01, 0.0, 0.02), latents) is None
    assert verdicts.settling(effect(0.3, 0.2, 0.4, n=15), latents) == 1000  # until 30 images show it
    assert verdicts.settling(effect(0.0, -math.inf, math.inf), latents) is None


def test_no_interval_has_no_width_or_no_end() -> None:
    for row in (effect(), effect(0.001, -math.inf, math.inf), effect(0.5, -0.2, 1.2)):
        low, high = verdicts.interval(row)
        assert -1 <= low < high <= 1


def test_numbers_are_rounded_to_what_an_interval_supports() -> None:
    assert [digits(0, 2 * half) for half in (12, 4, 1.2, 0.4, 0.15, 0.004, math.inf)] == [0, 0, 1, 1, 2, 2, 1]
    assert points(effect(-0.0335, -0.0407, -0.0263)) == "−3.4 [−4.1, −2.6]"
    assert number(-0.04) == "0.0"
    assert percent(0.9999) == "over 99.9\u00a0%"
    assert percent(0.0002) == "under 0.1\u00a0%"
    assert [percent(share) for share in (0.0, 1.0)] == ["0\u00a0%", "100\u00a0%"]
    assert "400" in points(effect()) and "[" not in points(effect(0.001, -math.inf, math.inf))
