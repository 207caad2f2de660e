"""Effects in plain words that claim no more than is shown."""

from typing import TYPE_CHECKING

import pandas as pd

from gandid import outcomes
from gandid.estimation.bounds import SUPPORT, VISIBLE
from gandid.estimation.plot import shown
from gandid.panel.table import LEARNED
from gandid.text import number, percent, points, signed
from gandid.verdicts import CAUSED, PREVENTED, SOLID, UNSETTLED

if TYPE_CHECKING:
    from gandid.estimation.effects import Effects

NAMED = 3  # effects and objects named per clause; the table has them all
MECHANISMS = {"capped": "Amplification by", "frozen": "Response of", "mean": "Departure from a constant of"}
SITES = {"first": "the first normalization", "all": "all downstream normalizations"}
VERBS = {
    ("removed", CAUSED): "removes {size} points more of it",
    ("removed", PREVENTED): "self-repair, {size} points of it painted again",
    ("inpainted", CAUSED): "in-paints {size} points of it with {object}",
    ("inpainted", PREVENTED): "keeps {object} from in-painting {size} points of it",
    ("inserted", CAUSED): "inserts it in {size} points more of the region",
    ("inserted", PREVENTED): "keeps it from {size} points of the region",
    ("displaced", CAUSED): "takes {size} points more of the region from {object}",
    ("displaced", PREVENTED): "leaves {size} points of the region to {object}",
}


def sentence(effects: "Effects", target: str, control: str) -> str:
    """What the edit of one target does, and how much of that normalization causes by a control, and by other networks.

    An effect is claimed where its verdict says that normalization causes or prevents it (`gandid.verdicts`).
    """
    rows = effects.main[effects.main["target"] == target]
    checks = effects.checks[effects.checks["target"].isin([target, ""])]
    if not rows["estimable"].any():
        seen = checks.loc[checks["check"] == "target_seen", "detail"]
        why = seen.iloc[0] if len(seen) else f"'{target}': not estimable"
        return why[0].upper() + why[1:] + "."
    parts = [_live(effects, target, rows)]
    if why := out_of_support(checks[checks["arm"] == "live"]):
        parts.append(f"The edited images themselves leave the range of the unedited ones ({why}).")
    partly = effects.frame[(effects.frame["contrast"] == "strength") & (effects.frame["strength"] < 1)]
    partly = partly[(partly["target"] == target) & (partly["control"] == control) & partly["supported"]]
    partly = partly[partly["strength"] == partly["strength"].max()]
    spoken = pd.concat([partly, rows[rows["control"].isin({control, "twin"} - {*LEARNED})]])
    parts += [_held(effects, one, checks[checks["arm"] == arm]) for arm, one in spoken.groupby("arm", sort=False)]
    pooled = effects.frame[(effects.frame["contrast"] == "networks") & (effects.frame["control"] == "distilled")]
    pooled = pooled[(pooled["target"] == target) & (pooled["dose"] == rows["dose"].iloc[0])]
    if len(pooled):
        parts.append(_distilled(effects, pooled[pooled["segmenter"] == rows["segmenter"].iloc[0]]))
    return " ".join(parts)


def summary(effects: "Effects") -> str:
    """A header, the whole effects, and the checks that did not pass."""
    facts = [
        f"{effects.latents:,} latents",
        *(effects.attrs[name] for name in ("generator", "layer") if name in effects.attrs),
    ]
    lines = ["Difference-in-differences: " + " · ".join([*facts, f"{effects.level:.0%} intervals"])]
    width = max((len(row["arm"]) for row in shown(effects)), default=0)
    lines += [
        "",
        f"{effects.pair.done:<10}{'outcome':<11}{'held':<{width}}{'live %':>8}{'held %':>8}  live - held, points",
    ]
    for row in shown(effects):
        shares = "".join(f"{number(100 * row[name]):>8}" for name in ("tau_live", "tau_held"))
        names = f"{row['target'][:9]:<10}{row['outcome']:<11}{row['arm']:<{width}}"
        lines.append(f"{names}{shares}  {points(row):<23}{row['verdict']}")
    bad = effects.checks[effects.checks["verdict"] != "ok"]
    lines += ["", f"Checks: {len(effects.checks) - len(bad)} of {len(effects.checks)} ok"]
    for (verdict, check), rows in bad.groupby(["verdict", "check"], sort=False):
        places = (f"{row.target} {row.arm} {row.value:.2g} against {row.bound:.2g}" for row in rows.itertuples())
        lines.append(f"  {verdict}: {check}: " + "; ".join(" ".join(place.split()) for place in places))
    return "\n".join(lines)


def out_of_support(checks: pd.DataFrame) -> str:
    """The support checks that an arm does not pass, each with its value and its bound; empty if it passes."""
    bad = checks[checks["check"].isin(SUPPORT) & (checks["verdict"] != "ok")]
    return ", ".join(f"{row.check} {row.value:.2g} against {row.bound:.2g}" for row in bad.itertuples())


def _live(effects: "Effects", target: str, rows: pd.DataFrame) -> str:
    """What the edit does with every normalization live."""
    one, pair = rows[rows["arm"] == rows["arm"].iloc[0]], effects.pair
    own = one[one["outcome"] == pair.own].iloc[0]
    units, inserts = effects.units.get(target), pair.inserts
    subject = f"the {units} units of {target}" if units else f"the units of {target}"
    images = f"({own['n']:,.0f} images)"
    text = f"Ablating {subject} removes {percent(own['tau_live'])} of its pixels {images}"
    if inserts:
        text = f"Inserting {subject} changes its share of the region by {signed(100 * own['tau_live'])} points {images}"
    objects = one[(one["outcome"] == pair.others) & (one["kind"] == "object")].sort_values("tau_live", ascending=False)
    total, named = objects["tau_live"].sum(), objects[(objects["tau_live"] >= VISIBLE) & (objects["ci_live_low"] > 0)]
    names = ", ".join(f"{row.object} {percent(row.tau_live)}" for row in named[:NAMED].itertuples())
    if total < VISIBLE:
        return (
            text + f"; {'other objects lose hardly any' if inserts else 'hardly any of them turn into another object'}."
        )
    named = names or "no one of them beyond noise"
    return (
        text
        + f"; {f'other objects lose {percent(total)}' if inserts else f'{percent(total)} turn into other objects'} ({named})."
    )


def _held(effects: "Effects", rows: pd.DataFrame, checks: pd.DataFrame) -> str:
    """What normalization causes, by one held arm."""
    control, held = rows["control"].iloc[0], rows["held"].iloc[0]
    partly = f" at strength {rows['strength'].iloc[0]:g}" if rows["strength"].iloc[0] < 1 else ""
    lead = f"{MECHANISMS.get(control, '')} {SITES.get(held, held)} ({control} control, {held} held{partly})"
    if control == "twin":
        lead = "The network against its twin without normalization" + (f" {held}" if held != "all" else "")
    still = checks[(checks["check"] == "responds") & (checks["verdict"] != "ok")]
    if len(still):
        return f"{lead}: exactly none, since {still['detail'].iloc[0]}."
    if why := out_of_support(checks):
        return f"{lead}: no claim, since the held arm leaves the network's range ({why})."
    claims = _claims(rows[rows["verdict"].isin(SOLID) & rows["kind"].isin(["target", "object"])])
    if not claims:
        return f"{lead}: {_nothing(effects, rows)}."
    if control in ("mean", "twin"):
        claims.append("if the two would have moved alike (parallel trends)")
    return f"{lead}: {'; '.join(claims)}."


def _distilled(effects: "Effects", rows: pd.DataFrame) -> str:
    """What normalization causes, by networks that learned the same images with it and without it."""
    lead = f"Having normalization, over {rows['n'].iloc[0]:.0f} networks that make the same images (distilled control)"
    whole = rows[rows["verdict"].isin(SOLID) & outcomes.whole(rows)]
    return f"{lead}: {'; '.join(_claims(whole)) or _nothing(effects, rows)}."


def _claims(found: pd.DataFrame) -> list[str]:
    """Effects in words, the largest of each outcome first."""
    claims = []
    for outcome in (name for name in outcomes.WHOLE if name in found["outcome"].values):
        one = found[found["outcome"] == outcome]
        one = one.reindex(one["did"].abs().sort_values(ascending=False, kind="stable").index)
        for row in one[:NAMED].to_dict("records"):
            verb = VERBS[outcome, row["verdict"]].format(size=f"{100 * abs(row['did']):.1f}", object=row["object"])
            ends = sorted((100 if row["did"] > 0 else -100) * row[end] for end in ("fcr_low", "fcr_high"))
            claims.append(f"{verb} [{ends[0]:.1f}, {ends[1]:.1f}]")
    return claims


def _nothing(effects: "Effects", rows: pd.DataFrame) -> str:
    """What is said where no effect is claimed: that none is relevant, or that it is not settled."""
    whole = rows[outcomes.whole(rows)]
    limit = f"{100 * effects.relevant:g} point{'' if effects.relevant == 0.01 else 's'}"
    unsettled = whole[whole["verdict"] == UNSETTLED]
    if unsettled.empty:
        return f"no relevant effect, none on it or on other objects together reaches {limit}"
    wanted = unsettled["settled_by"].max(skipna=False)
    more = "" if pd.isna(wanted) else f"; {wanted:,.0f} latents might settle it"
    return f"not settled whether it makes a difference of {limit}{more}"
