"""One pass over a panel: the sums from which every effect follows.

Per latent and edited arm there are four numerators for every class: the change of its pixels (`area`), that outside the
target's original pixels (`collateral`), whether it `emerged`, and how many of the target's original pixels it took
(`filled`; in the target's own place stands how many it lost, which is `removed`). An effect is a ratio of sums of these, its
error a quadratic form in their sums of products, and both are sums over latents: blocks of latents can be read in any order,
by any number of threads, and be forgotten.

All of them are whole numbers, and stay so: sums are exact, whatever the order. (Within a block they are floating point
numbers below 2**53, which is exact too and as fast as the processor goes.)

For the bootstrap and the sign flips the numerators are kept as sums over `GROUPS` groups of latents (docs/inference.md,
"Large panels"): each latent is a group by itself where there are no more than that.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from gandid import outcomes
from gandid.did import blocks, estimands

NUMERATORS = ("area", "collateral", "emerged", "filled")
NUMERATOR = {"removed": "filled", "inpainted": "filled"} | {name: name for name in outcomes.MEANS}
GROUPS = 1024  # half of them in each half of the latents
# Bytes of the sums by group held at a time: targets are counted in turns where there are very many.
HELD_AT_ONCE = 2**28
EXACT = 2**53  # whole numbers below it are exact in floating point
AT_ONCE = 2**22  # counts of which products are made at a time


@dataclass
class Counts:
    """Sums over latents of some targets' counts.

    Axes are (half of the latents, target, edited arm, class); edited arms are `live` and then the held ones. `crosses` and
    what is named `live_...` or `held_...` are of live with a held arm, and have the held arms only.
    """

    targets: list[str]
    latents: np.ndarray
    """Latents in each half, (2,)."""
    sums: dict[str, np.ndarray]
    """By numerator, int64."""
    squares: dict[str, np.ndarray]
    """Sums of the numerators' squares."""
    crosses: dict[str, np.ndarray]
    """Sums of the products of live's and each held arm's."""
    holes: dict[str, np.ndarray]
    """Of the target's original pixels: `sums`, `squares` (half, target, edited arm) and `crosses` (half, target, held arm)."""
    mixed: dict[str, np.ndarray]
    """Sums of products of `filled` with the target's original pixels: `own` (of one arm), `live_by_held` (live's filled with
    the held arm's hole) and `held_by_live`."""
    informing: dict[str, np.ndarray]
    """Latents in which a hole is not empty: `own` (half, target, edited arm), `either` of live and held (half, target, held
    arm)."""
    groups: dict[str, np.ndarray]
    """Numerators summed by group, (group, target, edited arm, class), and `hole`, (group, target, edited arm)."""
    shown: np.ndarray
    """Which latents' unedited images show which target, as stored: (N, target)."""
    unknown: np.ndarray
    """Pixels called `unknown`, summed over the latents that show the target: (target, arm)."""
    unedited_unknown: np.ndarray
    """Pixels called `unknown` in each unedited image, (N,): the image is the same for all targets."""
    alike: np.ndarray
    """Whether two held arms have the same counts in every latent, (held arm, held arm)."""
    image_pixels: int

    def pair(self, target: int, held: int, outcome: str, classes: np.ndarray, half: int | None = None) -> "Pair":
        """Sums of an outcome's numerators and denominators, of live and of a held arm.

        Parameters
        ----------
        target, held
            Which of the targets and of the held arms.
        outcome
            Which of the five.
        classes
            Indices of K classes.
        half
            Of the latents; all of them if None.
        """
        name = NUMERATOR[outcome]
        part = slice(None) if half is None else slice(half, half + 1)

        def total(sums: np.ndarray) -> np.ndarray:
            return sums[part, target].sum(0).astype(object)

        sums, squares = total(self.sums[name])[:, classes], total(self.squares[name])[:, classes]
        arms, cross = [0, 1 + held], total(self.crosses[name])[held, classes]
        if outcome in outcomes.RATIOS:
            hole, hole_squares = total(self.holes["sums"])[arms], total(self.holes["squares"])[arms]
            both = total(self.holes["crosses"])[held]
            own = total(self.mixed["own"])[arms][:, classes]
            other = total(self.mixed["live_by_held"])[held, classes], total(self.mixed["held_by_live"])[held, classes]
            informing = [total(self.informing["either"])[held], *total(self.informing["own"])[arms]]
        else:
            # Means are ratios too: over the image's pixels, or over 1.
            n, one = int(self.latents[part].sum()), self.denominator(outcome)
            hole, hole_squares, both = (
                np.array([n * one] * 2, object),
                np.array([n * one * one] * 2, object),
                n * one * one,
            )
            own = one * sums[arms]
            other = own[0], own[1]
            informing = [n] * 3
        wide = np.ones(len(classes), int).astype(object)
        (a, c), (aa, cc) = sums[arms], squares[arms]
        b, d, bb, dd, bd = (total * wide for total in (*hole, *hole_squares, both))
        matrix = [
            [aa, own[0], cross, other[0]],
            [own[0], bb, other[1], bd],
            [cross, other[1], cc, own[1]],
            [other[0], bd, own[1], dd],
        ]
        return Pair(np.array([a, b, c, d], object), np.array(matrix, object), *(int(count) for count in informing))

    def gaps(self, target: int, held: int, outcome: str, classes: np.ndarray) -> np.ndarray:
        """Sums by group of per-latent values whose mean is proportional to the DID: (group, K).

        For a ratio ``(a - R b) / mean(b)`` of each arm, with R the ratio of both arms together: of two arms with the same
        holes R cancels; of two networks, whose holes have nothing to do with each other, it keeps their sizes out of the test.
        """
        values = self.groups[NUMERATOR[outcome]][:, target][:, [0, 1 + held]][:, :, classes].astype(np.float64)
        if outcome in outcomes.RATIOS:
            holes = self.groups["hole"][:, target][:, [0, 1 + held], None].astype(np.float64)
            total = self.holes["sums"].sum(0)[target, [0, 1 + held], None]
            if (holes[:, 0] != holes[:, 1]).any():
                values -= values.sum((0, 1)) / total.sum() * holes
            with np.errstate(invalid="ignore", divide="ignore"):  # an arm without holes: NaN
                values /= total
        return values[:, 0] - values[:, 1]

    def denominator(self, outcome: str) -> int:
        """The denominator of an outcome that is a mean, the same for every latent."""
        return 1 if outcome == "emerged" else self.image_pixels


class Pair(NamedTuple):
    """Sums over latents of ``v = (numerator, denominator)`` of live, then of a held arm, for K classes; Python's integers."""

    sums: np.ndarray
    """Of v, (4, K)."""
    products: np.ndarray
    """Of the products of v with itself, (4, 4, K)."""
    informing: int
    """Latents with a denominator in one of the arms."""
    informing_live: int
    informing_held: int

    @property
    def moved(self) -> np.ndarray:
        """Whether live and held contribute differently in some latent, (K,)."""
        _, b, _, d = self.sums
        m = self.products
        return (d * d * m[0, 0] - 2 * b * d * m[0, 2] + b * b * m[2, 2] > 0).astype(bool)


@dataclass(frozen=True)
class _Plan:
    """Where things are on the axes of a block of counts (latent, target, arm, class)."""

    edited: list[int]
    baseline: list[int]
    reference: int
    target: np.ndarray
    """Each target's class, (T,)."""
    unknown: int | None
    present: int
    """Pixels from which a class is present."""
    most: int
    """Latents that are summed at a time: few, and so few that their sums of squares stay exact."""


def gather(panel: xr.Dataset) -> Iterator[Counts]:
    """Read a panel once, or once per few targets where they are so many that their sums take much memory.

    Parameters
    ----------
    panel
        As `gandid.did.estimands.prepare` returns it.

    Yields
    ------
    Counts
        Of the targets in the panel's order.

    Raises
    ------
    ValueError
        If the sums of squares would pass what 64 bits hold: some 2e9 latents of 256 px, 8e6 of 1,024 px.
    """
    size = int(panel.attrs["image_pixels"])
    if panel.sizes["latent"] * size**2 >= 2**63:
        raise ValueError(f"the panel has more latents than can be summed exactly for images of {size:,} pixels")
    arms, groups = len(estimands.held_arms(panel)) + 1, min(GROUPS, panel.sizes["latent"])
    each = groups * arms * (len(NUMERATORS) * panel.sizes["object"] + 1) * 8
    step = max(HELD_AT_ONCE // each, 1)
    for start in range(0, panel.sizes["target"], step):
        yield _gather(panel.isel(target=slice(start, start + step)))


def _gather(panel: xr.Dataset) -> Counts:
    arms = [str(name) for name in panel["arm"].values]
    classes = [str(name) for name in panel["object"].values]
    targets = [str(name) for name in panel["target"].values]
    held, total = estimands.held_arms(panel), panel.sizes["latent"]
    plan = _Plan(
        edited=[arms.index("live"), *(arms.index(arm.name) for arm in held)],
        baseline=[arms.index("reference"), *(arms.index(arm.baseline) for arm in held)],
        reference=arms.index("reference"),
        target=np.array([classes.index(target) for target in targets], int),
        unknown=classes.index("unknown") if "unknown" in classes else None,
        present=estimands.present(panel),
        most=max(min(EXACT // int(panel.attrs["image_pixels"]) ** 2, AT_ONCE * total // panel["pixels"].size), 1),
    )
    halves = np.array([total // 2, total - total // 2])
    numbers = np.minimum(halves, GROUPS // 2)  # of groups
    place = estimands.ranks(panel)
    late = place >= halves[0]
    group = np.where(
        late, numbers[0] + (place - halves[0]) * numbers[1] // halves[1], place * numbers[0] // max(halves[0], 1)
    )
    shape = (len(targets), len(plan.edited), len(classes))
    found = _empty(panel, targets, halves, int(numbers.sum()), shape)
    differ = np.zeros((len(held), len(held)), bool)

    def count(block: slice) -> tuple[slice, dict, list[tuple[int, np.ndarray, dict]]]:
        pixels, inside = (
            _whole(blocks.read(panel, name, block, "target", "arm", "object")) for name in estimands.NEEDED
        )
        _compare(pixels, inside, plan, differ)
        marginal = _marginal(pixels, plan)
        order = np.argsort(place[block], kind="stable")
        if (np.diff(order) != 1).any():
            pixels, inside = pixels[order], inside[order]
        groups = group[block][order]
        cuts = {*range(0, len(order), plan.most), int(np.searchsorted(groups, numbers[0])), len(order)}
        parts = []
        for a, b in zip(sorted(cuts), sorted(cuts)[1:], strict=False):
            starts = np.flatnonzero(np.diff(groups[a:b], prepend=-1))
            sums = _sums(pixels[a:b], inside[a:b], starts, plan)
            parts.append((int(groups[a] >= numbers[0]), groups[a:b][starts], sums))
        return block, marginal, parts

    for block, marginal, parts in blocks.stream(count, blocks.slices(panel, estimands.NEEDED)):
        found.shown[block] = marginal["shown"]
        found.unedited_unknown[block] = marginal["unedited_unknown"]
        found.unknown += marginal["unknown"]
        for half, ids, sums in parts:
            for name, values in sums["groups"].items():
                found.groups[name][ids] += values.astype(np.int64)
            for kind in ("squares", "crosses", "holes", "mixed", "informing"):
                for name, values in sums[kind].items():
                    getattr(found, kind)[name][half] += values.astype(np.int64)
    first = np.arange(len(found.groups["hole"])) < numbers[0]
    for name, values in found.groups.items():
        (found.holes if name == "hole" else found.sums)["sums" if name == "hole" else name] = np.stack(
            [values[first].sum(0), values[~first].sum(0)]
        )
    found.alike = ~(differ | differ.T)
    return found


def _empty(panel: xr.Dataset, targets: list[str], halves: np.ndarray, groups: int, shape: tuple[int, ...]) -> Counts:
    t, e, c = shape
    total = panel.sizes["latent"]

    def zeros(*axes: int) -> np.ndarray:
        return np.zeros(axes, np.int64)

    return Counts(
        targets=targets,
        latents=halves,
        sums={},
        squares={name: zeros(2, *shape) for name in NUMERATORS},
        crosses={name: zeros(2, t, e - 1, c) for name in NUMERATORS},
        holes={"squares": zeros(2, t, e), "crosses": zeros(2, t, e - 1)},
        mixed={
            "own": zeros(2, *shape),
            "live_by_held": zeros(2, t, e - 1, c),
            "held_by_live": zeros(2, t, e - 1, c),
        },
        informing={"own": zeros(2, t, e), "either": zeros(2, t, e - 1)},
        groups={name: zeros(groups, *shape) for name in NUMERATORS} | {"hole": zeros(groups, t, e)},
        shown=np.zeros((total, t), bool),
        unknown=zeros(t, panel.sizes["arm"]),
        unedited_unknown=np.zeros(total, np.int32),
        alike=np.zeros((e - 1, e - 1), bool),
        image_pixels=int(panel.attrs["image_pixels"]),
    )


def _whole(counts: np.ndarray) -> np.ndarray:
    """Counts of a type in which their differences have a sign."""
    return (
        counts
        if counts.dtype in (np.int32, np.int64)
        else counts.astype(np.int64 if counts.dtype.itemsize > 2 else np.int32)
    )


def _compare(pixels: np.ndarray, inside: np.ndarray, plan: _Plan, differ: np.ndarray) -> None:
    """Mark the pairs of held arms that differ in some latent; those that are known to are not looked at again."""
    for i, one in enumerate(plan.edited[1:]):
        for j, other in enumerate(plan.edited[1 : i + 1]):
            # An arm with an unedited image of its own differs in its baseline, if in nothing else.
            own = plan.baseline[1 + i] != plan.reference or plan.baseline[1 + j] != plan.reference
            if own:
                differ[i, j] = True
            elif not differ[i, j]:
                same = (np.array_equal(counts[:, :, one], counts[:, :, other]) for counts in (pixels, inside))
                differ[i, j] = not all(same)


def _marginal(pixels: np.ndarray, plan: _Plan) -> dict[str, np.ndarray]:
    """What the checks need of a block: which images show which target, and the pixels of no known class."""
    targets = np.arange(len(plan.target))
    shown = pixels[:, targets, plan.reference, plan.target] >= max(plan.present, 1)
    if plan.unknown is None:
        nothing = np.zeros((len(targets), pixels.shape[2]), np.int64)
        return {"shown": shown, "unknown": nothing, "unedited_unknown": np.zeros(len(pixels), np.int32)}
    unknown = pixels[..., plan.unknown]
    return {
        "shown": shown,
        "unknown": np.einsum("nt,nta->ta", shown, unknown.astype(np.int64)),
        "unedited_unknown": unknown[:, 0, plan.reference] if len(targets) else np.zeros(len(pixels), np.int32),
    }


def _sums(pixels: np.ndarray, inside: np.ndarray, starts: np.ndarray, plan: _Plan) -> dict[str, dict[str, np.ndarray]]:
    """Sums over some latents in the order of their groups, each group from one of `starts` on."""
    n, t, _, c = pixels.shape
    e = len(plan.edited)
    change = np.empty((e, n, t * c))
    emerged = np.empty((e, n, t * c), bool)
    absent = {base: pixels[:, :, base] < plan.present for base in set(plan.baseline)}
    for i, (arm, base) in enumerate(zip(plan.edited, plan.baseline, strict=True)):
        change[i] = (pixels[:, :, arm] - pixels[:, :, base]).reshape(n, -1)
        new = emerged[i].reshape(n, t, c)
        np.greater_equal(pixels[:, :, arm], plan.present, out=new)
        new &= absent[base]

    def by_class(values: np.ndarray) -> np.ndarray:
        """(arm, ..., target and class) -> (..., target, arm, class)."""
        return np.moveaxis(values.reshape(*values.shape[:-1], t, c), 0, -2)

    area = {
        "groups": by_class(np.add.reduceat(change, starts, axis=1)),
        "squares": by_class(np.einsum("enk,enk->ek", change, change)),
        "crosses": by_class(np.einsum("nk,enk->ek", change[0], change[1:])),
    }
    new = _emerged(emerged, starts)
    hole = _holes(change.reshape(e, n, t, c), inside, starts, plan)
    kinds = {}
    for kind in ("groups", "squares", "crosses"):
        kinds[kind] = {
            "area": area[kind],
            # Outside the target's original pixels nothing is taken away: where there are none, all change is collateral.
            "collateral": area[kind] + hole["less"][kind],
            "emerged": by_class(new[kind]),
            "filled": hole["filled"][kind],
        }
    kinds["groups"]["hole"] = hole["holes"].pop("groups")
    return kinds | {name: hole[name] for name in ("holes", "mixed", "informing")}


def _emerged(emerged: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of (arm, latent, target and class), of which few are true; a truth is its own square."""
    arms, n, k = emerged.shape
    groups = np.zeros((arms, len(starts), k))
    both = np.zeros((arms - 1, k))
    of = np.repeat(np.arange(len(starts)), np.diff(starts, append=n)) * k
    for i in range(arms):
        latent, column = np.divmod(np.flatnonzero(emerged[i]), k)
        groups[i] = np.bincount(of[latent] + column, minlength=groups[i].size).reshape(groups[i].shape)
        if i:
            both[i - 1] = np.bincount(column[emerged[0, latent, column]], minlength=k)
    return {"groups": groups, "squares": groups.sum(1), "crosses": both}


def _holes(change: np.ndarray, inside: np.ndarray, starts: np.ndarray, plan: _Plan) -> dict[str, dict[str, np.ndarray]]:
    """Sums of what the target's original pixels became, over the few places that are not 0 in every arm."""
    _, n, t, c = change.shape
    holes = np.einsum("ntac->nta", inside)
    latent, target = np.nonzero(holes.any(2))
    pairs = inside[latent, target]  # (pair, arm, class)
    taken = (pairs != 0).any(1)
    taken[np.arange(len(taken)), plan.target[target]] = True
    pair, of = np.nonzero(taken)
    counts = pairs[pair, :, of].T.astype(np.float64)
    hole = holes[latent, target].T[plan.edited].astype(np.float64)  # (edited arm, pair)
    filled, lost = counts[plan.edited], counts[plan.edited] - counts[plan.baseline]
    own = of == plan.target[target[pair]]
    filled[:, own] = hole[:, pair[own]] - filled[:, own]
    change, whole = change[:, latent[pair], target[pair], of], hole[:, pair]
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=n))[latent]

    def add(values: np.ndarray, key: np.ndarray, *shape: int) -> np.ndarray:
        size = math.prod(shape)
        keys = key + size * np.arange(len(values))[:, None]
        return np.bincount(keys.ravel(), values.ravel(), size * len(values)).reshape(len(values), *shape)

    def by_class(values: np.ndarray, *, grouped: bool = False) -> np.ndarray:
        """(arm, place) -> ([group,] target, arm, class)."""
        shape = (len(starts), t, c) if grouped else (t, c)
        key = (group[pair] * grouped * t + target[pair]) * c + of
        return np.moveaxis(add(values, key, *shape), 0, -2)

    def by_target(values: np.ndarray, *, grouped: bool = False) -> np.ndarray:
        """(arm, pair) -> ([group,] target, arm)."""
        shape = (len(starts), t) if grouped else (t,)
        return np.moveaxis(add(values, group * grouped * t + target, *shape), 0, -1)

    return {
        "less": {
            "groups": -by_class(lost, grouped=True),
            "squares": by_class(lost * (lost - 2 * change)),
            "crosses": by_class(lost[:1] * lost[1:] - lost[:1] * change[1:] - change[:1] * lost[1:]),
        },
        "filled": {
            "groups": by_class(filled, grouped=True),
            "squares": by_class(filled**2),
            "crosses": by_class(filled[:1] * filled[1:]),
        },
        "holes": {
            "groups": by_target(hole, grouped=True),
            "squares": by_target(hole**2),
            "crosses": by_target(hole[:1] * hole[1:]),
        },
        "mixed": {
            "own": by_class(filled * whole),
            "live_by_held": by_class(filled[:1] * whole[1:]),
            "held_by_live": by_class(filled[1:] * whole[:1]),
        },
        "informing": {
            "own": by_target(hole > 0),
            "either": by_target((hole[:1] > 0) | (hole[1:] > 0)),
        },
    }
