"""Experiments inside a generator: edits, sites, arms, and the runner that makes an experiment one batch."""

from gandid.interventions.arms import REFERENCE, Arm, hold
from gandid.interventions.edits import ABLATIONS, Edit, ablate, insert
from gandid.interventions.runner import Readings, Runner
from gandid.interventions.sites import CONTROLS, Site, find_sites, held_statistic

__all__ = [
    "ABLATIONS",
    "CONTROLS",
    "REFERENCE",
    "Arm",
    "Edit",
    "Readings",
    "Runner",
    "Site",
    "ablate",
    "find_sites",
    "held_statistic",
    "hold",
    "insert",
]
