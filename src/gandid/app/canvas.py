"""What the pictures and the list of units show: from a view to the values that `static/*.js` draw."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import colormaps

from gandid.app.models import Model, Ranked
from gandid.app.state import State, decode_region
from gandid.app.views import View, difference
from gandid.report import pictures
from gandid.text import listed, number

LISTED = 48  # units that the list shows, beside those that are ticked
FAINT = 0.05  # of the full brightness: the least that the colours of the difference reach to, or noise would look like an effect
SMOOTH = 96  # images wider than this are shown smooth; of smaller ones every pixel is seen


def canvas_value(view: View, model: Model, query: str) -> dict[str, Any]:
    """What the pictures need, for `canvas.js`."""
    classes, state = list(model.segmenter.classes), view.state
    target = classes.index(state.target)
    seen = view.labels if len(classes) <= 256 else view.labels % 256
    return {
        "size": list(view.labels.shape[1:]),
        "map": list(view.activations.shape[1:]),
        "panels": _panels(view, model),
        "waiting": ["", "Live: soon", "Held: soon", "What normalization did: soon"],
        "labels": [base64.b64encode(each.astype(np.uint8).tobytes()).decode() for each in seen],
        "outline": pictures.path(view.labels[0] == target),
        "classes": classes,
        "colours": colours(len(classes)),
        "objects": [classes.index(name) for name in model.objects],
        "target": target,
        "region": _cells(state.region),
        "beside": [
            {"class": classes.index(each.target), "outline": pictures.path(mask), "region": _cells(each.region)}
            for each, mask in zip(state.edits()[1:], view.counted[1:], strict=True)
        ],
        "query": query,
        "now": {name: str(getattr(state, name)) for name in ("number", "alpha", "layer")},
        "reset": State(state.generator, state.seed, state.number, target=state.target).query(),
        "caption": _caption(view, len(classes), target),
    }


def _cells(region: str) -> str:
    """A region, a digit for each position; empty for everywhere."""
    return "".join("1" if on else "0" for on in decode_region(region).ravel()) if region else ""


def _caption(view: View, classes: int, target: int) -> str:
    """What a small picture of the state says under it: how much of the object is there, live and held."""
    if not view.edited or not view.measured.any():
        return view.state.target
    _, live, held = view.shares(classes)[:, target]
    return f"{view.state.target} {100 * live:.0f} / {100 * held:.0f} %"


def _panels(view: View, model: Model) -> list[dict[str, str]]:
    """The pictures, one after the other."""
    state, classes = view.state, list(model.segmenter.classes)
    image, target = f"image {state.number} of seed {state.seed}", escape(state.target)
    panels = [
        {
            "title": "Original",
            "src": pictures.picture(view.images[0]),
            "alt": f"{image.capitalize()}.",
            "note": f"{image}<br>outlined: {', '.join(escape(each.target) for each in state.edits())}",
        }
    ]
    if not view.edited:
        return panels
    title = "edited" if state.also else state.title  # several names would hide what follows them
    edited = listed(each.title for each in state.edits())
    regimes = "normalization as it is", f"{state.control}, {'all sites' if state.hold == 'all' else 'first site'}"
    for arm, (name, regime) in enumerate(zip(("live", "held"), regimes, strict=True), start=1):
        change = pictures.change(view.labels[0], view.labels[arm], classes, list(model.objects), state.target)
        panels.append(
            {
                "title": f"{title[0].upper()}{title[1:]}: {name}",
                "src": pictures.picture(view.images[arm]),
                "alt": f"The image with {edited}, {name} ({regime}).",
                "note": f"{regime}<br>{_key(f'{target} vanished', 'objects appeared')}",
            }
            | _outlines(change.vanished, change.appeared)
        )
    # Pixels that lose, and that gain, an object by normalization's being live instead of held.
    numbers, (live, held) = [classes.index(name) for name in model.objects], view.labels[1:3]
    gone, came = (live != held) & np.isin(held, numbers), (live != held) & np.isin(live, numbers)
    moved = difference(view)
    most = max(FAINT, float(np.abs(moved).max()))
    colours = "<i class='key more'></i> brighter <i class='key less'></i> darker"
    panels.append(
        {
            "title": "What normalization did",
            "src": pictures.signed_heat(moved / most),
            "alt": f"Signed difference of the two edited images, up to {100 * most:.0f} percent of the full brightness.",
            "note": f"live − held: {colours}<br>{_key('objects lost', 'objects gained')}",
        }
        | _outlines(gone, came)
    )
    return panels


def _outlines(gone: np.ndarray, came: np.ndarray) -> dict[str, str]:
    return {"gone": pictures.path(gone), "came": pictures.path(came)}


def _key(gone: str, came: str) -> str:
    return f"<i class='key gone'></i> {gone} <i class='key came'></i> {came}"


def colours(count: int) -> list[list[int]]:
    """A colour per class, red, green and blue in 0 .. 255."""
    palette = colormaps["tab20" if count > 10 else "tab10"]
    return [[round(255 * c) for c in palette(k % palette.N)[:3]] for k in range(count)]


def units_value(view: View, ranked: Ranked, ticked: Sequence[int]) -> dict[str, Any]:
    """The rows of the list of units, best first, for `units.js`; those that are ticked are always among them."""
    if ranked.relation is None:
        return {"rows": [], "map": [1, 1], "image": pictures.picture(view.images[0]), "smooth": False}
    known = ranked.relation.sel(object=view.state.target)
    ace, iou, energy = (known[name].values for name in ("ace", "iou", "energy"))
    order = np.argsort(-ace, kind="stable")
    shown = [int(unit) for rank, unit in enumerate(order) if rank < LISTED or unit in ticked]
    rows = []
    for unit in shown:
        active = np.clip(view.activations[unit], 0, None)
        scaled = np.round(255 * active / max(float(active.max()), 1e-12)).astype(np.uint8)
        rows.append(
            {
                "unit": unit,
                "on": unit in ticked,
                "facts": f"ACE {number(100 * ace[unit], 2)} · IoU {iou[unit]:.2f} · energy {energy[unit]:.2f}",
                "map": base64.b64encode(scaled.tobytes()).decode(),
            }
        )
    return {
        "rows": rows,
        "map": list(view.activations.shape[1:]),
        "image": pictures.picture(view.images[0]),
        "smooth": view.images.shape[2] > SMOOTH,
    }
