"""Charts as SVG, drawn once each: the same drawing serves the page, a phone and a file.

A drawing is as wide as a phone, its text is text, and its colours are variables of the page's style, which has light and dark values;
as a file it brings the light ones along. Colours are Okabe and Ito's, and every arm has a mark of its own, so that print and any eye
tell them apart. What is out of range is hollow and dashed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup
from scipy.optimize import isotonic_regression

from gandid.estimation.plot import STYLES
from gandid.text import number

LIGHT = {
    **{"ink": "#1c1e22", "muted": "#565d67", "rule": "#d8dbe0", "paper": "#fbfaf7", "card": "#ffffff"},
    **{"live": "#c75300", "band": "#e9edf2"},
    **{f"arm{place}": colour for place, (colour, _) in enumerate(STYLES, 1)},
}
DARK = {
    **{"ink": "#eceef1", "muted": "#a8b0bb", "rule": "#3a4049", "paper": "#15171a", "card": "#1e2125"},
    **{"live": "#ff9a4d", "arm1": "#35c796", "arm2": "#5eb3ee", "arm3": "#c3a0ec", "arm4": "#dcb94a"},
    **{"arm5": "#a9b4c4", "arm6": "#ea94c4", "band": "#2a2f36"},
}
STYLE = (
    ".chart text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:var(--ink)}"
    ".chart .small{font-size:11px}.chart .muted{fill:var(--muted)}.chart .bold{font-weight:650}.chart .title{font-size:14px;font-weight:650}"
)
# Units of the drawing, which are pixels on a phone: its width, of labels left of a plot, of numbers right of it, of a line of marks.
WIDTH, LABELS, NUMBERS, LINE = 400, 122, 132, 17
MARKS = (
    "M-4 0L0-4L4 0L0 4z",
    "M-3.4-3.4h6.8v6.8h-6.8z",
    "M0-4.2L4 3H-4z",
    "M0 4.2L4-3H-4z",
    "M-4-1.3h2.7v-2.7h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7z",
    "M-4-2.2L-2.2-4 0-1.8 2.2-4 4-2.2 1.8 0 4 2.2 2.2 4 0 1.8-2.2 4-4 2.2-1.8 0z",
)
CIRCLE = "M-3.7 0a3.7 3.7 0 1 0 7.4 0a3.7 3.7 0 1 0-7.4 0z"
DASHES = "3 2.5"


@dataclass
class Chart:
    """A drawing under construction."""

    title: str
    alt: str
    height: float = 0.0
    parts: list[Markup] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Write the title, in as many lines as it takes."""
        for text in textwrap.wrap(self.title, 48):
            self.height += 17
            self.text(0, self.height, text, "title")
        self.height += 8

    def text(self, x: float, y: float, content: object, style: str = "", anchor: str = "start") -> None:
        """Write a text with its baseline at (x, y)."""
        self.parts.append(
            Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
                _n(x), _n(y), style, anchor, content
            )
        )

    def path(
        self, data: str, colour: str, width: float = 1.2, dashed: bool = False, place: tuple[float, float] = (0, 0)
    ) -> None:
        """Draw a line."""
        self._draw(data, place, f"fill:none;stroke:var(--{colour});stroke-width:{width}", dashed)

    def area(self, data: str, colour: str, opacity: float = 1.0) -> None:
        """Fill an area."""
        self._draw(data, (0, 0), f"fill:var(--{colour});fill-opacity:{opacity}", False)

    def mark(self, x: float, y: float, colour: str, hollow: bool = False) -> None:
        """Draw the mark of an arm."""
        fill = "card" if hollow else colour
        self._draw(shape(colour), (x, y), f"fill:var(--{fill});stroke:var(--{colour});stroke-width:1.4", False)

    def svg(self) -> Markup:
        """The drawing as an element of the page."""
        head = Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">'
        )
        return head.format(self.alt, WIDTH, _n(self.height)) + Markup("").join(self.parts) + Markup("</svg>")

    def write(self, path: Path) -> None:
        """Write the drawing as a file, in its light colours on white."""
        values = ";".join(f"--{name}:{value}" for name, value in LIGHT.items())
        style = Markup(f'<style>svg{{{values}}}{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>')
        head, rest = self.svg().split(">", 1)
        path.write_text(f"{head}>{style}{rest}\n", encoding="utf-8")

    def _draw(self, data: str, place: tuple[float, float], style: str, dashed: bool) -> None:
        move = f' transform="translate({_n(place[0])} {_n(place[1])})"' if any(place) else ""
        dashes = f";stroke-dasharray:{DASHES}" if dashed else ""
        self.parts.append(Markup(f'<path d="{data}" style="{style}{dashes}"{move}/>'))


@dataclass(frozen=True)
class Line:
    """A line of a forest plot: an estimate and its interval, in percentage points."""

    label: str
    value: float
    low: float
    high: float
    text: str
    colour: str
    hollow: bool = False
    dots: Sequence[float] = ()
    """What the estimate is to be seen among: those of random units."""


def forest(
    title: str, alt: str, groups: Sequence[tuple[str, Sequence[Line]]], axis: str, relevant: float = 0.0
) -> Chart:
    """Estimates around 0, in groups of lines; a band marks what is too small to matter, in points.

    The scale is that of what is in range; what lies beyond it is an arrow at its edge.
    """
    chart = Chart(title, alt)
    lines = [line for _, group in groups for line in group]
    scaled = [line for line in lines if not line.hollow] or lines
    values = [value for line in scaled for value in (line.value, line.low, line.high, *line.dots)]
    scale = Scale(*_span(values, relevant), LABELS, WIDTH - NUMBERS)
    top = chart.height
    bottom = top + sum(LINE * (len(group) + bool(name)) + 4 for name, group in groups)
    band = scale(-relevant), scale(relevant)
    if relevant:
        chart.area(f"M{_n(band[0])} {top}H{_n(band[1])}V{bottom}H{_n(band[0])}z", "band")
    for tick in scale.ticks():
        chart.path(f"M{_n(scale(tick))} {top}V{bottom}", "rule", 1.4 if tick == 0 else 0.6)
        chart.text(scale(tick), bottom + 14, number(tick, scale.digits), "small muted", "middle")
    chart.path(f"M{_n(scale(0))} {top}V{bottom}", "muted", 1)
    y = top
    for name, group in groups:
        if name:
            y += LINE
            chart.text(0, y - 4, _short(name, 42), "bold")
        for line in group:
            y += LINE
            _estimate(chart, line, scale, y - LINE / 2)
        y += 4
    chart.text((scale.left + scale.right) / 2, bottom + 29, axis, "small muted", "middle")
    chart.height = bottom + 36
    return chart


@dataclass(frozen=True)
class Curve:
    """Live minus held of an arm against the dose or the strength, in percentage points, with a band."""

    label: str
    at: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    colour: str
    sound: Sequence[bool]
    """Which points are in range."""

    @property
    def within(self) -> int:
        """Up to which point the curve is in range."""
        return [*self.sound, False].index(False)


def curves(title: str, alt: str, panels: Sequence[tuple[str, Sequence[Curve]]], axis: str, relevant: float) -> Chart:
    """Differences against a share, a panel per outcome, one below the other; a band marks what is too small to matter."""
    chart = Chart(title, alt)
    for name, found in panels:
        sound = [curve for curve in found if curve.within > 1]
        ends = [side[: curve.within] for curve in sound for side in (curve.value, curve.low, curve.high)]
        ends = ends or [curve.value for curve in found]
        chart.text(0, chart.height + 12, name, "bold")
        top, bottom = chart.height + 20, chart.height + 150
        across = Scale(0, 1, 34, WIDTH - NUMBERS - 26)
        up = Scale(*_span(np.concatenate(ends), relevant), bottom, top)
        chart.area(f"M34 {_n(up(-relevant))}H{across.right}V{_n(up(relevant))}H34z", "band")
        for tick in up.ticks():
            chart.path(f"M{across.left} {_n(up(tick))}H{across.right}", *(("muted", 1) if tick == 0 else ("rule", 0.6)))
            chart.text(across.left - 5, up(tick) + 4, number(tick, up.digits), "small muted", "end")
        for share, text in ((0, "0"), (0.5, "½"), (1, "1")):
            chart.text(across(share), bottom + 14, text, "small muted", "middle")
        wanted = np.array([up(curve.value[-1]) for curve in found])
        for curve, at, y in zip(found, wanted, apart(wanted, 14, top - 6, bottom + 6), strict=True):
            _curve(chart, curve, across, up)
            hollow = not curve.sound[-1]
            chart.path(f"M{_n(across(curve.at[-1]))} {_n(at)}L{across.right + 12} {_n(y)}", curve.colour, 0.8, hollow)
            chart.mark(across.right + 15, y, curve.colour, hollow)
            beyond = {-1: " ↓", 1: " ↑"}.get(int(curve.value[-1] > up.high) - int(curve.value[-1] < up.low), "")
            style = "small muted" if hollow else "small"
            chart.text(across.right + 23, y + 4, _short(curve.label, 21) + beyond, style)
        chart.height = bottom + 22
    chart.text((34 + WIDTH - NUMBERS - 26) / 2, chart.height + 6, axis, "small muted", "middle")
    chart.height += 14
    return chart


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on a line from `left` to `right`, beyond which nothing is drawn."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / max(self.high - self.low, 1e-12)
        return self.left + share * (self.right - self.left)

    @property
    def step(self) -> float:
        """A round distance at which three to five values fit."""
        rough = max(self.high - self.low, 1e-9) / 4
        power = 10 ** math.floor(math.log10(rough))
        return power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)

    @property
    def digits(self) -> int:
        """Digits after the point that the ticks need."""
        return max(0, *(len(f"{self.step * factor:.6f}".rstrip("0").split(".")[1]) for factor in (1, 3)))

    def ticks(self) -> list[float]:
        """Round values within the scale, 0 among them if it is."""
        step = self.step * (1 if (self.high - self.low) / self.step <= 5 else 2)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


def shape(colour: str) -> str:
    """The mark that goes with a colour, as the data of a path around (0, 0)."""
    return MARKS[(int(colour[3:]) - 1) % len(MARKS)] if colour.startswith("arm") else CIRCLE


def apart(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """The places nearest to those wanted that keep `gap` from each other, in the same order, between `low` and `high`."""
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    free = isotonic_regression(wanted[order] - steps).x
    result = np.empty(len(wanted))
    result[order] = np.clip(free, low, max(low, high - steps[-1])) + steps
    return result


def _estimate(chart: Chart, line: Line, scale: Scale, y: float) -> None:
    chart.text(0, y + 4, _short(line.label, 21), "small muted" if line.hollow else "small")
    chart.text(WIDTH, y + 4, line.text, "small muted" if line.hollow else "small", "end")
    if math.isnan(line.value):
        return
    # Golden ratios spread neighbouring dots over the height, the same in every run.
    dots = "".join(
        f"M{_n(scale(dot) - 1.4)} {_n(y + (place * 0.618034 % 1 - 0.5) * 11)}h2.8"
        for place, dot in enumerate(line.dots)
    )
    if dots:
        chart.path(dots, "muted", 2.4)
    if not scale.low <= line.value <= scale.high:
        left = line.value < scale.low
        data = "M0 0l7-4v8z" if left else "M0 0l-7-4v8z"
        chart.path(data, line.colour, 1.2, place=(scale.left if left else scale.right, y))
        return
    ends = [
        scale(end) if math.isfinite(end) else edge for end, edge in ((line.low, scale.left), (line.high, scale.right))
    ]
    chart.path(f"M{_n(ends[0])} {_n(y)}H{_n(ends[1])}", line.colour, 1.8, line.hollow)
    chart.mark(scale(line.value), y, line.colour, line.hollow)


def _curve(chart: Chart, curve: Curve, across: Scale, up: Scale) -> None:
    within = curve.within

    def points(values: Iterable[float]) -> list[str]:
        return [f"{_n(across(share))} {_n(up(value))}" for share, value in zip(curve.at, values, strict=True)]

    # Where one or two latents carry an effect its interval has no end.
    low, high = np.nan_to_num(curve.low, nan=0, neginf=-1e9), np.nan_to_num(curve.high, nan=0, posinf=1e9)
    chart.area(f"M{'L'.join(points(low)[:within] + points(high)[:within][::-1])}z", curve.colour, 0.15)
    chart.path(f"M{'L'.join(points(curve.value)[:within])}", curve.colour, 1.8)
    if within < len(curve.at):
        chart.path(f"M{'L'.join(points(curve.value)[within - 1 :])}", curve.colour, 1.8, True)


def _span(values: Iterable[float], relevant: float) -> tuple[float, float]:
    """A scale around 0 for values in points: wide enough for all, and for the band of what is too small to matter."""
    ends = [0.0, -1.6 * relevant, 1.6 * relevant, *(float(value) for value in values if math.isfinite(value))]
    pad = 0.05 * max(max(ends) - min(ends), 0.1)
    return min(ends) - pad, max(ends) + pad


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
