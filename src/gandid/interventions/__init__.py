"""Experiments inside a generator: edits, sites, arms, and the runner that makes an experiment one batch."""

from gandid.interventions.arms import REFERENCE, Arm, hold
from gandid.interventions.edits import Edit, Rectangle, ablate, covered, insert, read_mask
from gandid.interventions.foreign import adapted, read_inputs, whole
from gandid.interventions.normalizations import Adapter, Statistic, pixel_norm
from gandid.interventions.runner import Readings, Runner, layers_of
from gandid.interventions.sites import find_sites, held_statistic, register_site, register_sites, registered_sites

__all__ = [
    "REFERENCE", "Adapter", "Arm", "Edit", "Readings", "Rectangle", "Runner", "Statistic", "ablate", "adapted",
    "covered", "find_sites", "held_statistic", "hold", "insert", "layers_of", "pixel_norm", "read_inputs", "read_mask",
    "register_site", "register_sites", "registered_sites", "whole",
]  # fmt: skip
