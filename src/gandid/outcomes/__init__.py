"""From label maps to counts; arrays only. The five outcomes are ratios of counts (`gandid.estimation.contrast`)."""

from gandid.outcomes.counts import inside, pixels

RATIOS = ("removed", "inpainted")  # of the target's original pixels
OUTCOMES = ("area", "removed", "inpainted", "collateral", "emerged")

__all__ = ["OUTCOMES", "RATIOS", "inside", "pixels"]
