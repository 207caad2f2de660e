"""What the page says of the relation after a target's ablation: the ACE of the other objects' own units, and its ranks."""

from typing import Any

from gandid.report import figures, paper
from gandid.report.folder import Run
from gandid.report.text import plain


def after(run: Run, target: str, slug: str) -> dict[str, Any] | None:
    """A chart and its numbers; None if they were not measured."""
    if run.after is None or not paper.others(run, target):
        return None
    found = run.after.sel(target=target)
    arms = [str(arm) for arm in found["arm"].values]
    held = [paper.arm_named(run, arm) for arm in arms]
    labels = [arm.label if arm else "live" for arm in held]
    lines: list[dict[str, Any]] = []
    for name in paper.others(run, target):
        before, *ranks = paper.ranks(run, target, name)
        cells = []
        for arm, rank in zip(arms, ranks, strict=True):
            ratio, low, high = map(plain, paper.ratios(run, target, arm, name))
            cells.append(
                {
                    "ratio": f"{ratio} [{low}, {high}]",
                    "rank": f"{before} → {rank}",
                    "correlation": plain(float(found["rank_correlation"].sel(arm=arm, object=name))),
                }
            )
        lines.append({"object": name, "cells": cells})
    told = [
        ", ".join(
            [line["object"], *(f"{label} {cell['ratio']}" for label, cell in zip(labels, line["cells"], strict=True))]
        )
        for line in lines
    ]
    alt = f"Chart. ACE of the other objects after the ablation of {target}, over their ACE before: {'; '.join(told)}."
    return {
        "chart": figures.inline(paper.after_panel(run, target), f"after-{slug}", alt),
        "legend": [
            {"label": label, "place": figures.variable(run, arm)} for label, arm in zip(labels, held, strict=True)
        ],
        "arms": labels,
        "lines": lines,
        "latents": run.after.attrs["latents"],
        "units": run.after.attrs["units"],
    }
