"""The section of the checks: what each asks, and whether it holds."""

from typing import Any

from gandid.did.checks import SUPPORT
from gandid.did.words import SUPPORT_WORDS
from gandid.report.folder import Run

TITLES = {
    "target_seen": ("Images that show the target", "Are there enough images for an interval?"),
    "strain": ("Strain", "Are held statistics within the range in which they move between unedited images?"),
    "realism": ("Realism", "Does the discriminator find the images as real as unedited ones?"),
    "unknown": ("Unknown pixels", "Does the segmenter know what it sees?"),
    "unknown_inside": ("Unknown pixels in the hole", "Does it know what the target turned into?"),
    "baseline_gap": ("Baseline gap", "Does holding leave the unedited image as it is?"),
    "placebo_site": ("Placebo site", "Does holding a site upstream of the edit change nothing?"),
    "responds": ("Sites that respond", "Can a held site's statistic respond to an edit at all?"),
    "gain": ("Gain", "Does the measured gain follow its closed form?"),
    "stability": ("Stability", "Do two halves of the latents agree?"),
    "baseline_area": (
        "Baseline areas",
        "Do a control’s own unedited images show as much of each class as the network’s?",
    ),
    "parallel_trends": ("Parallel trends", "Do live and control move alike where the mechanism hardly acts?"),
    "dose": ("Dose-response", "Is the difference zero without an edit, and does it grow with the edit’s size?"),
    "shapley_efficiency": ("Shapley efficiency", "Do the sites’ shares add up to the whole effect?"),
    "placebo_units": ("Placebo units", "Does the effect lie beyond those of random units of the same number?"),
    "placebo_object": ("Placebo object", "Does a class of pixels dealt out at random show no effect?"),
    "uncertain": ("Uncertain pixels", "Is the segmenter as sure of edited images as of unedited ones?"),
    "ground_truth": ("Ground truth", "Does the segmenter find the right class where it is known?"),
    "second_segmenter": ("Second segmenter", "Does another segmenter see the same effect?"),
}


def checks_section(run: Run) -> dict[str, Any]:
    """What the page says of the checks: those that are not ok, all by kind, and the support of each arm."""
    checks = run.effects.checks
    rank = {"failed": 0, "flagged": 1}
    lines = [
        {
            "check": TITLES.get(row["check"], (row["check"], ""))[0],
            "kind": row["check"],
            "target": row["target"],
            "arm": row["arm"],
            "value": f"{row['value']:.3g}".replace("-", "−"),
            "bound": f"{row['bound']:.3g}".replace("-", "−"),
            "verdict": row["verdict"],
            "detail": row["detail"],
        }
        for row in checks.to_dict("records")
    ]
    groups = []
    for kind in dict.fromkeys(checks["check"]):
        of = [line for line in lines if line["kind"] == kind]
        counts = {name: sum(line["verdict"] == name for line in of) for name in ("ok", "flagged", "failed")}
        title, asks = TITLES.get(kind, (kind, ""))
        groups.append({"title": title, "asks": asks, "counts": counts, "lines": of})
    groups.sort(key=lambda group: (-group["counts"]["failed"], -group["counts"]["flagged"]))
    bad = [line for line in lines if line["verdict"] != "ok"]
    bad.sort(key=lambda line: rank.get(line["verdict"], 2))
    return {
        "total": len(lines),
        "ok": len(lines) - len(bad),
        "bad": bad,
        "groups": groups,
        "support": _support(run),
        "arms": ["live", *(arm.label for arm in run.arms)],
    }


def _support(run: Run) -> list[dict[str, Any]]:
    """Per target and arm, the support checks that are flagged, in a word each."""
    checks = run.effects.checks
    flagged = checks[checks["check"].isin(SUPPORT) & (checks["verdict"] != "ok")]
    regimes = [("live",), *(arm.names for arm in run.arms)]
    return [
        {
            "target": target,
            "cells": [
                [SUPPORT_WORDS[check] for check in dict.fromkeys(rows["check"])]
                for names in regimes
                for rows in [flagged[(flagged["target"] == target) & flagged["arm"].isin(names)]]
            ],
        }
        for target in run.targets
        if run.estimable(target)
    ]
