"""Effects in plain words that claim no more than is shown."""

from typing import TYPE_CHECKING

import pandas as pd

from gandid.estimation.bounds import SHOWN, SUPPORT, VISIBLE
from gandid.stats import CARRIERS

if TYPE_CHECKING:
    from gandid.estimation.effects import Effects

NAMED = 3  # effects and objects named per clause; the table has them all
SUPPORT_WORDS = {
    "strain": "strain",
    "realism": "realism",
    "unknown": "unknown pixels",
    "unknown_inside": "unknown pixels in the hole",
    "uncertain": "pixels of which the segmenter is uncertain",
}
MECHANISMS = {"capped": "Amplification by", "frozen": "Response of", "mean": "Departure from a constant of"}
SITES = {"first": "the first normalization", "all": "all downstream normalizations"}


def sentence(effects: "Effects", target: str, control: str) -> str:
    """What ablating one target does to the others, and how much of that normalization causes.

    Effects count as shown if their q-value is below `SHOWN` and their held arm is supported.
    """
    rows = effects.main[effects.main["target"] == target]
    checks = effects.checks[effects.checks["target"].isin([target, ""])]
    if not rows["estimable"].any():
        seen = checks.loc[checks["check"] == "target_seen", "detail"]
        why = seen.iloc[0] if len(seen) else f"'{target}': not estimable"
        return why[0].upper() + why[1:] + "."
    parts = [_live(effects, target, rows)]
    if why := out_of_support(checks[checks["arm"] == "live"]):
        parts.append(f"The ablated images themselves leave the range of the unedited ones ({why}).")
    outside = []
    for arm in dict.fromkeys(rows["arm"]):
        one, about = rows[rows["arm"] == arm], checks[checks["arm"] == arm]
        if one["control"].iloc[0] in (control, "twin"):
            parts.append(_held(one, about))
        elif why := out_of_support(about):
            outside.append(f"{arm} ({why})")
    if outside:
        parts.append(f"Outside the network's range, so not claimed: {'; '.join(outside)}.")
    return " ".join(parts)


def summary(effects: "Effects") -> str:
    """A header, a table per held arm, the sentences, and the checks that did not pass."""
    attrs = effects.attrs
    facts = [f"{effects.latents:,} latents", *(str(attrs[name]) for name in ("generator", "layer") if name in attrs)]
    lines = ["Difference-in-differences: " + " · ".join([*facts, f"{effects.level:.0%} intervals"])]
    for arm in effects.arms:
        title = f"{arm} · DID = live - held, in points of the target's original pixels"
        lines += ["", title, _table(effects, arm)]
    bad = effects.checks[effects.checks["verdict"] != "ok"]
    lines += ["", *(f"- {text}" for text in effects.sentences()), ""]
    lines.append(f"Checks: {len(effects.checks) - len(bad)} of {len(effects.checks)} ok")
    for (verdict, check), rows in bad.groupby(["verdict", "check"], sort=False):
        places = (f"{row.target} {row.arm} {row.value:.2g} against {row.bound:.2g}" for row in rows.itertuples())
        lines.append(f"  {verdict}: {check}: " + "; ".join(" ".join(place.split()) for place in places))
    return "\n".join(lines)


def out_of_support(checks: pd.DataFrame) -> str:
    """The support checks that an arm does not pass, each with its value and its bound; empty if it passes."""
    bad = checks[checks["check"].isin(SUPPORT) & (checks["verdict"] != "ok")]
    names = (f"{SUPPORT_WORDS[row.check]} {row.value:.2g} against {row.bound:.2g}" for row in bad.itertuples())
    return ", ".join(names)


def _live(effects: "Effects", target: str, rows: pd.DataFrame) -> str:
    """What the ablation does with every normalization live."""
    one = rows[rows["arm"] == rows["arm"].iloc[0]]
    removed = one[one["outcome"] == "removed"].iloc[0]
    units = effects.units.get(target)
    subject = f"the {units} units of {target}" if units else f"the units of {target}"
    share, images = _percent(removed["tau_live"]), f"{removed['n']:,.0f} images"
    text = f"Ablating {subject} removes {share} of its pixels ({images})"
    objects = one[(one["outcome"] == "inpainted") & (one["kind"] == "object")].sort_values("tau_live", ascending=False)
    named = objects[(objects["tau_live"] >= VISIBLE) & (objects["ci_live_low"] > 0)][:NAMED]
    total = objects["tau_live"].sum()
    names = ", ".join(f"{row.object} {_percent(row.tau_live)}" for row in named.itertuples())
    if total < VISIBLE:
        return text + "; hardly any of them turn into another object."
    return text + f"; {_percent(total)} turn into other objects ({names or 'no one of them beyond noise'})."


def _held(rows: pd.DataFrame, checks: pd.DataFrame) -> str:
    """What normalization causes, by one held arm."""
    control, held = rows["control"].iloc[0], rows["held"].iloc[0]
    lead = f"{MECHANISMS.get(control, '')} {SITES.get(held, held)} ({control} control, {held} held)"
    if control == "twin":
        lead = "The network against its twin without normalization" + (f" {held}" if held != "all" else "")
    still = checks[(checks["check"] == "responds") & (checks["verdict"] != "ok")]
    if len(still):
        return f"{lead}: exactly none, since {still['detail'].iloc[0]}."
    if why := out_of_support(checks):
        return f"{lead}: no claim, since the held arm leaves the network's range ({why})."
    shown = rows[(rows["q"] < SHOWN) & (rows["did"].abs() >= VISIBLE / 2)]
    claims = [claim for outcome in ("removed", "inpainted") for claim in _claims(shown[shown["outcome"] == outcome])]
    if not claims:
        return f"{lead}: no effect beyond noise on it or on another object."
    if control in ("mean", "twin"):
        claims.append("if the two would have moved alike (parallel trends)")
    unstable = checks[(checks["check"] == "stability") & (checks["verdict"] != "ok")]
    if len(unstable):
        claims.append(f"but the halves of the latents disagree (z = {unstable['value'].iloc[0]:.1f})")
    return f"{lead}: {'; '.join(claims)}."


def _claims(rows: pd.DataFrame) -> list[str]:
    """The shown effects of one outcome on the target and on other objects in words, largest first."""
    rows = rows[rows["kind"].isin(["target", "object"])]
    rows = rows.reindex(rows["did"].abs().sort_values(ascending=False, kind="stable").index)
    claims = []
    for row in rows[:NAMED].to_dict("records"):
        size, name = f"{100 * abs(row['did']):.1f} points", row["object"]
        verb = {
            ("removed", True): f"removes {size} more of it",
            ("removed", False): f"self-repair, {size} of it painted again",
            ("inpainted", True): f"in-paints {size} of it with {name}",
            ("inpainted", False): f"keeps {name} from in-painting {size} of it",
        }[row["outcome"], row["did"] > 0]
        sign = 100 if row["did"] > 0 else -100  # the verb says the sign
        ends = sorted((sign * row["ci_low"], sign * row["ci_high"]))
        few = f", carried by {row['carriers']:.0f} images only" if row["carriers"] < CARRIERS else ""
        claims.append(f"{verb} [{ends[0]:.1f}, {ends[1]:.1f}], {_q(row['q'])}{few}")
    return claims


def _table(effects: "Effects", arm: str) -> str:
    """Per target: removed, and the objects that normalization makes in-paint it."""
    rows = effects.main[effects.main["arm"] == arm]
    cells = []
    for target in effects.targets:
        one = rows[rows["target"] == target]
        removed = one[one["outcome"] == "removed"].iloc[0]
        if not removed["estimable"]:
            cells.append({"target": target, "removed live": "not estimable"})
            continue
        objects = one[(one["outcome"] == "inpainted") & (one["kind"] == "object")]
        shown = objects[objects["q"] < SHOWN].sort_values("did", ascending=False)
        cells.append(
            {
                "target": target + ("" if removed["supported"] else " *"),
                "removed live": _percent(removed["tau_live"]),
                "held": _percent(removed["tau_held"]),
                "DID": "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * removed[["did", "ci_low", "ci_high"]])),
                "q": _q(removed["q"]).removeprefix("q ").removeprefix("= "),
                "objects in-paint live": _percent(objects["tau_live"].sum()),
                "objects held": _percent(objects["tau_held"].sum()),
                "DIDs shown": ", ".join(f"{row.object} {100 * row.did:+.1f}" for row in shown.itertuples()) or "none",
            }
        )
    table = pd.DataFrame(cells).fillna("").to_string(index=False)
    marked = any(cell["target"].endswith(" *") for cell in cells)
    return table + ("\n* the held arm leaves the network's range: not to be read as an effect" if marked else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _q(q: float) -> str:
    return "q < 0.001" if q < 0.001 else f"q = {q:.3f}"
