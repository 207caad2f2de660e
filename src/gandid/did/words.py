"""Effects in plain words that claim no more than is shown."""

from typing import TYPE_CHECKING

import pandas as pd

from gandid.did.checks import SUPPORT
from gandid.did.inference import CARRIED

if TYPE_CHECKING:
    from gandid.did.effects import Effects

# False discovery rate below which an effect counts as shown.
SHOWN = 0.05
# Shares smaller than this print as 0.0 % and are not worth a word.
VISIBLE = 0.001
# Effects and objects named per clause; the table has them all.
NAMED = 3
# What must hold, beside support, for a DID to be what the words call it.
ASSUMED = {
    "mean": "if the two would have moved alike (parallel trends)",
    "twin": "if the two would have moved alike (parallel trends), and for this pair of networks: another training is another draw",
}
SUPPORT_WORDS = {
    "strain": "strain",
    "realism": "realism",
    "unknown": "unknown pixels",
    "unknown_inside": "unknown pixels in the hole",
    "uncertain": "pixels of which the segmenter is uncertain",
}


def sentence(effects: "Effects", target: str, control: str) -> str:
    """What ablating one target does to the others, and how much of that normalization causes."""
    rows = effects.frame[effects.frame["target"] == target]
    checks = effects.checks[effects.checks["target"].isin([target, ""])]
    if not rows["estimable"].any():
        seen = checks.loc[checks["check"] == "target_seen", "detail"]
        why = seen.iloc[0] if len(seen) else f"'{target}': not estimable"
        return why[0].upper() + why[1:] + "."
    said = [_live(effects, target, rows)]
    arms = list(dict.fromkeys(rows.loc[rows["control"] == control, "arm"]))
    said += [_arm(rows[rows["arm"] == arm], checks[checks["arm"] == arm]) for arm in arms]
    if strange := _out_of_support(checks[checks["arm"] == "live"]):
        said.append(f"The ablated images themselves leave the range of the unedited ones ({strange}).")
    others = [arm for arm in dict.fromkeys(rows["arm"]) if arm not in arms]
    flagged = [(arm, _out_of_support(checks[checks["arm"] == arm])) for arm in others]
    for arm in [arm for arm, why in flagged if not why and arm.split(":")[0] in ASSUMED]:
        said.append(_arm(rows[rows["arm"] == arm], checks[checks["arm"] == arm]))
    said += _disagreements(rows)
    if named := "; ".join(f"{arm} ({why})" for arm, why in flagged if why):
        said.append(f"Outside the network's range, so not claimed: {named}.")
    return " ".join(said)


def summary(effects: "Effects") -> str:
    """Header, a table per held arm, sentences, checks."""
    attrs = effects.attrs
    facts = [
        f"{effects.latents:,} latents",
        *(str(attrs[name]) for name in ("generator", "layer") if name in attrs),
        *([f"ablation to {attrs['ablation']}"] if "ablation" in attrs else []),
        f"{effects.level:.0%} intervals",
    ]
    lines = ["Difference-in-differences: " + " · ".join(facts)]
    for arm in effects.arms:
        lines += [
            "",
            f"{arm} · DID = live - held, in points of the target's original pixels",
            _table(effects, arm),
        ]
    lines += ["", *(f"- {text}" for text in effects.sentences()), "", _checks(effects.checks)]
    return "\n".join(lines)


def _live(effects: "Effects", target: str, rows: pd.DataFrame) -> str:
    """What the ablation does with every normalization live."""
    one = rows[rows["arm"] == rows["arm"].iloc[0]]
    gone = one[one["outcome"] == "removed"].iloc[0]
    units = effects.units.get(target)
    subject = f"the {units} units of {target}" if units else f"the units of {target}"
    text = f"Ablating {subject} removes {_percent(gone['tau_live'])} of its pixels ({gone['n']:,} images)"
    filled = one[one["outcome"] == "inpainted"]
    objects = filled[filled["kind"] == "object"].sort_values("tau_live", ascending=False)
    total = objects["tau_live"].sum()
    named = objects[(objects["tau_live"] >= VISIBLE) & (objects["ci_live_low"] > 0)][:NAMED]
    if len(named):
        which = ", ".join(
            f"{name} {_percent(share)}" for name, share in zip(named["object"], named["tau_live"], strict=True)
        )
        text += f"; {_percent(total)} turn into other objects ({which})"
    elif total >= VISIBLE:
        text += f"; {_percent(total)} turn into other objects, no one of them beyond noise"
    else:
        text += "; hardly any of them turn into another object"
    unknown = filled.loc[filled["kind"] == "unknown", "tau_live"].sum()
    if unknown >= 10 * VISIBLE:
        text += f", {_percent(unknown)} into nothing that the segmenter knows"
    return text + "."


def _arm(rows: pd.DataFrame, checks: pd.DataFrame) -> str:
    """What normalization causes, by one held arm."""
    first = rows.iloc[0]
    held = "" if first["control"] == "twin" else f", {first['held']} held"
    lead = f"{_mechanism(first['control'], first['held'])} ({first['control']} control{held})"
    still = checks[(checks["check"] == "responds") & (checks["verdict"] != "ok")]
    if len(still):
        return f"{lead}: exactly none, since {still['detail'].iloc[0]}."
    if why := _out_of_support(checks):
        return f"{lead}: no claim, since the held arm leaves the network's range ({why})."
    shown = rows[(rows["q"] < SHOWN) & rows["kind"].isin(["target", "object"])]
    claims = [
        *_claims(shown[(shown["outcome"] == "removed")]),
        *_claims(shown[(shown["outcome"] == "inpainted")]),
        *_claims(shown[(shown["outcome"] == "emerged") & (shown["kind"] == "object")]),
        *_claims(shown[(shown["outcome"] == "collateral") & (shown["kind"] == "object")]),
    ]
    if not claims:
        return f"{lead}: no effect beyond noise on it or on another object."
    if first["control"] in ASSUMED:
        claims.append(ASSUMED[first["control"]])
    if not (shown["outcome"] == "inpainted").any():
        claims.append("no in-painting by another object beyond noise")
    unstable = checks[(checks["check"] == "stability") & (checks["verdict"] != "ok")]
    if len(unstable):
        claims.append(f"but the halves of the latents disagree (z = {unstable['value'].iloc[0]:.1f})")
    return f"{lead}: {'; '.join(claims)}."


def _claims(rows: pd.DataFrame) -> list[str]:
    """The shown effects of one outcome in words, largest first."""
    rows = rows[rows["did"].abs() >= VISIBLE / 2]
    rows = rows.reindex(rows["did"].abs().sort_values(ascending=False, kind="stable").index)
    said = []
    for row in rows[:NAMED].to_dict("records"):
        more, size = row["did"] > 0, 100 * abs(row["did"])
        ends = sorted((100 * row["ci_low"], 100 * row["ci_high"]), key=abs)
        # Of an interval that excludes 0 the signs are said by the verb; one that does not keeps its own.
        interval = [abs(end) for end in ends] if ends[0] * ends[1] > 0 else ends if more else [-ends[0], -ends[1]]
        evidence = f"[{min(interval):.1f}, {max(interval):.1f}], {_q(row['q'])}"
        if row["carried"] < CARRIED:
            evidence += f", carried by {row['carried']:.0f} images only"
        name = row["object"]
        verb = {
            ("removed", True): f"removes {size:.1f} points more of it",
            ("removed", False): f"self-repair, {size:.1f} points of it painted again",
            ("inpainted", True): f"in-paints {size:.1f} points of it with {name}",
            ("inpainted", False): f"keeps {name} from in-painting {size:.1f} points of it",
            ("emerged", True): f"makes {name} appear in {size:.1f} % more of the images",
            ("emerged", False): f"makes {name} appear in {size:.1f} % fewer of the images",
            ("collateral", True): f"adds {size:.1f} points of the image of {name} elsewhere",
            ("collateral", False): f"takes {size:.1f} points of the image of {name} elsewhere",
        }[row["outcome"], more]
        said.append(f"{verb} {evidence}")
    if len(rows) > NAMED:
        said.append(f"{len(rows) - NAMED} smaller of the kind")
    return said


def _mechanism(control: str, held: str) -> str:
    where = {"first": "the first normalization", "all": "all downstream normalizations"}.get(held, held)
    if control == "capped":
        return f"Amplification by {where}"
    if control == "frozen":
        return f"Response of {where}"
    if control == "twin":
        return "The network against its twin without normalization" + (f" {held}" if held != "all" else "")
    return f"{where[0].upper()}{where[1:]} against a constant"


def _disagreements(rows: pd.DataFrame) -> list[str]:
    """Effects that two controls of the same sites show, in support, with opposite signs; a twin is compared with each."""
    shown = rows[(rows["q"] < SHOWN) & rows["supported"] & (rows["did"].abs() >= VISIBLE / 2)]
    shown = shown[shown["outcome"].isin(["removed", "inpainted"]) & shown["kind"].isin(["target", "object"])]
    said = []
    for (outcome, name), of in shown.groupby(["outcome", "object"], sort=False):
        arms, twin = dict[str, float](), of["control"] == "twin"
        for held in dict.fromkeys(of.loc[~twin, "held"]):
            alike = of[(of["held"] == held) | twin]
            if (alike["did"] > 0).any() and (alike["did"] < 0).any():
                arms |= dict(zip(alike["arm"], alike["did"], strict=True))
        if arms:
            values = ", ".join(f"{arm} {100 * did:+.1f}" for arm, did in arms.items())
            what = "how much of it is removed" if outcome == "removed" else f"how much of it {name} in-paints"
            said.append(
                f"The controls disagree on {what} ({values}): they ask different questions, and none settles it."
            )
    return said


def _out_of_support(checks: pd.DataFrame) -> str:
    """The support checks that an arm does not pass, each with its value and its bound; empty if it passes."""
    bad = checks[checks["check"].isin(SUPPORT) & (checks["verdict"] != "ok")]
    return ", ".join(
        f"{SUPPORT_WORDS[row['check']]} {row['value']:.2g} against {row['bound']:.2g}" for row in bad.to_dict("records")
    )


def _table(effects: "Effects", arm: str) -> str:
    """Per target: removed, and the objects that normalization makes in-paint it."""
    rows = effects.frame[effects.frame["arm"] == arm]
    cells = []
    for target in effects.targets:
        of = rows[rows["target"] == target]
        gone = of[of["outcome"] == "removed"].iloc[0]
        if not gone["estimable"]:
            cells.append({"target": target, "removed live": "not estimable"})
            continue
        filled = of[(of["outcome"] == "inpainted") & (of["kind"] == "object")]
        shown = filled[filled["q"] < SHOWN].sort_values("did", ascending=False)
        cells.append(
            {
                "target": target + ("" if gone["supported"] else " *"),
                "removed live": _percent(gone["tau_live"]),
                "held": _percent(gone["tau_held"]),
                "DID": "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * gone[["did", "ci_low", "ci_high"]])),
                "q": _q(gone["q"]).removeprefix("q ").removeprefix("= "),
                "objects in-paint live": _percent(filled["tau_live"].sum()),
                "objects held": _percent(filled["tau_held"].sum()),
                "shown DIDs of in-painting": ", ".join(
                    f"{name} {100 * did:+.1f}" for name, did in zip(shown["object"], shown["did"], strict=True)
                )
                or "none",
            }
        )
    table = pd.DataFrame(cells).fillna("").to_string(index=False)
    marked = any(cell["target"].endswith(" *") for cell in cells)
    return table + ("\n* the held arm leaves the network's range: not to be read as an effect" if marked else "")


def _checks(checks: pd.DataFrame) -> str:
    bad = checks[checks["verdict"] != "ok"]
    lines = [f"Checks: {len(checks) - len(bad)} of {len(checks)} ok"]
    for (verdict, check), rows in bad.groupby(["verdict", "check"], sort=False):
        places = (f"{row.target} {row.arm} {row.value:.2g} against {row.bound:.2g}" for row in rows.itertuples())
        lines.append(f"  {verdict}: {check}: " + "; ".join(" ".join(place.split()) for place in places))
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _q(q: float) -> str:
    return "q < 0.001" if q < 0.001 else f"q = {q:.3f}"
