"""gandid: causal experiments inside image generators, by difference-in-differences.

When the units of one object are ablated, why do other objects change, and which component of the network makes them?
What these names stand for is imported when it is first needed: PyTorch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gandid.errors import GandidError, UsageError
from gandid.lazy import attach

if TYPE_CHECKING:
    from gandid.estimation import did
    from gandid.generators import load_generator
    from gandid.interventions import REFERENCE, Arm, Runner, ablate, hold, insert
    from gandid.segmenters import load_segmenter
    from gandid.study import Study

__all__ = [
    "REFERENCE", "Arm", "GandidError", "Runner", "Study", "UsageError", "__version__", "ablate", "did", "hold", "insert",
    "load_generator", "load_segmenter",
]  # fmt: skip

_find = attach(
    __name__,
    {"did": "estimation", "Study": "study", "load_generator": "generators", "load_segmenter": "segmenters"}
    | dict.fromkeys(("REFERENCE", "Arm", "Runner", "ablate", "hold", "insert"), "interventions"),
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # reads the whole of Python's mail

        return version("gandid")
    return _find(name)
