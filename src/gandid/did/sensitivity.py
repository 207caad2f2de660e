"""How wrong could we be: bounds on a DID whose control does not have exactly parallel trends.

For controls with another baseline (`mean`, `twin`) the DID is causal if, had the mechanism not acted, live would have moved as the
control did. Rambachan and Roth ("A More Credible Approach to Parallel Trends", Review of Economic Studies 2023) ask instead how
large a violation would have to be, in units of one that can be seen, to overturn the finding.
"""

import numpy as np


def robust_interval(low: np.ndarray, high: np.ndarray, seen: np.ndarray, times: float) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a DID under a violation of parallel trends of at most `times` the one that was seen.

    Their relative magnitudes restriction, ``|violation| <= times * seen``, in its fixed-length form: the interval grows by the bound
    at either end.

    Parameters
    ----------
    low, high
        Ends of the interval under parallel trends.
    seen
        Size of the violation that can be seen, at least 0: the baseline gap of the outcome, or the largest difference of live and
        held at doses where the mechanism hardly acts.
    times
        Its multiple; 0 gives the interval back.
    """
    grown = times * np.abs(np.asarray(seen, np.float64))
    return np.asarray(low) - grown, np.asarray(high) + grown


def breakdown(low: np.ndarray, high: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The multiple of the seen violation from which on the interval contains 0: the breakdown value.

    Parameters
    ----------
    low, high, seen
        As in `robust_interval`.

    Returns
    -------
    numpy.ndarray
        0 where the interval contains 0 as it is; infinite where nothing was seen and it does not.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    distance = np.where(np.isnan(low) | np.isnan(high), np.nan, np.maximum(np.maximum(low, -high), 0.0))
    seen = np.abs(np.asarray(seen, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / seen)
