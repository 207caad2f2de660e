"""One pass over a panel: counts summed over groups of latents, from which every contrast follows.

A panel opened lazily reads what is asked for and keeps nothing; it is read some latents at a time, whole chunks of its storage, by
threads (decoding and numpy's loops let go of the interpreter). Counts are whole numbers and their sums exact, so that neither the
order of the latents nor blocks or threads change a digit. There are at most `GROUPS` groups (docs/inference.md, "Large panels"): each
latent is a group by itself where there are no more than that, neighbours by number join where there are.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import xarray as xr

from gandid.estimation.contents import COUNTS, Contents
from gandid.panel.store import read_counts
from gandid.panel.table import APART, Coordinates

GROUPS = 1024  # half of them in each half of the latents
VALUES = 2**19  # values of a block, all variables together: the blocks under way are few megabytes
THREADS = min(4, os.cpu_count() or 1)

Result = TypeVar("Result")


@dataclass
class Sums:
    """Counts of some arms, as one segmenter sees them, summed over G groups of latents.

    Axes are (group, target, arm, class), classes those of the panel; an arm has the same place as in `arms`.
    """

    arms: list[int]
    """Places of the arms in the panel; the first is the reference."""
    places: dict[Coordinates, int]
    """Places of the arms here, by what is done in them."""
    latents: np.ndarray
    """Latents in each group, (G,)."""
    late: np.ndarray
    """Whether a group is in the upper half of the latents by number, (G,)."""
    pixels: np.ndarray
    """Of the whole image."""
    inside: np.ndarray
    """Of the target's original pixels."""
    shared: np.ndarray | None
    """Of those, pixels that are `unknown` in the arm and in live, (group, target, arm); None where it was not counted."""
    emerged: np.ndarray
    """In how many images a class is present that is not in the arm's unedited image."""
    baselines: list[int]
    """Of each arm, the place in `arms` of its unedited image."""
    informing: np.ndarray
    """Latents in which the arm's hole (the target's original pixels) is not empty, (target, arm)."""
    either: np.ndarray
    """Latents in which that of the arm or of live is not empty."""
    weight: np.ndarray
    """The larger of the arm's and live's hole, summed over latents, (target, arm)."""
    discordant: np.ndarray
    """Pixels that count in the arm or in live only, for `removed` and for `inpainted` by all objects, (2, target, arm)."""
    whole: bool
    """Whether `pixels` is known of all arms: it is 0 of those that are run `APART`, of which not all images are made."""
    shown: np.ndarray
    """Which latents' unedited images show which target, at least an original pixel of it, as stored, (N, target)."""

    def index(self, arms: Iterable[Coordinates]) -> list[int]:
        """Places of some arms."""
        return [self.places[arm._replace(latents=0)] for arm in arms]

    def at(self, arms: Iterable[Coordinates]) -> np.ndarray:
        """Weights of some arms, each by itself: (of them, arm)."""
        return np.eye(len(self.arms))[self.index(arms)]


def slices(panel: xr.Dataset, names: Sequence[str], rows: int) -> list[slice]:
    """Cut the first `rows` latents into blocks of about `VALUES` values of some variables, whole chunks of their storage each."""
    total = panel.sizes["latent"]
    if not rows:
        return []
    each = sum(panel[name].size for name in names) // total
    chunks = [panel[name].encoding.get("preferred_chunks", {}).get("latent", 1) for name in names]
    step = max(VALUES // max(each, 1) // max(chunks), 1) * max(chunks)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def stream(work: Callable[[slice], Result], blocks: Sequence[slice]) -> Iterator[Result]:
    """Apply `work` to blocks in threads; results come in the blocks' order, at most two per thread under way or waiting."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque = deque()
        for block in blocks:
            if len(waiting) == 2 * THREADS:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, block))
        while waiting:
            yield waiting.popleft().result()


def gather(contents: Contents, arms: Sequence[int], segmenter: int = 0, rows: int | None = None) -> Sums:
    """Read the counts of some arms once.

    Parameters
    ----------
    contents
        The panel.
    arms
        Places of the arms; their unedited images, the reference and live are added.
    segmenter
        Which sees them.
    rows
        How many latents, the first as stored; by default all that every one of the arms was measured on.

    Raises
    ------
    GandidError
        If counts that are said to be measured are missing.
    """
    first = contents.names.index("reference"), contents.place(contents.live)
    wanted = list(dict.fromkeys([*first, *arms, *(contents.baseline(contents.arms[arm]) for arm in arms)]))
    rows = contents.rows(wanted, segmenter) if rows is None else rows
    counter = _Counter(contents, wanted, segmenter, rows)
    for one in stream(counter.count, slices(contents.panel, COUNTS, rows)):
        counter.add(one)
    return counter.sums


class _Counter:
    """Counts blocks of latents, and adds them up."""

    def __init__(self, contents: Contents, arms: list[int], segmenter: int, rows: int):
        self.panel, self.segmenter = contents.panel, segmenter
        self.live = arms.index(contents.place(contents.live))
        classes, targets = list(contents.classes), contents.targets
        self.target = np.array([classes.index(name) for name in targets], int)
        self.others = np.array([contents.kinds(name, segmenter) == "object" for name in targets])
        self.present, self.size = contents.present, contents.size
        self.place = self._ranks(rows)
        halves = np.array([rows // 2, rows - rows // 2])
        numbers = np.minimum(halves, GROUPS // 2)
        late = self.place >= halves[0]
        upper = numbers[0] + (self.place - halves[0]) * numbers[1] // halves[1]
        self.group = np.where(late, upper, self.place * numbers[0] // max(halves[0], 1))
        groups, shape = int(numbers.sum()), (len(targets), len(arms))
        zeros = {name: np.zeros((groups, *shape, len(classes)), np.int64) for name in ("pixels", "inside", "emerged")}
        self.apart = np.isin(contents.panel["block"].values[arms].astype(str), APART)
        self.sharing = "shared" in contents.panel and set(arms) <= set(contents.study)
        self.sums = Sums(
            arms=arms,
            places={contents.arms[arm]._replace(latents=0): place for place, arm in enumerate(arms)},
            latents=np.bincount(self.group, minlength=groups),
            late=np.arange(groups) >= numbers[0],
            **zeros,
            shared=np.zeros((groups, *shape), np.int64) if self.sharing else None,
            baselines=[arms.index(contents.baseline(contents.arms[arm])) for arm in arms],
            informing=np.zeros(shape, np.int64),
            either=np.zeros(shape, np.int64),
            weight=np.zeros(shape, np.int64),
            discordant=np.zeros((2, *shape), np.int64),
            whole=not self.apart.any(),
            shown=np.zeros((rows, shape[0]), bool),
        )

    def _ranks(self, rows: int) -> np.ndarray:
        """Each latent's place among all by number, so that no result depends on the order of storage; (N,)."""
        place = np.arange(rows)
        if "latent" in self.panel.coords:
            place[np.argsort(self.panel["latent"].values[:rows], kind="stable")] = np.arange(rows)
        return place

    def count(self, block: slice) -> dict:
        """Sums of one block of latents."""
        inside = read_counts(self.panel, "inside", block, self.sums.arms, self.segmenter)
        complete = [arm for arm, apart in zip(self.sums.arms, self.apart, strict=True) if not apart]
        pixels = read_counts(self.panel, "pixels", block, complete, self.segmenter)
        if self.apart.any():
            pixels, known = np.zeros_like(inside), pixels
            pixels[:, :, ~self.apart] = known
        order = np.argsort(self.group[block], kind="stable")
        if (np.diff(order) != 1).any():
            pixels, inside = pixels[order], inside[order]
        groups = self.group[block][order]
        cuts = [*np.flatnonzero(np.diff(groups, prepend=-1)), len(groups)]
        counted = {"pixels": pixels, "inside": inside}
        if self.sharing:
            counted["shared"] = read_counts(self.panel, "shared", block, self.sums.arms, self.segmenter)[order]
        emerged = pixels >= self.present
        emerged &= ~emerged[:, :, self.sums.baselines]
        whole = np.int32 if len(groups) * self.size < 2**31 else np.int64  # the smaller is four times as fast
        sums = {
            name: np.stack([values[a:b].sum(0, dtype=whole) for a, b in pairwise(cuts)])
            for name, values in (counted | {"emerged": emerged}).items()
        }
        shown = inside[:, :, 0].any(axis=2)  # within the edited region, as everywhere
        found = {"block": block, "order": order, "groups": groups[cuts[:-1]], "sums": sums, "shown": shown}
        found |= self._holes(inside)
        return found

    def _holes(self, inside: np.ndarray) -> dict[str, np.ndarray]:
        """What the target's original pixels became, each arm against live."""
        hole = inside.sum(axis=3, dtype=np.int64)
        own = inside[:, np.arange(len(self.target)), :, self.target].transpose(1, 0, 2)
        taken = np.stack([hole - own, np.einsum("ntac,tc->nta", inside, self.others.astype(np.int32))])
        live = slice(self.live, self.live + 1)
        weight = np.maximum(hole, hole[:, :, live])
        gap = np.where(hole == hole[:, :, live], np.abs(taken - taken[..., live]), weight)
        return {
            "informing": (hole > 0).sum(0),
            "either": (weight > 0).sum(0),
            "weight": weight.sum(0),
            "discordant": gap.sum(1),
        }

    def add(self, found: dict) -> None:
        """Add one block's sums to those of all."""
        sums, block = self.sums, found["block"]
        for name, values in found["sums"].items():
            getattr(sums, name)[found["groups"]] += values
        for name in ("informing", "either", "weight", "discordant"):
            getattr(sums, name)[...] += found[name]
        places = np.arange(block.start, block.stop)[found["order"]]
        sums.shown[places] = found["shown"]
