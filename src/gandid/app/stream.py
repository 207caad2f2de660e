"""The same experiment on the first latents of its seed, as they are measured: a small panel, estimated at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from gandid import did
from gandid.app.experiment import edit
from gandid.app.models import Model
from gandid.app.state import State
from gandid.did.checks import SUPPORT
from gandid.studies.design import Design, Held
from gandid.studies.panel import empty_panel
from gandid.studies.store import SUMMED, PanelStore
from gandid.studies.study import PRESENCE
from gandid.studies.worker import Worker

LATENTS = 64
STEP = 8  # latents between two estimates
VISIBLE = 0.0005  # share from which an object has a row of its own


@dataclass(frozen=True)
class Row:
    """One outcome: live, held, their difference-in-differences and its 95 % interval; all are shares."""

    outcome: str
    object: str
    background: bool
    live: float
    held: float
    did: float
    low: float
    high: float
    shown: bool
    """Whether q < 0.05 within its family (`gandid.did.estimate`)."""


@dataclass(frozen=True)
class Tally:
    """What the latents so far say."""

    latents: int
    of: int
    images: int
    """In which the object is seen at all."""
    rows: tuple[Row, ...]
    strange: tuple[str, ...]
    """The support checks that flag the held arm: then nothing is claimed from it."""
    gain_map: np.ndarray
    """Mean gain at the first site, (h, w)."""


def tallies(model: Model, state: State, units: Sequence[int], abandoned: Callable[[], bool]) -> Iterator[Tally]:
    """Measure a settled state on the first `LATENTS` latents, and estimate after each `STEP` of them.

    Ends early once `abandoned()` is true, which is asked between the steps.
    """
    with model.hand:
        change = edit(state, model, units)
        runner = model.runner(state.layer)
    held = (Held(state.control, state.hold),)
    shrinking = state.mode == "ablate" and runner.closed_form
    still = not any(runner.responds[site] for site in held[0].sites(runner.downstream))
    design = Design({state.target: change}, held, shrinking=shrinking, inert=frozenset(held if still else ()))
    attrs = {"image_pixels": int(np.prod(runner.image_size)), "presence": PRESENCE, "alpha": state.alpha}
    judged = model.discriminator is not None
    store = PanelStore.create(None, empty_panel(runner, model.segmenter, design, attrs, judged=judged))
    worker = None
    for start in range(0, LATENTS, STEP):
        if abandoned():
            return
        with model.numbers:
            worker = worker or Worker(
                model.for_numbers,
                model.segmenter,
                model.discriminator,
                state.layer,
                design,
                state.seed,
                "fp32",
                STEP,
                model.rows,
            )
            measured = worker.measure(range(start, start + STEP))
        store.append(measured, {name: measured[name] for name in SUMMED})
        yield _tally(store.read(), state)


def _tally(panel: xr.Dataset, state: State) -> Tally:
    effects = did.estimate(panel)
    frame, checks = effects.to_frame(), effects.checks
    outcomes = ("removed", "inpainted") if state.mode == "ablate" else ("area",)
    rows = []
    for outcome in outcomes:
        for each in frame[frame["outcome"] == outcome].to_dict("records"):
            name, itself = str(each["object"]), each["object"] == state.target
            live, held, gap, low, high, q = (
                float(each[column]) for column in ("tau_live", "tau_held", "did", "ci_low", "ci_high", "q")
            )
            if itself and outcome == "inpainted":
                continue
            if not itself and np.nanmax(np.abs([live, held, gap, 0])) < VISIBLE:
                continue
            background = each["kind"] != "object" and not itself
            rows.append(Row(outcome, name, background, live, held, gap, low, high, shown=q < 0.05))
    flagged = checks[checks["check"].isin(SUPPORT) & (checks["verdict"] != "ok") & (checks["arm"] != "live")]
    seen = checks.loc[checks["check"] == "target_seen", "value"]
    return Tally(
        panel.sizes["latent"],
        LATENTS,
        int(seen.iloc[0]) if len(seen) else 0,
        tuple(rows),
        tuple(dict.fromkeys(flagged["check"])),
        panel["gain_map"].values[0],
    )
