"""Numbers and names as the report writes them."""

import math
import re
from collections.abc import Iterable

import pandas as pd


def number(share: float) -> str:
    """A share in percent with one digit, with a true minus and no minus zero."""
    if pd.isna(share):
        return "–"
    if math.isinf(share):
        return "∞" if share > 0 else "−∞"
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def signed(share: float) -> str:
    """A difference of shares in points, with its sign."""
    text = number(share)
    return text if text.startswith("−") or text in ("0.0", "–") else f"+{text}"


def percent(share: float) -> str:
    """A share in percent, with its unit."""
    return f"{number(share)} %"


def plain(value: float) -> str:
    """A ratio or a correlation with two digits."""
    return "–" if pd.isna(value) else f"{value:.2f}".replace("-", "−")


def small(q: float) -> str:
    """A q-value."""
    return "–" if pd.isna(q) else "<0.001" if q < 0.001 else f"{q:.3f}"


def typeset(text: str) -> str:
    """Typeset a sentence: true minus signs, and no line break within a quantity."""
    text = re.sub(r"(?<![\w\]])-(?=\d)", "−", text)
    return re.sub(r" (?=%)|(?<=\b[pqα]) (?=[<=])|(?<=[<=]) (?=\d)", "\u00a0", text)


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A name for files and anchors per target, unique even where classes differ in signs alone."""
    found: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "target"
        slug, count = base, 2
        while slug in found.values():
            slug, count = f"{base}-{count}", count + 1
        found[name] = slug
    return found
