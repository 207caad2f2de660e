"""What was found: a verdict per object, and all of it in one sentence. No claim is made that the verdicts do not make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gandid.outcomes import FALLING, NAMES, PAIRS
from gandid.report import pictures
from gandid.report.run import Comparison, Examples, Row, Run
from gandid.text import article, count, digits, listed, number, percent, points, signed, size, span
from gandid.verdicts import CAUSED, MISSING, NEGLIGIBLE, OUTSIDE, PREVENTED, SOLID, UNSETTLED, interval, never_differed
from gandid.verdicts import verdict as verdict_of

# How a verdict is marked: a class of the page's style, and a sign that needs no colour.
MARKS = {
    CAUSED: ("caused", "▲"),
    PREVENTED: ("prevented", "▼"),
    NEGLIGIBLE: ("none", "="),
    UNSETTLED: ("unsettled", "?"),
    OUTSIDE: ("outside", "○"),
    MISSING: ("missing", "–"),
}
# Intervals that cover more than other latents, by their columns in effects.csv.
WIDER = {
    "ci_units": "with other units",
    "next": "in the next networks",
    "ci_paired": "whatever the pixels are that are not recognized",
}
# What normalization is compared with, by the control.
CONTROLS = {
    "capped": "normalization may not amplify beyond what it does without the edit",
    "frozen": "normalization does exactly what it does without the edit",
    "mean": "normalization is one constant, the average over images and places",
    "distilled": "networks that learned to make the same images without normalization",
    "twin": "another network, trained without normalization, in which its own units of the object are edited",
}
VERBS = {
    ("removed", CAUSED): "Normalization removes a further",
    ("removed", PREVENTED): "Normalization paints back",
    ("inpainted", CAUSED): "Normalization makes other objects paint over",
    ("inpainted", PREVENTED): "Normalization keeps other objects from painting over",
    ("inserted", CAUSED): "Normalization helps the insertion of",
    ("inserted", PREVENTED): "Normalization hinders the insertion of",
    ("displaced", CAUSED): "Normalization increases what other objects lose to",
    ("displaced", PREVENTED): "Normalization reduces what other objects lose to",
}
CLAIMS = {
    "removed": "removal of {} of it",
    "inpainted": "{} painted over by other objects",
    "inserted": "insertion in {} of the region",
    "displaced": "{} of the region lost by other objects",
}


@dataclass(frozen=True)
class Finding:
    """What the leading regime says of one target: the whole effects on it and on all other objects."""

    target: str
    regime: Comparison
    rows: dict[str, Row]
    """By outcome."""

    @property
    def solid(self) -> list[tuple[str, Row]]:
        """The effects that matter, larger first."""
        found = [(outcome, row) for outcome, row in self.rows.items() if row["verdict"] in SOLID]
        return sorted(found, key=lambda item: -abs(item[1]["did"]))

    @property
    def main(self) -> tuple[str, Row] | None:
        """The effect, with its outcome, that the verdict on the target is about; None where none was estimated."""
        first = ((outcome, row) for outcome, row in self.rows.items() if row["verdict"] == self.verdict)
        return next(iter(self.solid), None) or next(first, None)

    @property
    def worth(self) -> list[tuple[str, Row]]:
        """The effects that are spoken of: those that matter, or the one that the verdict is about."""
        return self.solid or ([self.main] if self.main else [])

    @property
    def verdict(self) -> str:
        """The verdict on the target: that on its largest effect, or what is to be said of both."""
        if self.solid:
            return str(self.solid[0][1]["verdict"])
        verdicts = [row["verdict"] for row in self.rows.values()]
        if all(verdict == MISSING for verdict in verdicts):
            return MISSING
        return next((verdict for verdict in (OUTSIDE, UNSETTLED) if verdict in verdicts), NEGLIGIBLE)


def findings(run: Run) -> list[Finding]:
    """One finding per target, in the panel's order."""
    found = []
    for target in run.targets:
        regime = run.leading(target)
        rows = {outcome: run.row(target, outcome, regime) for outcome in run.pair}
        found.append(Finding(target, regime, {outcome: row for outcome, row in rows.items() if row is not None}))
    return found


def by_verdict(found: Sequence[Finding]) -> list[Finding]:
    """What is found first; among equals the panel's order stays."""
    order = list(MARKS)
    return sorted(
        found, key=lambda one: max(0, order.index(one.worth[0][1]["verdict"]) - 1) if one.worth else len(order)
    )


def strongest(found: Sequence[Finding]) -> tuple[Finding, str] | None:
    """The largest effect that matters, with its outcome; None if there is none."""
    solid = [(one, outcome) for one in found for outcome, _ in one.solid]
    return max(solid, key=lambda item: abs(item[0].rows[item[1]]["did"]), default=None)


def headline(run: Run, found: Sequence[Finding]) -> str:
    """The finding in one sentence."""
    best = strongest(found)
    if best is None:
        return _nothing(run, found)
    outcome, verdict = best[1], best[0].rows[best[1]]["verdict"]
    agreeing = [one for one in found if outcome in one.rows and one.rows[outcome]["verdict"] == verdict]
    agreeing.sort(key=lambda one: -abs(one.rows[outcome]["did"]))
    named = [claimed(one.rows[outcome], article(one.target)) for one in agreeing[:3]]
    if len(agreeing) > 3:
        named.append(f"{'' if run.inserts else 'of '}{count(len(agreeing) - 3, 'other object')}")
    kinds: dict[str, list[str]] = {}
    for one in found:
        if one not in agreeing:
            kinds.setdefault("another effect" if one.solid else one.verdict, []).append(one.target)
    words = {
        "another effect": "another effect on {}",
        NEGLIGIBLE: "no relevant effect on {}",
        UNSETTLED: "{} not settled",
        OUTSIDE: "{} out of range",
        MISSING: "{} too rarely seen",
    }
    rest = [
        words[kind].format(listed(names) if len(names) < 3 else f"{len(names)} others") for kind, names in kinds.items()
    ]
    text = f"{VERBS[outcome, verdict]} {listed(named)} {'of the region' if run.inserts else 'whose units are ablated'}"
    return f"{text}; {', '.join(rest)}." if rest else f"{text}."


def claimed(row: Row, name: str) -> str:
    """How much of what: what stands behind a verb of `VERBS`."""
    return f"{name} by {size(row)}" if row["outcome"] in PAIRS["insert"] else f"{size(row)} of {name}"


def _nothing(run: Run, found: Sequence[Finding]) -> str:
    """The finding where no effect matters and is settled."""
    limit = f"{number(100 * run.relevant).removesuffix('.0')}\u00a0%"
    done, whole = run.pair.done, "the region" if run.inserts else "its pixels"
    settled = [one.target for one in found if one.verdict == NEGLIGIBLE]
    if len(settled) == len(found):
        which = f"any of the {len(found)} {done} objects" if len(found) > 1 else f"the {done} {found[0].target}"
        return f"Normalization makes no relevant difference to {which}: less than {limit} of {whole}."
    if settled:
        which = listed(settled) if len(settled) < 4 else count(len(settled), "object")
        return f"No effect of normalization is established; on {which} there is none larger than {limit} of {whole}."
    if all(one.verdict == MISSING for one in found):
        return "Nothing can be said: too few images show the objects."
    if all(one.verdict in (OUTSIDE, MISSING) for one in found):
        return "Nothing is claimed: with normalization held the images leave the network’s range."
    which = f"an {done} {found[0].target}" if len(found) == 1 else f"any {done} object"
    return f"{count(run.latents, 'image')} do not settle whether normalization changes {which} by {limit} of {whole}."


def subline(run: Run, found: Sequence[Finding]) -> str:
    """What was done: what the edit does by itself, on which everything else rests, and what it is compared with."""
    rows = [one.rows[run.pair.own] for one in found if one.verdict != MISSING and run.pair.own in one.rows]
    if not rows:
        return ""
    regime = next(one.regime for one in found if one.verdict != MISSING)
    held = f"{regime.words[1].capitalize()}: {CONTROLS[regime.control]}."

    def shown(share: float) -> str:
        return f"{signed(100 * share)} points" if run.inserts else percent(share)

    name, share = f"the units of the {rows[0]['target']}", shown(rows[0]["tau_live"])
    if len(rows) > 1:
        ends = [pick(rows, key=lambda row: row["tau_live"]) for pick in (min, max)]
        name, share = "an object’s units", " to ".join(f"{shown(row['tau_live'])} ({row['target']})" for row in ends)
    if run.inserts:
        return f"Inserting {name} changes its share of the region by {share}. {held}"
    return f"Ablating {name} removes {share} of it. {held}"


def summary(run: Run, outcome: str, row: Row) -> dict[str, str]:
    """A verdict, its marks, and the effect in a few words."""
    verdict, (low, high) = row["verdict"], interval(row)
    what = NAMES[outcome].split()[0]
    mark, sign = MARKS[verdict]
    parts = {"verdict": verdict, "mark": mark, "sign": sign, "interval": ""}
    if verdict == MISSING:
        text = f"{count(run.seen(row['target']), 'image')} of {run.latents:,} show it"
    elif verdict == OUTSIDE:
        text = "held images leave the network’s range"
    elif verdict == NEGLIGIBLE:
        # Rounded up: a bound that is rounded down is none.
        text = f"{what} changes by less than {number(np.ceil(1000 * max(abs(low), abs(high))) / 10)}\u00a0%"
    elif verdict == UNSETTLED:
        wanted = "" if np.isnan(row["settled_by"]) else f"; {row['settled_by']:,.0f} latents might settle it"
        text = f"{what} {points(row)}{' points' * (not never_differed(row))}{wanted}"
    else:
        text = CLAIMS[outcome].format(size(row))
        ends = (row.get("fcr_low", low), row.get("fcr_high", high))  # of effects that are picked by their verdicts
        least, most = sorted(100 * abs(end) for end in ends)
        parts["interval"] = " to ".join(number(end, digits(least, most)) for end in (least, most))
    return parts | {"text": text}


def object_rows(run: Run, found: Sequence[Finding], slugs: dict[str, str]) -> list[dict[str, Any]]:
    """What the first screen says of each target: pictures, bars, and verdicts on the effects that matter, or on all in one."""
    lines = []
    for one in found:
        examples, pair, bars = run.examples.get(one.target), [], []
        if examples is not None:
            best, live = _example(run, examples, one, run.pair.own), examples.arms.index("live")
            for arm, title in ((0, "original"), (live, run.pair.done)):
                pair.append({"src": pictures.picture(examples.images[best, arm]), "alt": f"{one.target}, {title}"})
        if one.verdict != MISSING:
            bars = [_bar(run, one, side, name) for side, name in zip(("live", "held"), one.regime.words, strict=True)]
        effects = [summary(run, outcome, row) | {"doubt": _doubt(run, one, outcome, row)} for outcome, row in one.worth]
        lines.append(
            {"name": one.target, "slug": slugs[one.target], "effects": effects, "pictures": pair, "bars": bars}
        )
    return lines


def _doubt(run: Run, one: Finding, outcome: str, row: Row) -> str:
    """What speaks against an effect that matters: another segmenter that does not see it, or pixels that none recognizes."""
    others = [way for way in ways(run, one, outcome, "second") if way["verdict"] != row["verdict"]]
    doubts = ["not confirmed by the second segmenter"] if others else []
    if row.get("ci_paired_low", 1.0) <= 0 <= row.get("ci_paired_high", -1.0):
        doubts.append("could be nothing, depending on what the pixels are that are not recognized")
    return "; ".join(doubts if row["verdict"] in SOLID else [])


def wider(row: Row) -> dict[str, str]:
    """An effect's intervals that cover more than other latents, in points, by what they cover besides."""
    ends = {
        words: [float(np.clip(100 * row.get(f"{name}_{end}", np.nan), -100, 100)) for end in ("low", "high")]
        for name, words in WIDER.items()
    }
    return {words: span(*both) for words, both in ends.items() if not np.isnan(both).any()}


def doubts(run: Run, one: Finding) -> list[str]:
    """How far the effects on a target that are spoken of reach beyond its latents and the strength of the hold, a sentence each."""
    sentences = []
    for outcome, row in one.worth:
        clauses = [f"{interval} {words}" for words, interval in wider(row).items()]
        units = {"ci_low": row.get("ci_units_low", np.nan), "ci_high": row.get("ci_units_high", np.nan)}
        if not np.isnan(units["ci_low"]):
            halvings = {each["draw"] for each in run.whole("ranking", one.target, outcome)}
            other = verdict_of(row | units, run.relevant)
            changed = f", by which the verdict would be: {other}" if other != row["verdict"] else ""
            clauses[0] += f" ({count(len(halvings), 'halving')} of the ranking’s latents){changed}"
        slopes = [
            each for each in run.whole("slope", one.target, outcome) if each["arm"].split("@k")[0] == one.regime.whole
        ]
        clauses += [f"slope at strength 0: {points(each)}" for each in slopes]
        for each in run.whole("beyond", one.target, outcome):
            if each["arm"] == one.regime.name:
                bent = f", nothing if the slope changed by more than {100 * each['breakdown']:.2g} on the way" * (
                    each["breakdown"] > 0
                )
                clauses.append(f"continued in a straight line to the full hold: {points(each)}{bent}")
        sentences += [f"{NAMES[outcome].capitalize()}: {'; '.join(clauses)}."] if clauses else []
    return sentences


def ways(run: Run, one: Finding, outcome: str, contrast: str) -> list[Row]:
    """The leading effect as a contrast measures it in another way; of networks as a second segmenter sees them."""
    if contrast == "second" and one.regime.networks:
        rows = run.whole("networks", one.target, outcome)
        return [row for row in rows if row["segmenter"] != one.rows[outcome]["segmenter"]]
    names = (*one.regime.names, one.regime.control)  # under which all networks of a control are one
    return [row for row in run.whole(contrast, one.target, outcome) if row["arm"] in names]


def scene(run: Run, found: Sequence[Finding]) -> dict[str, Any] | None:
    """The strongest effect in pictures; where none matters, the largest in range. None if there are no examples."""
    seen = [one for one in found if one.target in run.examples and one.rows]
    if not seen:
        return None
    effects = [(one, outcome) for one in seen for outcome in one.rows]

    def rank(item: tuple[Finding, str]) -> tuple[bool, float]:
        row = item[0].rows[item[1]]
        return row["verdict"] not in (OUTSIDE, MISSING), abs(row["did"])

    one, outcome = strongest(seen) or max(effects, key=rank)
    examples = run.examples[one.target]
    place = _example(run, examples, one, outcome)
    arms = examples.arms.index("live"), held(examples, one.regime)
    images = examples.images[place]
    gap = pictures.difference(*images[list(arms)])
    height, width = gap.shape[:2]
    return {
        "target": one.target,
        "regime": one.regime.label,
        "outside": not run.supported(one.target, one.regime),
        "name": "Without normalization" if one.regime.networks else "Normalization held",
        "swap": "with and without" if one.regime.networks else f"{run.pair.done} and held",
        "which": f"the clearest of {len(examples.images)}; bars: all images",
        "original": plain(
            images[0], "An image, unedited" if run.inserts else f"An image with {article(one.target)}, unedited"
        ),
        "live": edited(run, one.target, place, arms[0]),
        "held": edited(run, one.target, place, arms[1]),
        "difference": plain(gap, "Where the two differ most"),
        "box": f"0 0 {width} {height}",
        "sheet": [*images[[0, *arms]], gap],
    }


def plain(image: np.ndarray, text: str) -> dict[str, str]:
    """A picture without outlines."""
    return {"src": pictures.picture(image), "text": text, "alt": text, "gone": "", "came": ""}


def edited(run: Run, target: str, place: int, arm: int) -> dict[str, str]:
    """An example's picture in an arm, with outlines, and what the edit did in a few words."""
    examples = run.examples[target]
    labels = examples.labels[place]
    base = examples.baseline(arm)
    found = pictures.change(labels[base], labels[arm], examples.classes, run.objects, target)
    left = f"{100 * (1 - found.gone):.0f}\u00a0% of the {target} left" if found.gone < 0.995 else f"no {target} left"
    painted = [f"{100 * share:.0f}\u00a0% {name}" for name, share in found.painted.items() if share >= 0.01]
    text = ", ".join([left, *painted[:1]]) if found.original else f"no {target} in it"
    if run.inserts:
        before, after = (percent((labels[one] == examples.classes.index(target)).mean()) for one in (base, arm))
        text = f"{target} on {after} of the image, {before} before"
    outlines = {"gone": pictures.path(found.vanished), "came": pictures.path(found.appeared)}
    return plain(examples.images[place, arm], text) | outlines


def held(examples: Examples, regime: Comparison) -> int:
    """The arm of the examples that shows a regime."""
    # Of networks there are pictures of each; of runs whose strengths were measured later of none but the whole.
    names = [*regime.names, *regime.networks, regime.whole]
    return next(examples.arms.index(name) for name in names if name in examples.arms)


def _example(run: Run, examples: Examples, one: Finding, outcome: str) -> int:
    """The example that shows an effect best: live and held differ most in it, in the direction of the effect."""
    index = examples.classes.index(one.target)
    others = [examples.classes.index(name) for name in run.objects if name != one.target and name in examples.classes]
    counts = []
    for arm in (examples.arms.index("live"), held(examples, one.regime)):
        labels = examples.labels[:, arm]
        hit = labels == index if outcome == run.pair.own else np.isin(labels, others)
        hit ^= outcome in FALLING
        place = np.True_ if run.inserts else examples.labels[:, examples.baseline(arm)] == index
        counts.append((hit & place).sum(axis=(1, 2)))
    row = one.rows.get(outcome)
    return int(np.argmax((counts[0] - counts[1]) * (-1 if row is not None and row["did"] < 0 else 1)))


def _bar(run: Run, one: Finding, side: str, name: str) -> dict[str, Any]:
    """What became of a target's place on a side of the comparison, as the parts of a bar."""
    place = run.place(one.target, one.regime, side)
    words = (f"{'' if run.inserts else 'still '}{one.target}", "other objects", "background", "not recognized")
    shares = ", ".join(f"{word} {percent(share)}" for word, share in zip(words, place.values(), strict=True))
    return {
        "name": name,
        "parts": [(part, round(100 * share, 3)) for part, share in place.items()],
        "left": percent(place["still"]),
        "outside": side == "held" and not run.supported(one.target, one.regime),
        "alt": f"{name}: {shares}",
    }
