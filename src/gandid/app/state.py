"""What the page shows, as one value: it is the address of the page, and the configuration of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import parse_qsl, urlencode

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from gandid.errors import UsageError

MOST_UNITS = 64  # that the slider reaches
LATENTS = 64  # on which the numbers beside those of one image are measured
STRIP = 12  # images beside each other
LONGEST = 4096  # characters of a value in an address
EDITED = ("target", "mode", "units", "count", "alpha", "region")  # what an edit says of itself
MOST_EDITS = 6  # of one image
_REGION = re.compile(r"(\d{1,3})x(\d{1,3}):([0-9a-f]+)")


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


def _checked_region(text: str) -> str:
    if text:
        decode_region(text)
    return text


def _split(text: Any) -> Any:
    return tuple(dict.fromkeys(text.split("."))) if isinstance(text, str) else text


Whole = Annotated[int, Field(ge=0, lt=2**31)]
Units = Annotated[tuple[Whole, ...] | None, BeforeValidator(_split)]


@dataclass(frozen=True)
class State:
    """One experiment on one image.

    Parameters
    ----------
    generator : str
        Name of one of the page's generators; empty for the one it was started with.
    seed, number : int
        The image is that of latent `number` of `seed`, as in a study (`gandid.latents`).
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
    also : str
        The other edits of the same image, see `edits`.
    """

    generator: str = ""
    seed: Whole = 0
    number: Whole = 0
    layer: str = ""
    target: str = ""
    units: Units = None
    count: Annotated[int, Field(ge=1, le=8192)] = 20
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    control: Literal["capped", "frozen"] = "capped"
    hold: Literal["first", "all"] = "first"
    mode: Literal["ablate", "insert"] = "ablate"
    region: Annotated[str, AfterValidator(_checked_region)] = ""
    also: str = ""

    @property
    def title(self) -> str:
        """What is done, in words."""
        return f"{self.target} {'ablated' if self.mode == 'ablate' else 'inserted'}"

    def edits(self) -> tuple[State, ...]:
        """The edits of the image, each as the state that it would be alone: first the one in hand."""
        alone = replace(self, also="")
        others = [read_query(part) for part in self.also.split(";") if part][: MOST_EDITS - 1]
        return alone, *(replace(alone, **{name: getattr(other, name) for name in EDITED}) for other in others)

    def moved(self, **news: Any) -> State:
        """The state after a move of the hand, which says what it changes.

        Another object, layer or number of units takes the first units of the ranking, and another mode begins with a region of
        its own. An object that is edited already is taken in hand as it is.
        """
        then = replace(self, **news)
        changed = {name for name in news if getattr(then, name) != getattr(self, name)}
        others = {other.target: other for other in self.edits()[1:]}
        if "target" in changed and (found := others.pop(then.target, None)):
            edits = {name: getattr(found, name) for name in EDITED}
            return replace(then, **edits).beside([self, *others.values()])
        if changed & {"target", "layer", "count"} and "units" not in news:
            then = replace(then, units=None)
        if "mode" in changed and "region" not in news:
            then = replace(then, region="")
        if "layer" in changed:
            then = then.beside([replace(other, units=None) for other in others.values()])
        return then

    def beside(self, others: Sequence[State]) -> State:
        """The same with the edits of other states beside its own."""
        queries = (State(**{name: getattr(other, name) for name in EDITED}).query() for other in others)
        return replace(self, also=";".join(queries))

    def query(self) -> str:
        """The state as the query of an address; what is at its default is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.units is not None:
            values["units"] = ".".join(map(str, self.units))
        shown = {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}
        return urlencode(shown, safe=":,")


_READERS = {name: TypeAdapter(hint) for name, hint in get_type_hints(State, include_extras=True).items()}


def read_query(query: str | Mapping[str, str]) -> State:
    """The state that an address asks for, by its text or by name; what makes no sense in it is as if it were not there."""
    given = dict(parse_qsl(query)) if isinstance(query, str) else query
    found = {}
    for name, reader in _READERS.items():
        if text := str(given.get(name, ""))[:LONGEST]:
            with suppress(ValidationError):
                found[name] = reader.validate_python(text)
    return State(**found)


def read_parts(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a state as the parts of a page say them.

    Raises
    ------
    UsageError
        If one of them holds what it cannot: the page's own do not.
    """
    found = {}
    for name, value in given.items():
        try:
            found[name] = _READERS[name].validate_python(value)
        except ValidationError as error:
            raise UsageError(f"{name}: {error.errors()[0]['msg']}") from None
    return found
