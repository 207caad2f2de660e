"""Numbers and names as the page writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gandid.verdicts import interval, never_differed

LONGEST = 60  # letters of a name for files: file systems take some 250, with what stands before and behind


def number(value: float, digits: int = 1) -> str:
    """A number with a true minus sign, and no minus zero."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """A difference, with its sign."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(text) else text


def digits(low: float, high: float) -> int:
    """How many digits after the point an interval supports: the first digit of its half width, two if that is a 1; at most two."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return 1
    first = -math.floor(math.log10(half))
    return min(max(first + (half * 10**first < 2), 0), 2)


def percent(share: float) -> str:
    """A share in percent; one that is not all is not rounded to all, nor one that is not nothing to nothing."""
    if math.isnan(share):
        return "–"
    value = 100 * share
    if 0 < value < 0.05:
        return "under 0.1\u00a0%"
    if 99.95 <= value < 100 - 1e-9:
        return "over 99.9\u00a0%"
    return f"{number(value, 0 if value in (0, 100) else 1)}\u00a0%"


def points(row: Mapping[Any, Any]) -> str:
    """A difference in percentage points with its interval: ``−3.3 [−4.1, −2.6]``; or why it has none."""
    if math.isnan(row["did"]):
        return "–"
    if never_differed(row):
        return f"0 in all {row['n']:,.0f} images"
    value, (low, high) = 100 * row["did"], (100 * end for end in ends(row))
    places = digits(low, high)
    if not math.isfinite(high - low):
        return f"{signed(value, 2)}, too few images"
    return f"{signed(value, places)} {span(low, high)}"


def span(low: float, high: float) -> str:
    """An interval with as many digits as it supports: ``[−4.1, −2.6]``."""
    places = digits(low, high)
    return f"[{number(low, places)}, {number(high, places)}]"


def ends(row: Mapping[Any, Any]) -> tuple[float, float]:
    """The ends of an interval as they are drawn: infinite where an effect rests on one or two images."""
    return interval(row) if math.isfinite(row["ci_high"] - row["ci_low"]) else (-math.inf, math.inf)


def size(row: Mapping[Any, Any]) -> str:
    """The size of a difference in percent of the object's pixels, without its sign."""
    low, high = interval(row)
    return f"{number(abs(100 * row['did']), digits(100 * low, 100 * high))}\u00a0%"


def type_of(row: Mapping[Any, Any]) -> tuple[str, float]:
    """The type of a target in a row of ``types.csv``, as the paper names it, and its probability."""
    name = str(row["type"])
    return f"{name} entangled" if name.startswith("type") else name, row[f"p_{re.sub('[- ]', '_', name)}"]


def listed(names: Iterable[str]) -> str:
    """Names in a sentence: ``a, b and c``."""
    *most, final = names
    return f"{', '.join(most)} and {final}" if most else final


def count(how_many: int, noun: str) -> str:
    """A number of things."""
    return f"{how_many:,} {noun}{'' if how_many == 1 else 's'}"


def article(name: str) -> str:
    """A name with its indefinite article."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A name for files and anchors per target, unique even where classes differ in signs alone."""
    found: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower())[:LONGEST].strip("-") or "target"
        slug, place = base, 2
        while slug in found.values():
            slug, place = f"{base}-{place}", place + 1
        found[name] = slug
    return found
