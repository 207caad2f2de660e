"""Arms: an edit or none, and the sites that are held, with the control. An arm is data; the runner gives it rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gandid.interventions.edits import Edit


@dataclass(frozen=True, eq=False)
class Arm:
    """One regime of an experiment.

    Parameters
    ----------
    edit : Edit, optional
        None leaves the layer's output as it is.
    held : mapping of str to str
        Site names to controls; empty when every site is live.
    strength : float
        How far the held sites are held, in [0, 1]: 0 leaves them live, 1 gives them what their control says. Between, the
        logarithm of the scale (and the mean, where one is subtracted) is that share of the way from what the site takes to
        what the control says.
    """

    edit: Edit | None = None
    held: Mapping[str, str] = field(default_factory=dict)
    strength: float = 1.0


REFERENCE = Arm()


def hold(control: str, which: str | Sequence[str], downstream: Sequence[str]) -> dict[str, str]:
    """Spell a held set out: `first`, `all`, or site names, as {site: control}.

    `downstream` names the sites after the edited layer in the order of the network.
    """
    if which == "first":
        sites = downstream[:1]
    elif which == "all":
        sites = downstream
    else:
        sites = [which] if isinstance(which, str) else which
    return dict.fromkeys(sites, control)
