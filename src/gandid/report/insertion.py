"""What the page says of insertion: where a target appears when its units are set to what they are where it is seen."""

from typing import Any

import numpy as np

from gandid.report import figures, pictures
from gandid.report.folder import Run, label
from gandid.report.text import number, percent


def insertion(run: Run, target: str) -> dict[str, Any] | None:
    """Images of one insertion, maps of where it works, and a table of the grounds; None if it was not measured."""
    if run.insertion is None or not run.insertion["weight"].sel(target=target).any():
        return None
    found = run.insertion.sel(target=target)
    arms = {str(arm): "live" if arm == "live" else label([str(arm)]) for arm in found["arm"].values}
    maps = 100 * found["appeared_map"].values
    high = max(float(np.nanmax(maps, initial=0.0)), 0.1)
    return {
        "latent": int(found["shown_latent"]),
        "pictures": _images(run, target, {"original": "before", **arms}) if found["shown_latent"] >= 0 else [],
        "maps": [
            {
                "title": title,
                "src": pictures.heat(values, 0, high, figures.SHARE),
                "alt": f"Map for {target} inserted, {title}: from {np.nanmin(values):.1f} to {np.nanmax(values):.1f} % of "
                "the region turn into it, by the region’s place",
            }
            for title, values in zip(arms.values(), maps, strict=True)
        ],
        "scale": pictures.scale(0, high, figures.SHARE, "% of the region"),
        "arms": list(arms.values()),
        "lines": _grounds(run, target),
        "latents": run.insertion.attrs["latents"],
    }


def _grounds(run: Run, target: str) -> list[dict[str, Any]]:
    """What share of the regions' pixels became the target's, in all and by what they were before, the largest first."""
    assert run.insertion is not None
    found = run.insertion.sel(target=target)
    classes = found["object"].values
    weights = np.where(classes == target, 0, found["weight"].values)
    lines = [("all", 1.0, [found[name].values for name in ("total", "total_low", "total_high")])]
    for place in np.argsort(-weights, kind="stable")[: np.count_nonzero(weights)]:
        values = [found[name].isel(object=place).values for name in ("appeared", "low", "high")]
        lines.append((str(classes[place]), weights[place] / weights.sum(), values))
    return [
        {
            "ground": ground,
            "share": number(weight),
            "cells": [
                {"value": number(value), "interval": f"[{number(low)}, {number(high)}]"}
                for value, low, high in zip(*values, strict=True)
            ],
        }
        for ground, weight, values in lines
    ]


def _images(run: Run, target: str, arms: dict[str, str]) -> list[dict[str, str]]:
    """The images of one insertion, each with the region and what appeared."""
    assert run.insertion is not None
    found = run.insertion.sel(target=target)
    classes = [str(name) for name in found["object"].values]
    region, before = found["region"].values.astype(bool), found["label"].sel(arm2="original").values
    shown = []
    for arm, title in arms.items():
        seen = found["label"].sel(arm2=arm).values
        filled = percent(float((seen[region] == classes.index(target)).mean()))
        shown.append(
            {
                "title": title,
                "src": pictures.picture(found["image"].sel(arm2=arm).values),
                "region": pictures.path(region),
                "came": pictures.path(pictures.change(before, seen, classes, run.objects, target).appeared),
                "text": f"{filled} {target}",
                "alt": f"{target} inserted, {title}: it covers {filled} of the region",
                "box": f"0 0 {region.shape[1]} {region.shape[0]}",
                "aspect": f"{region.shape[1]} / {region.shape[0]}",
            }
        )
    return shown
