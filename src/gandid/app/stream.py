"""The same experiment on the first latents of its seed, as they are measured: a small panel, estimated at every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr

from gandid.app.models import Model
from gandid.app.state import LATENTS, State, decode_region
from gandid.app.views import SIZABLE, edit
from gandid.estimation import did
from gandid.estimation.bounds import SUPPORT
from gandid.measure.experiment import Experiment
from gandid.measure.worker import Setting, Task, Worker, facts
from gandid.outcomes import pair_of
from gandid.panel.schema import PRESENCE, Classes
from gandid.panel.store import PanelStore
from gandid.panel.table import near, study_block
from gandid.verdicts import SOLID

STEP = 8  # latents between two estimates
VISIBLE = 0.0005  # share from which an object has a row of its own


@dataclass(frozen=True)
class Tally:
    """What the latents so far say."""

    latents: int
    images: int
    """In which the object is seen at all; of an insertion, all."""
    rows: pd.DataFrame
    """What is shown of the effects (`gandid.did`), and `solid`: whether the verdict is that normalization causes or prevents it."""
    strange: tuple[str, ...]
    """The support checks that flag the held arm: then nothing is claimed from it."""
    strongest: tuple[int, float]
    """The number of the image in which live and held differ most in the edited object, and by which share; NaN if none shows it."""


def tallies(model: Model, state: State) -> Iterator[Tally]:
    """Measure a settled state, whose units are named, on the first `LATENTS` latents, and estimate after each `STEP` of them.

    The networks have one copy for this: take no step of two at once.
    """
    block = study_block([(state.control, state.hold)], dose=state.alpha)
    block = block._replace(arms=(*block.arms, near(block.arms[1])))
    with model.hand:
        edits = {("own", 0): {state.target: edit(state, model)}}
        runner = model.runner(state.layer)
    inert = frozenset(site for site, responds in runner.responds.items() if not responds)
    shrinking = runner.closed_form and all(each.mode == "ablate" for each in state.edits())
    inserts = state.mode == "insert"  # in a region, which a settled state has
    height, width = runner.image_size
    region = torch.from_numpy(decode_region(state.region, (height, width))).float() if inserts else None
    experiment = Experiment((block,), edits, tuple(runner.downstream), inert, shrinking, region, inserts)
    store = PanelStore.create(
        None,
        experiment.panel(
            runner,
            {"segmenter": Classes(tuple(model.segmenter.classes), tuple(model.segmenter.background))},
            np.ones((1, 1)),
            {
                "image_pixels": int(np.prod(runner.image_size)),
                "presence": PRESENCE,
                "alpha": state.alpha,
                "edit": state.mode,
            },
        ),
    )
    networks, segmenters = {"own": model.for_numbers}, [model.segmenter]
    setting = Setting(
        networks=networks,
        segmenters=segmenters,
        discriminator=model.discriminator,
        layer=state.layer,
        experiment=experiment,
        seed=state.seed,
        batch=STEP,
        rows=model.rows,
        workers=1,
        dtype="fp32",
        expected=facts(runner),
    )
    worker = None
    for start in range(0, LATENTS, STEP):
        model.rest()
        worker = worker or Worker(setting)
        rows = worker.measure(Task(0, tuple(range(start, start + STEP)), start, (0,), STEP))
        store.write(store.arms, (0,), start, rows)
        yield _tally(store.read(), state)


def _tally(panel: xr.Dataset, state: State) -> Tally:
    effects = did(panel, resamples=0)  # the bootstrap's intervals are not shown
    rows, itself = effects.main, effects.main["object"] == state.target
    pair = pair_of(panel.attrs)
    asked = rows["outcome"].isin(pair)
    large = (rows[["tau_live", "tau_held", "did"]].abs() >= VISIBLE).any(axis=1)
    kept = asked & (rows["kind"] != "together") & (large & ~itself | itself & (rows["outcome"] == pair.own))
    checks = effects.checks
    flagged = checks[checks["check"].isin(SUPPORT) & (checks["verdict"] != "ok") & (checks["arm"] != "live")]
    seen = checks.loc[checks["check"] == "target_seen", "value"]
    shown = rows[kept].assign(solid=rows["verdict"].isin(SOLID))
    return Tally(
        effects.latents, int(seen.sum()), shown, tuple(dict.fromkeys(flagged["check"])), _strongest(panel, state)
    )


def _strongest(panel: xr.Dataset, state: State) -> tuple[int, float]:
    inside = panel["inside"].isel(segmenter=0, target=0).astype(float)
    carrying, whole = inside.sel(object=state.target), inside.sum("object").sel(arm="reference")
    live, held = (carrying.isel(arm=arm) for arm in (1, 2))
    wide = whole >= SIZABLE * panel.attrs["image_pixels"]
    gap = ((live - held) / whole.where(wide)).values * (-1 if state.mode == "ablate" else 1)
    if np.isnan(gap).all():
        return 0, float("nan")
    most = int(np.nanargmax(np.abs(gap)))
    return most, float(gap[most])
