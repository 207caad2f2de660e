"""Difference-in-differences on panels: estimates, errors, intervals and credibility checks. No torch here.

``gandid.did`` is the name of this package *and* of its one verb: ``gandid.did(panel)`` estimates, and
``gandid.did.checks(panel)`` judges. A function beside the package would hide it (an attribute of `gandid`
can be only one of the two, and which one would depend on the order of imports), so the module itself is
callable: its class is a subclass of `types.ModuleType`, an assignment that the Python data model provides
for ("Customizing module attribute access"). Type checkers do not follow it; in typed code write
``gandid.did.estimate(panel)``, which is the same.
"""

import sys
from types import ModuleType
from typing import Any

from gandid.did.checks import Bounds, checks
from gandid.did.effects import COLUMNS, Effects, estimate
from gandid.did.evidence import weigh

__all__ = ["COLUMNS", "Bounds", "Effects", "checks", "estimate", "weigh"]


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Effects:
        """Estimate the effects of a panel: `estimate`."""
        return estimate(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
