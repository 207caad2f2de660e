"""Estimation: contrasts of a panel's arms, with errors, intervals and checks. PyTorch is not needed here."""

from gandid.estimation.bounds import Bounds
from gandid.estimation.effects import COLUMNS, Effects, did, read_effects

__all__ = ["COLUMNS", "Bounds", "Effects", "did", "read_effects"]
