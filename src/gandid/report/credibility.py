"""Can it be believed: six questions to every effect, each answered from what was measured, and by no more than that.

An *effect* is what normalization causes of a target's removal, or of its in-painting by all other objects together. An answer is
a word, a sentence, and what it does to the effect's credibility: it speaks for it (`ok`), leaves it open (`flagged`), speaks against
it (`failed`), or nothing was asked or there is nothing to ask (`none`).
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gandid.did.checks import DEFAULTS, SUPPORT
from gandid.did.placebos import ENERGY, permuted
from gandid.did.placebos import LEVEL as UNLIKELY
from gandid.did.power import smallest_effect
from gandid.did.words import VISIBLE
from gandid.report import evidence, figures
from gandid.report.checks import TITLES
from gandid.report.folder import Arm, Run, claimed
from gandid.report.text import number, signed, typeset

LABELS = {"removed": "removed", "inpainted": "in-painted by other objects"}
# What each part of the evidence is, and what asks for it.
ASKED = {
    "dose": ("dose-response", "--dose"),
    "shapley": ("shares of the normalizations", "--sites shapley"),
    "placebos": ("random units", "--placebos 50"),
    "second segmenter": ("another segmenter", "--second-segmenter NAME"),
}
# What a control measures: what the DID compares, and on what it rests.
CONTROLS = {
    "capped": (
        "what normalization does by being free to amplify. It may still attenuate, but not amplify beyond what it did before "
        "the ablation. The unedited image is the network’s own, exactly."
    ),
    "frozen": (
        "what normalization does by responding at all, be it by amplifying or by attenuating. The unedited image is the network’s "
        "own, exactly; old statistics on new activations strain the network most."
    ),
    "mean": (
        "what a statistic of each image and place does that one constant in its place does not. The unedited image differs, too, so "
        "the reading rests on parallel trends."
    ),
    "twin": (
        "what having the normalization does, in training and after it: the control is another network, trained without it, "
        "whose own units of the object are ablated. It compares two trainings, and one pair of networks is one draw of them: its "
        "intervals are over latents and know nothing of another seed. It rests on parallel trends between networks."
    ),
}


class Answer(NamedTuple):
    """An answer to a question: what it does to the effect's credibility, a word, and a sentence."""

    verdict: str
    word: str
    text: str


@dataclass(frozen=True)
class Effect:
    """The DID of one outcome under one held arm."""

    arm: Arm
    did: float
    low: float
    high: float
    sound: bool
    """Whether the arm is in support."""
    shown: bool
    """Whether the effect is beyond noise, visible, and in support."""
    smallest: float
    """The effect that a study of this size finds in four cases of five."""

    @property
    def told(self) -> str:
        """The arm and its number."""
        mark = "" if self.sound else " (out of support, not claimed)"
        return f"{self.arm.label} {_interval(self.did, self.low, self.high)}{mark}"


Answers = dict[tuple[str, str], list[Answer]]
"""By target and outcome."""


def answers(run: Run) -> Answers:
    """The answers to the six questions, in their order, about each effect of each target that can be estimated."""
    return {
        (target, outcome): [
            answer._replace(text=typeset(answer.text))
            for found in [effects(run, target, outcome)]
            for ask in QUESTIONS.values()
            for answer in [ask(run, target, outcome, found)]
        ]
        for target in run.targets
        if run.estimable(target)
        for outcome in evidence.OUTCOMES
    }


def credibility_section(run: Run, slugs: dict[str, str], colours: dict[str, str], answered: Answers) -> dict[str, Any]:
    """What the page says over all targets: answers in words, one line per effect, and the dose-response of each target."""
    rows = [
        {"target": target, "slug": slugs[target], "colour": colours[target], "of": LABELS[outcome], "answers": found}
        for (target, outcome), found in answered.items()
    ]
    doses = [
        {"target": target, "slug": slugs[target], "colour": colours[target], "chart": chart}
        for target in dict.fromkeys(target for target, _ in answered)
        for chart in [_chart(run, target, slugs[target], "dose", evidence.dose_stacked, _told(answered, target, 2))]
        if chart
    ]
    controls = dict.fromkeys(run.effects.frame["control"])
    return {
        "lead": lead(list(answered.values())),
        "questions": list(QUESTIONS),
        "rows": rows,
        "controls": [(name, CONTROLS[name]) for name in controls if name in CONTROLS],
        "missing": [ASKED[name] for name in ASKED if name not in _asked(run)],
        "doses": doses,
    }


def credibility_of(run: Run, target: str, slug: str, answered: Answers) -> dict[str, Any]:
    """What the page says of one target: the six questions with their answers, and the figures beside the dose-response."""
    per_outcome = {LABELS[outcome]: answered[target, outcome] for outcome in evidence.OUTCOMES}
    drawn = [
        ("Shares of the normalizations", "shapley", evidence.shapley_stacked, _shapley_told(run, target)),
        ("Own units among random ones", "placebos", evidence.placebos_stacked, _told(answered, target, 3)),
        ("Other ways of measuring", "sensitivity", evidence.forest_stacked, _forest_told(run, target)),
    ]
    return {
        "questions": [
            {"asks": asks, "answers": _joined([(label, found[place]) for label, found in per_outcome.items()])}
            for place, asks in enumerate(QUESTIONS)
        ],
        "charts": [
            {"title": title, "chart": chart, "kind": name}
            for title, name, make, told in drawn
            for chart in [_chart(run, target, slug, name, make, f"{title}. {told}")]
            if chart
        ],
        "dose": has(run, target, "dose"),
    }


def _joined(said: list[tuple[str, Answer]]) -> list[tuple[str, Answer]]:
    """Answers with the effects that they are about, none of which is named where all have the same."""
    return [("", said[0][1])] if len({answer for _, answer in said}) == 1 else said


def draw(run: Run, target: str) -> dict[str, Figure]:
    """The figures of one target for files, by the first part of their names."""
    makers = {"dose": evidence.dose, "placebos": evidence.placebos, "sensitivity": evidence.forest}
    return {name: make(run, target) for name, make in makers.items() if has(run, target, name)}


def effects(run: Run, target: str, outcome: str) -> list[Effect]:
    """The DID of an outcome under one arm per control (`gandid.report.evidence.leading`)."""
    return [_effect(run, target, outcome, arm) for arm in evidence.leading(run, target)]


def lead(rows: list[list[Answer]]) -> str:
    """The whole in a sentence or two: how many effects are shown, and how they stand the other questions."""
    if not rows:
        return "No target is estimable, so there is nothing to believe or to doubt."
    shown = [row for row in rows if row[0].verdict == "ok"]
    open_ = sum(row[0].verdict == "flagged" for row in rows)
    text = f"{_count(len(shown), 'effect')} of {len(rows)} {'is' if len(shown) == 1 else 'are'} shown under every control in support"
    text += f", {open_} {'is' if open_ == 1 else 'are'} so in part or not settled." if open_ else "."
    if not shown:
        return text
    said = {
        1: "can be laid on a site",
        2: "grow with the dose",
        3: "go beyond random units",
        4: "are seen by another segmenter",
    }
    parts = []
    for place, what in said.items():
        asked = [row[place] for row in shown if row[place].word != NOT_ASKED]
        if asked:
            parts.append(f"{sum(answer.verdict == 'ok' for answer in asked)} {what}")
    parts.append(f"{sum(row[5].verdict == 'ok' for row in shown)} keep their sign however they were measured")
    return f"{text} Of the {len(shown)} shown, {', '.join(parts)}."


# The six questions

NOT_ASKED = "not asked"


def _is_there(run: Run, target: str, outcome: str, found: list[Effect]) -> Answer:
    sound, told = [effect for effect in found if effect.sound], "; ".join(effect.told for effect in found)
    if not sound:
        return Answer(
            "flagged", "not settled", f"Every held arm leaves the network’s range, so nothing is claimed: {told}."
        )
    shown = [effect for effect in sound if effect.shown]
    rest = [_effect(run, target, outcome, arm) for arm in run.arms if arm not in [effect.arm for effect in found]]
    besides = f" Besides: {'; '.join(effect.told for effect in rest)}." if rest else ""
    if not shown:
        least = max(effect.smallest for effect in sound)
        power = (
            f" One of {number(least)} points would be found in four of five such studies." if np.isfinite(least) else ""
        )
        return Answer("none", "not shown", f"No effect beyond noise: {told}.{power}{besides}")
    if len({np.sign(effect.did) for effect in shown}) > 1:
        return Answer(
            "flagged",
            "not settled",
            f"In sign {_names(shown)} disagree: {told}. What each measures is not the same.{besides}",
        )
    means = {
        ("removed", False): "self-repair, the target painted again",
        ("removed", True): "normalization makes more of the target go",
        ("inpainted", True): "normalization causes in-painting",
        ("inpainted", False): "normalization prevents in-painting",
    }[outcome, shown[0].did > 0]
    if len(shown) < len(sound):
        silent = [effect for effect in sound if not effect.shown]
        text = f"Under {_names(shown)}, {means}; nothing beyond noise under {_names(silent)}: {told}.{besides}"
        return Answer("flagged", "in part", text)
    under = (
        "every control in support"
        if len(sound) > 1
        else "the one control in support"
        if len(found) > 1
        else "the one control"
    )
    return Answer("ok", "yes", f"Under {under}, {means}: {told}.{besides}")


def _which_site(run: Run, target: str, outcome: str, found: list[Effect]) -> Answer:
    if "shapley" not in _asked(run):
        return _not_asked("shapley")
    if failed := _verdicts(run, target, "shapley_efficiency"):
        return Answer("failed", "does not add up", f"The shares do not sum to the effect: {failed[0]}.")
    rows = evidence.of(run.evidence["shapley"], target, outcome)
    if rows["share"].isna().all():
        return NOTHING
    control, total = rows["control"].iloc[0], rows["did"].iloc[0]
    whole = f"all sites {control} make {signed(total)} points"
    sound = all(run.supported(target, arm) for arm in run.arms if f"{control}:all" in arm.names)
    beyond = "" if sound else " That control is out of support, so nothing is claimed of its shares."
    # Along the whole effect; what is below 0 works against it.
    way = np.sign(total)
    ends = np.sort(way * rows[["ci_low", "ci_high"]].to_numpy(), axis=1)
    rows = rows.assign(site=evidence.sites(rows["site"]), along=way * rows["share"], least=ends[:, 0], most=ends[:, 1])
    rows = rows.sort_values("along", ascending=False, kind="stable")
    clear, against = rows[rows["least"] > 0], rows[rows["most"] < 0]
    told = ", ".join(
        f"{row['site']} {_interval(row['share'], row['ci_low'], row['ci_high'])}"
        for row in pd.concat([clear, against]).to_dict("records")
    )
    works = f" {_and(against['site'])} {'works' if len(against) == 1 else 'work'} against it." if len(against) else ""
    if abs(total) < VISIBLE / 2 or clear.empty:
        return Answer("none", "nothing to share", f"No site makes a share beyond noise; {whole}.{works}{beyond}")
    first, rest = rows.iloc[0], rows.iloc[1:]
    verdict = "ok" if sound else "flagged"
    if first["least"] > rest["most"].max() or rest.empty:
        return Answer(verdict, first["site"], f"Mostly {first['site']}: {told}; {whole}.{works}{beyond}")
    if len(clear) == 1:
        text = (
            f"Only {first['site']} is beyond noise, but not told apart from the others: {told}; {whole}.{works}{beyond}"
        )
        return Answer("flagged", f"{first['site']}, perhaps", text)
    return Answer(verdict, "several", f"More than one, and none before all others: {told}; {whole}.{works}{beyond}")


def _grows(run: Run, target: str, outcome: str, found: list[Effect]) -> Answer:
    if "dose" not in _asked(run):
        return _not_asked("dose")
    if failed := _verdicts(run, target, "dose", ("failed",)):
        return Answer("failed", "no", f"There is an effect without an edit: {failed[0]}.")
    table = evidence.of(run.evidence["dose"], target, outcome)
    states: dict[str, list[str]] = {}
    for effect in found:
        if effect.arm in evidence.arms_of(run, table):
            state, text = _dose_state(evidence.of_arm(table, effect.arm), _bound(run, target, effect.arm))
            states.setdefault(state if effect.sound else "outside", []).append(f"{effect.arm.label} {text}")
    outside = states.pop("outside", [])
    told = "; ".join(text for some in states.values() for text in some)
    besides = f" Out of support, not claimed: {'; '.join(outside)}." if outside else ""
    if not states:
        return Answer("flagged", "not settled", besides.strip()) if outside else NOTHING
    if set(states) == {"nothing"}:
        return Answer("none", "no difference", f"Live and held do not part at any dose: {told}.{besides}")
    if set(states) == {"grows"}:
        return Answer("ok", "yes", f"Live and held part, and go on parting: {told}.{besides}")
    if set(states) == {"falls"}:
        return Answer("flagged", "not steadily", f"Live and held part, and come nearer again: {told}.{besides}")
    return Answer("flagged", "in part", f"Controls differ: {told}.{besides}")


def _dose_state(rows: pd.DataFrame, bound: float) -> tuple[str, str]:
    """Whether a DID grows with the dose, falls again, or never leaves 0; and that in words."""
    rows = rows.sort_values("alpha")
    clear = rows[(rows["ci_low"] > 0) | (rows["ci_high"] < 0)]
    clear = clear[(clear["alpha"] > 0) & (clear["did"].abs() >= VISIBLE / 2)]
    if clear.empty:
        return "nothing", "does not part from live"
    end, start = rows.iloc[-1], f"{clear['alpha'].iloc[0]:g}"
    most = rows.iloc[int(rows["did"].abs().argmax())]
    back = -np.sign(most["did"]) * rows["step_z"] > bound
    text = f"parts from α = {start} on, {_interval(end['did'], end['ci_low'], end['ci_high'])} at {end['alpha']:g}"
    if back.any():
        return "falls", f"{text}, but {signed(most['did'])} at {most['alpha']:g}"
    if end["ci_low"] <= 0 <= end["ci_high"]:
        return "falls", f"{text}, where it is within noise again"
    return "grows", text


def _random_units(run: Run, target: str, outcome: str, found: list[Effect]) -> Answer:
    if "placebos" not in _asked(run):
        return _not_asked("placebos")
    table = evidence.of(run.evidence["placebos"], target, outcome)
    shown = [effect for effect in found if effect.shown and effect.arm in evidence.arms_of(run, table)]
    if table.empty or not any(effect.arm in evidence.arms_of(run, table) for effect in found):
        return NOTHING
    told, values = [], []
    for effect in shown or [effect for effect in found if effect.arm in evidence.arms_of(run, table)]:
        own, others, p = permuted(evidence.of_arm(table, effect.arm))
        values.append(p)
        told.append(
            f"{effect.arm.label} {signed(own)} against {signed(others.min())} to {signed(others.max())} of {len(others)} random sets ({_p(p)})"
        )
    energy = table.loc[table["draw"] >= 0, "energy"]
    matched = f" The random sets carry {energy.min():.0%} to {energy.max():.0%} of the energy of its own.".replace(
        "%", " %"
    )
    text = "; ".join(told) + "." + matched
    if not shown:
        return Answer("none", "no effect", f"There is no effect to compare. {text}")
    if max(values) <= UNLIKELY:
        if ((energy - 1).abs() <= ENERGY).mean() <= 0.5:
            return Answer(
                "flagged", "no, but weaker", f"Random units do less, but most sets miss the energy of its own: {text}"
            )
        return Answer("ok", "no", f"Random units do less: {text}")
    if min(values) <= UNLIKELY:
        return Answer("flagged", "in part", f"Told apart from random units under some controls only: {text}")
    if min(values) > 0.5:
        return Answer("failed", "yes", f"Random units do as much or more: {text}")
    return Answer("flagged", "not told apart", f"Random units do as much too often: {text}")


def _another_segmenter(run: Run, target: str, outcome: str, found: list[Effect]) -> Answer:
    if "second segmenter" not in _asked(run):
        return _not_asked("second segmenter")
    table = evidence.of(run.evidence["sensitivity"], target, outcome)
    table = table[table["variation"] == "second segmenter"]
    seen = [
        (effect, evidence.of_arm(table, effect.arm).iloc[0])
        for effect in found
        if effect.arm in evidence.arms_of(run, table)
    ]
    seen = [(effect, row) for effect, row in seen if effect.sound and np.isfinite(row["did"])]
    unsure = _verdicts(
        run, target, "uncertain", arms=("live", *(name for effect, _ in seen for name in effect.arm.names))
    )
    more = " The first one is less sure of edited images than of unedited ones." if unsure else ""
    if not seen:
        return NOTHING
    told = "; ".join(
        f"{effect.arm.label} {_interval(row['did'], row['ci_low'], row['ci_high'])} instead of {signed(effect.did)}"
        for effect, row in seen
    )
    shown = [(effect, row) for effect, row in seen if effect.shown]
    if not shown:
        return Answer("none", "no effect", f"There is no effect to see. The other one: {told}.{more}")
    sides = [_side(row["ci_low"], row["ci_high"]) * np.sign(effect.did) for effect, row in shown]
    opposite = [effect for (effect, _), side in zip(shown, sides, strict=True) if side < 0]
    if opposite:
        return Answer("failed", "no", f"It sees the opposite under {_names(opposite)}: {told}.{more}")
    if all(side > 0 for side in sides):
        return Answer("flagged" if unsure else "ok", "yes", f"With the same sign, beyond noise: {told}.{more}")
    return Answer("flagged", "not settled", f"To it some are within noise: {told}.{more}")


def _how_wrong(run: Run, target: str, outcome: str, found: list[Effect]) -> Answer:
    sound = [effect for effect in found if effect.sound]
    if not sound:
        return Answer("flagged", "not settled", f"No control is in support.{_not_passed(run, target)}")
    ways = [_ways(run, target, outcome, effect) for effect in sound]
    # What was not shown has no sign that another way of measuring could turn.
    tried = max((len(rows) for effect, rows in zip(sound, ways, strict=True) if effect.shown), default=0)
    most = max(map(len, ways))
    told = [
        f"{effect.arm.label} {signed(rows['ci_low'].min())} to {signed(rows['ci_high'].max())}{_breakdowns(effect, rows)}"
        for effect, rows in zip(sound, ways, strict=True)
    ]
    over = f"over up to {most} ways of measuring" if most > 1 else "by intervals alone"
    text = f"Points, {over}: {'; '.join(told)}.{_trainings(run, target, outcome, found)}{_not_passed(run, target)}"
    sides = {
        _side(low, high) * np.sign(effect.did)
        for effect, rows in zip(sound, ways, strict=True)
        for low, high in zip(rows["ci_low"], rows["ci_high"], strict=True)
        if effect.shown
    }
    if not sides:
        return Answer("none", "no effect", f"If there is an effect, it is within these. {text}")
    if -1 in sides:
        return Answer("failed", "the sign turns", f"Measured another way, the sign turns. {text}")
    if 0 in sides:
        return Answer("flagged", "could be 0", f"Measured another way, it could be 0. {text}")
    if tried == 1:
        return Answer("flagged", "one way only", f"What is shown was measured one way only. {text}")
    return Answer("ok", "not in sign", f"The sign stays. {text}")


QUESTIONS = {
    "Is the effect there?": _is_there,
    "Which site makes it?": _which_site,
    "Does it grow with the dose?": _grows,
    "Would random units do the same?": _random_units,
    "Would another segmenter see it?": _another_segmenter,
    "How wrong could we be?": _how_wrong,
}


def _ways(run: Run, target: str, outcome: str, effect: Effect) -> pd.DataFrame:
    """An effect in all the ways in which it was measured; of a twin among several, over networks too."""
    own = {"variation": ["as measured"], "did": [effect.did], "ci_low": [effect.low], "ci_high": [effect.high]}
    rows = pd.DataFrame(own | {"breakdown": [np.nan]})
    if "sensitivity" in run.evidence:
        table = evidence.of(run.evidence["sensitivity"], target, outcome)
        if effect.arm in evidence.arms_of(run, table):
            rows = evidence.of_arm(table, effect.arm)
    rows = rows[rows["ci_low"].notna()]
    networks = _networks(run, target, outcome)
    if effect.arm.name.startswith("twin:") and len(networks):
        rows = pd.concat([rows, networks.assign(variation="over networks", breakdown=np.nan)])
    return rows


def _networks(run: Run, target: str, outcome: str) -> pd.DataFrame:
    """The row that compares the live network with several twins, each network one observation; none without several."""
    if "twins" not in run.evidence:
        return pd.DataFrame()
    rows = evidence.of(run.evidence["twins"], target, outcome)
    return rows[rows["ci_low"].notna()]


def _trainings(run: Run, target: str, outcome: str, found: list[Effect]) -> str:
    """What is known of other trainings, where there is a twin."""
    if not any(effect.arm.name.startswith("twin:") for effect in found):
        return ""
    rows = _networks(run, target, outcome)
    if rows.empty:
        return " Of other trainings nothing is known: one pair of networks is one draw."
    row = rows.iloc[0]
    return f" Over networks ({row['networks']}): {_interval(row['did'], row['ci_low'], row['ci_high'])}."


def _breakdowns(effect: Effect, rows: pd.DataFrame) -> str:
    """By how much trends would have to differ for an effect to be 0, in units of what was seen."""
    seen = {
        "parallel trends off by the gap": "the gap of the baselines",
        "parallel trends off as at the lowest dose": "what the lowest dose shows",
    }
    times = dict(zip(rows["variation"], rows["breakdown"], strict=True)) if effect.shown else {}
    said = [f"{times[name]:.1f} times {what}" for name, what in seen.items() if np.isfinite(times.get(name, np.nan))]
    return f" (it could be 0 if trends differed by {' or '.join(said)})" if said else ""


NOTHING = Answer("none", "–", "Nothing was measured of it.")


def _not_asked(name: str) -> Answer:
    return Answer("none", NOT_ASKED, f"{ASKED[name][1]} measures it.")


def _asked(run: Run) -> set[str]:
    """Which parts of the evidence the run has."""
    found = {name for name in ("dose", "shapley", "placebos") if name in run.evidence and len(run.evidence[name])}
    if "sensitivity" in run.evidence and (run.evidence["sensitivity"]["variation"] == "second segmenter").any():
        found.add("second segmenter")
    return found


def _effect(run: Run, target: str, outcome: str, arm: Arm) -> Effect:
    sound = run.supported(target, arm)
    if outcome == "removed":
        row = run.rows(target, "removed", arm).iloc[0]
        return Effect(arm, row["did"], row["ci_low"], row["ci_high"], sound, claimed(row), row["smallest"])
    together = run.together
    row = together[(together["target"] == target) & (together["arm"] == arm.name)].iloc[0]
    shown = sound and _side(row["ci_low"], row["ci_high"]) != 0 and abs(row["did"]) >= VISIBLE / 2
    least = float(smallest_effect(row["se"], row["n"], run.effects.level))
    return Effect(arm, row["did"], row["ci_low"], row["ci_high"], sound, bool(shown), least)


def _bound(run: Run, target: str, arm: Arm) -> float:
    """Standard errors by which a step from dose to dose may go back: the bound of the check, which knows how many it compares."""
    checks = run.effects.checks
    rows = checks[(checks["check"] == "dose") & (checks["target"] == target) & checks["arm"].isin(arm.names)]
    return float(rows["bound"].iloc[0]) if len(rows) else DEFAULTS.stability


def _verdicts(
    run: Run, target: str, check: str, bad: tuple[str, ...] = ("flagged", "failed"), arms: Collection[str] | None = None
) -> list[str]:
    """The details of a check's rows about a target, and some arms, that are not ok."""
    checks = run.effects.checks
    rows = checks[(checks["check"] == check) & (checks["target"] == target) & checks["verdict"].isin(bad)]
    return list(rows["detail"] if arms is None else rows.loc[rows["arm"].isin(arms), "detail"])


def _not_passed(run: Run, target: str) -> str:
    """The checks about a target, or about no target, that are not ok; support is told by arm already."""
    checks = run.effects.checks
    bad = checks[checks["target"].isin([target, ""]) & (checks["verdict"] != "ok") & ~checks["check"].isin(SUPPORT)]
    names = [TITLES.get(name, (name, ""))[0].lower() for name in dict.fromkeys(bad["check"])]
    return f" Checks not passed: {', '.join(names)}." if names else ""


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _side(low: float, high: float) -> float:
    """On which side of 0 an interval lies; 0 where it contains it."""
    return 1.0 if low > 0 else -1.0 if high < 0 else 0.0


def _interval(value: float, low: float, high: float) -> str:
    return f"{signed(value)} [{number(low)}, {number(high)}]"


def _names(effects_: Iterable[Effect]) -> str:
    return _and(effect.arm.label for effect in effects_)


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# Charts and what they say to those who cannot see them


def has(run: Run, target: str, name: str) -> bool:
    """Whether there is something to draw of a target."""
    if name not in run.evidence:
        return False
    table, value = run.evidence[name], "share" if name == "shapley" else "did"
    parts = [evidence.of(table, target, outcome) for outcome in evidence.OUTCOMES]
    return any(part[value].notna().any() for part in parts)


def _chart(run: Run, target: str, slug: str, name: str, make: Callable[[Run, str], Figure], told: str) -> Any:
    if not has(run, target, name):
        return None
    return figures.inline(make(run, target), f"{name}-{slug}", f"Chart. {target} ablated. {told}")


def _told(answered: Answers, target: str, question: int) -> str:
    """What the answers to a question say, for a chart that shows what they are read off."""
    said = [f"{LABELS[outcome]}: {answered[target, outcome][question].text}" for outcome in evidence.OUTCOMES]
    return " ".join(said)


def _shapley_told(run: Run, target: str) -> str:
    if "shapley" not in run.evidence:
        return ""
    said = []
    for outcome in evidence.OUTCOMES:
        rows = evidence.of(run.evidence["shapley"], target, outcome)
        shares = ", ".join(f"{site} {signed(share)}" for site, share in zip(rows["site"], rows["share"], strict=True))
        if len(rows):
            said.append(f"Shares of {LABELS[outcome]} by site: {shares}; sum {signed(rows['did'].iloc[0])}.")
    return " ".join(said)


def _forest_told(run: Run, target: str) -> str:
    if "sensitivity" not in run.evidence:
        return ""
    table, said = run.evidence["sensitivity"], []
    for outcome in evidence.OUTCOMES:
        part = evidence.of(table, target, outcome)
        for arm in evidence.leading(run, target):
            if arm in evidence.arms_of(run, part):
                ways = ", ".join(
                    f"{row['variation']} {_interval(row['did'], row['ci_low'], row['ci_high'])}"
                    for row in evidence.of_arm(part, arm).to_dict("records")
                )
                said.append(f"{LABELS[outcome]}, {arm.label}: {ways}.")
    return " ".join(said)
