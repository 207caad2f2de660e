"""What the page shows, as one value: it is the address of the page, and the configuration of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

import numpy as np

from gandid.interventions import EXACT_CONTROLS

MODES = ("ablate", "insert")
HOLDS = ("first", "all")
MOST_UNITS = 64  # that the slider reaches
_REGION = re.compile(r"(\d{1,3})x(\d{1,3}):([0-9a-f]+)")


@dataclass(frozen=True)
class State:
    """One experiment on one image.

    Parameters
    ----------
    generator : str
        Name of one of the page's generators; empty for the one it was started with.
    seed, number : int
        The image is that of latent `number` of `seed`, as in a study (`gandid.studies.latents`).
    layer : str
        Whose output is edited; empty for the default.
    target : str
        The object whose units are edited.
    units : tuple of int, or None
        The units that were ticked; None for the `count` of largest ACE.
    count : int
        How many are taken of the ranking.
    alpha : float
        Share of the way to the edited value, in [0, 1].
    control, hold : str
        Which statistic the held arm is given, and at which sites.
    mode : {"ablate", "insert"}
    region : str
        Where the edit applies, see `encode_region`; empty for everywhere.
    """

    generator: str = ""
    seed: int = 0
    number: int = 0
    layer: str = ""
    target: str = ""
    units: tuple[int, ...] | None = None
    count: int = 20
    alpha: float = 1.0
    control: str = "capped"
    hold: str = "first"
    mode: str = "ablate"
    region: str = ""

    def query(self) -> str:
        """The state as the query of an address; what is at its default is left out."""
        told: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                told[field.name] = ".".join(map(str, value)) if field.name == "units" else value
        return urlencode(told, safe=":,")


def read_query(query: Mapping[str, str]) -> State:
    """The state that an address asks for; what makes no sense in it is as if it were not there."""
    state = State()
    for field in fields(State):
        text = str(query.get(field.name, ""))[:4096]
        try:
            value = _READ[field.name](text) if text else None
        except ValueError:
            continue
        if value is not None:
            state = replace(state, **{field.name: value})
    return state


def _whole(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise ValueError("out of range")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("no share")
    return value


def _one_of(*choices: str) -> Any:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError("unknown")
        return text

    return read


def _region(text: str) -> str:
    decode_region(text)
    return text


_READ: dict[str, Any] = {
    "generator": str,
    "seed": _whole,
    "number": _whole,
    "layer": str,
    "target": str,
    "units": lambda text: tuple(dict.fromkeys(_whole(part) for part in text.split("."))) or None,
    "count": lambda text: max(1, _whole(text)),
    "alpha": _share,
    "control": _one_of(*EXACT_CONTROLS),
    "hold": _one_of(*HOLDS),
    "mode": _one_of(*MODES),
    "region": _region,
}


def encode_region(mask: np.ndarray) -> str:
    """Positions of a layer's map, bool (h, w), as text: `HxW:` and the bits row by row in hexadecimal digits."""
    return f"{mask.shape[0]}x{mask.shape[1]}:{np.packbits(mask.ravel()).tobytes().hex()}"


def decode_region(text: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """The positions that `encode_region` wrote, bool; at another layer's `size` those that lie at the same place.

    Raises
    ------
    ValueError
        If the text is no region.
    """
    match = _REGION.fullmatch(text)
    if not match:
        raise ValueError("a region reads HEIGHTxWIDTH:HEXADECIMAL")
    h, w = int(match[1]), int(match[2])
    if not (0 < h <= 256 and 0 < w <= 256) or len(match[3]) != 2 * -(-h * w // 8):
        raise ValueError("the region has not as many positions as it says")
    mask = np.unpackbits(np.frombuffer(bytes.fromhex(match[3]), np.uint8))[: h * w].reshape(h, w).astype(bool)
    if size is None or size == (h, w):
        return mask
    rows, columns = (np.arange(size[0]) * h // size[0], np.arange(size[1]) * w // size[1])
    return mask[np.ix_(rows, columns)]
