"""The arm table: every arm of a study, what it is called, and in which blocks the arms are measured.

An arm is data. A partial ablation, a set of held sites, a matched random set of units and another network are rows of one table,
so that whatever is asked of a study is measured by one worker and kept in one panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gandid.panel.coalitions import EXACT, ORDERS, coalitions, sampled_weights

# Without an edit, holding by them changes nothing: their baseline is the reference.
EXACT_CONTROLS = ("capped", "frozen")
# Names of blocks.
STUDY, DISTANCE, STRENGTH, DOSE, SURFACE = "study", "distance", "strength", "dose", "surface"
SITES, PLACEBOS, RANKING = "sites", "placebos", "ranking"
# Latents on which the arms of a block are measured, the first of the study; 0 means all.
LATENTS = {STUDY: 0, DISTANCE: 128, STRENGTH: 0, DOSE: 128, SURFACE: 128, SITES: 64, PLACEBOS: 64}
LATENTS[RANKING] = 40  # a twentieth more images than a study without them, at most
# Arms that are asked only what becomes of the target's place, so that each target is run by itself, on the images that show it.
APART = (SITES, PLACEBOS, RANKING)
LADDER = (0.25, 0.5)  # strengths that a study measures unless it asks for others
NEAR = 0.8  # of the study's dose: how far a held arm is from live is told in units of this change of dose
LEARNED = ("distilled", "placebo")  # networks whose layers after the edited one were learned again, by kind
SECOND_LATENTS = 128  # latents whose images a second segmenter labels as well


class Coordinates(NamedTuple):
    """One row of the arm table: what is done in an arm."""

    edit: bool = True
    """Whether the target's units are edited."""
    dose: float = 1.0
    """Share of the way to the ablated value; 0 in unedited arms."""
    draw: int = 0
    """0 for the target's own units; 1, 2, ... for matched random sets (placebos); -1 and -2, -3 and -4, ... for the units that
    the halves of the ranking's latents choose."""
    control: str = "none"
    """`none`, `capped`, `frozen` or `mean`: how held sites get their statistic."""
    held: str = "none"
    """`none`, `first`, `all`, or names of sites joined by `+`."""
    strength: float = 0.0
    """0 where the sites are live, 1 where they are fully held."""
    network: str = "own"
    """`own`, or the name of another network: a twin's, or a distilled one's, `distilled-1` or `placebo-1`."""
    latents: int = 0
    """The arm is measured on the first so many latents of the study; 0 means all of them."""

    @property
    def exact(self) -> bool:
        """Whether the arm's unedited image is the reference."""
        return self.network == "own" and self.control in ("none", *EXACT_CONTROLS)

    @property
    def baseline(self) -> Coordinates:
        """The arm that shows this arm's unedited image: the reference, or an unedited arm of its own."""
        if self.exact:
            return REFERENCE
        return self._replace(edit=False, dose=0.0, draw=0, latents=0)

    @property
    def regime(self) -> tuple[str, str]:
        """What the arm is called by: its control and what it holds, or of which kind its network is and which one."""
        if self.network == "own":
            return self.control, self.held
        kind, _, number = self.network.rpartition("-")
        return (kind, number) if kind in LEARNED and number.isdigit() else ("twin", self.network)

    def sites(self, downstream: Sequence[str]) -> tuple[str, ...]:
        """The sites that are held, of those after the edited layer, in the order of the network."""
        if self.held == "none":
            return ()
        if self.held in ("first", "all"):
            return tuple(downstream[: 1 if self.held == "first" else None])
        return tuple(self.held.split("+"))

    def name(self, study_dose: float = 1.0) -> str:
        """What the arm is called: `reference`, `live`, `capped:first`, `twin:all/unedited`, `distilled:1`, `live@0.3`, `capped:all@k0.5#7`.

        Of the units that a half of the ranking's latents chooses, `live#half2`. `study_dose` is the study's own dose, which is not named.
        """
        stem = ":".join(self.regime)
        if not self.edit:
            return "reference" if self == REFERENCE else f"{stem}/unedited"
        stem = "live" if stem == "none:none" else stem
        stem += f"@{self.dose:g}" if self.dose != study_dose else ""
        stem += f"@k{self.strength:g}" if self.held != "none" and self.strength != 1 else ""
        return stem + (f"#{self.draw}" if self.draw > 0 else f"#half{-self.draw}" if self.draw else "")


REFERENCE = Coordinates(edit=False, dose=0.0)


def is_twin(network: str) -> bool:
    """Whether a network is a twin, whose units are its own."""
    return Coordinates(network=network).regime[0] == "twin"


class Block(NamedTuple):
    """Arms that are measured together."""

    name: str
    """What the arms are for: `study`, `distance`, `strength`, `dose`, `surface`, `sites`, `placebos` or `ranking`."""
    arms: tuple[Coordinates, ...]
    latents: int
    """How many of the study's latents, the first; 0 means all."""

    @property
    def seconded(self) -> bool:
        """Whether other segmenters than the study's look at the images of the first latents."""
        return self.name in (STUDY, STRENGTH)

    @property
    def featured(self) -> bool:
        """Whether the images of the first latents are told apart by their features."""
        return self.name in (STUDY, DISTANCE, STRENGTH)

    @property
    def apart(self) -> bool:
        """Whether each target is run by itself, on the images that show it."""
        return self.name in APART


def near(live: Coordinates) -> Coordinates:
    """The live arm at the other dose, by which distances are measured."""
    return live._replace(dose=round(NEAR * live.dose, 6))


def study_block(held: Sequence[tuple[str, str]], networks: Sequence[str] = (), dose: float = 1.0) -> Block:
    """The study's own arms: reference, live, every held set, every other network, and their unedited arms at last.

    `held` are pairs (control, held), `networks` the names of the others, and `dose` is the share of the way to the ablated value.
    """
    live = Coordinates(dose=dose)
    edited = [live._replace(control=control, held=which, strength=1.0) for control, which in held]
    edited += [live._replace(network=network) for network in networks]
    unedited = [arm.baseline for arm in edited if not arm.exact]
    return Block(STUDY, (REFERENCE, live, *edited, *unedited), 0)


def dose_blocks(study: Block, doses: Sequence[float]) -> list[Block]:
    """One block per dose: the study's edited arms, each unit moved another share of the way.

    Dose 0 edits nothing, so that every arm would be its baseline; the study's own dose is measured already.
    """
    edited = [arm for arm in study.arms if arm.edit]
    missing = sorted({float(dose) for dose in doses} - {0.0, edited[0].dose})
    return [_block(DOSE, [arm._replace(dose=dose) for arm in edited]) for dose in missing]


def graded(study: Block) -> Coordinates | None:
    """The study's held arm whose strength is varied in every study: of its first exact control the one that holds most."""
    held = _exact_held(study)
    ours = [arm for arm in held if arm.control == held[0].control]
    return max(ours, key=lambda arm: (arm.held == "all", arm.held.count("+")), default=None)


def strength_blocks(study: Block, strengths: Sequence[float] | None, doses: Sequence[float] = ()) -> list[Block]:
    """The block of the study's held arms, held partly; of controls whose baseline is the reference.

    Where None are asked for, the strengths are those of `LADDER`, and of one arm (`graded`). Where strengths and doses are, this arm is
    measured at their products, a block per dose.
    """
    held, first = _exact_held(study), graded(study)
    if first is None:
        return []
    ladder = [float(strength) for strength in (LADDER if strengths is None else strengths) if 0 < strength < 1]
    arms = [first] if strengths is None else held
    blocks = (
        [_block(STRENGTH, [arm._replace(strength=strength) for strength in ladder for arm in arms])] if ladder else []
    )
    for dose in sorted({float(dose) for dose in doses} - {0.0, first.dose}) if strengths and ladder else []:
        blocks.append(_block(SURFACE, [first._replace(strength=strength, dose=dose) for strength in ladder]))
    return blocks


def _exact_held(study: Block) -> list[Coordinates]:
    return [arm for arm in study.arms if arm.edit and arm.control in EXACT_CONTROLS]


def sites_block(study: Block, sites: Sequence[str], seed: int) -> list[Block]:
    """The block of the coalitions of sites, held by the study's first exact control; none where the study has all of them.

    `sites` are those that respond, in the order of the network; `seed` is that of the orders, where there are more than `EXACT`.
    """
    held = _exact_held(study)[0]
    known = {(arm.control, arm.held) for arm in study.arms if arm.edit}
    count = len(sites)
    live_sets = coalitions(count) if count <= EXACT else sampled_weights(count, ORDERS, seed)[0]
    arms = []
    for live in live_sets:
        closed = "+".join(site for place, site in enumerate(sites) if place not in live)
        whole = not live and (held.control, "all") in known
        if closed and not whole and (held.control, closed) not in known:
            arms.append(held._replace(held=closed))
    return [_block(SITES, arms)] if arms else []


def placebo_blocks(study: Block, draws: int) -> list[Block]:
    """One block per matched random set of units: live, and the held sets whose baseline is the reference."""
    edited = [arm for arm in study.arms if arm.edit and arm.exact]
    return [_block(PLACEBOS, [arm._replace(draw=draw) for arm in edited]) for draw in range(1, draws + 1)]


def ranking_blocks(study: Block, halvings: int) -> list[Block]:
    """One block per halving of the ranking's latents: live and the arm `graded`, held half, with the units that either half chooses."""
    if (first := graded(study)) is None:
        return []
    arms = [first._replace(control="none", held="none", strength=0.0), first._replace(strength=LADDER[-1])]
    pairs = [[arm._replace(draw=-draw) for draw in (2 * k + 1, 2 * k + 2) for arm in arms] for k in range(halvings)]
    return [_block(RANKING, pair) for pair in pairs]


def extra_blocks(
    known: Sequence[Block],
    doses: Sequence[float] = (),
    strengths: Sequence[float] | None = (),
    sites: Sequence[str] = (),
    draws: int = 0,
    halvings: int = 0,
    seed: int = 0,
) -> list[Block]:
    """The blocks that a study takes beside those that it has, of which its own is the first.

    They are for distances, strengths, doses, Shapley shares among some sites, placebos and halvings of the ranking; no arm is in
    two of them.
    """
    study = known[0]
    live = next(arm for arm in study.arms if arm.edit)
    asked = [
        _block(DISTANCE, [near(live)]),
        *strength_blocks(study, strengths, doses),
        *dose_blocks(study, doses),
        *(sites_block(study, sites, seed) if sites else []),
        *(placebo_blocks(study, draws) if draws else []),
        *ranking_blocks(study, halvings),
    ]
    there = {arm._replace(latents=0) for block in known for arm in block.arms}
    found = []
    for block in asked:
        arms = tuple(arm for arm in block.arms if arm._replace(latents=0) not in there)
        there |= {arm._replace(latents=0) for arm in arms}
        found += [block._replace(arms=arms)] if arms else []
    return found


def coalition_arm(names: Sequence[str], control: str, held: Sequence[str], sites: Sequence[str]) -> str:
    """The name, among those of a panel's arms, of the arm that holds exactly `held` of all `sites` that respond.

    Raises
    ------
    ValueError
        If the panel has no such arm.
    """
    if not held:
        return "live"
    closed = f"{control}:{'+'.join(held)}"
    candidates = [closed, f"{control}:all"] if len(held) == len(sites) else [closed]
    for name in candidates:
        if name in names:
            return name
    raise ValueError(f"the panel has no arm '{closed}', which the shares of its sites need")


def _block(name: str, arms: Sequence[Coordinates]) -> Block:
    latents = LATENTS[name]
    return Block(name, tuple(arm._replace(latents=latents) for arm in arms), latents)
