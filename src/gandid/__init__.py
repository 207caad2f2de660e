"""gandid: causal experiments inside image generators, by difference-in-differences.

When the units of one object are ablated, why do other objects change, and which component of the network makes them?
"""

from importlib.metadata import version

from gandid import did
from gandid.errors import GandidError, UsageError
from gandid.generators import load_generator
from gandid.segmenters import load_segmenter
from gandid.studies import Study

__version__ = version("gandid")
__all__ = ["GandidError", "Study", "UsageError", "__version__", "did", "load_generator", "load_segmenter"]
