"""Ratios of sums over latents by arm, with percentile intervals that pair the arms."""

from __future__ import annotations

import numpy as np

from gandid.stats import bootstrap

INTERVAL = (2.5, 97.5)  # percentiles of the resamples


def ratios_of_sums(parts: np.ndarray, whole: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Ratios of sums over latents, the first arm's less each arm's, and 95 % percentile intervals of both.

    Of `parts` (n, arms, k) over `whole` (n, k): arrays (arms, k) by the names `value`, `low`, `high` and, for the
    differences, `did`, `did_low`, `did_high`. All arms share the resamples of latents. An interval is NaN where its
    value is, or where hardly any resample has a value.
    """
    n, arms, k = parts.shape
    above, total = parts.sum(axis=0), np.broadcast_to(whole.sum(axis=0), (arms, k))
    value = np.divide(above, total, out=np.full((arms, k), np.nan), where=total > 0)
    below = np.broadcast_to(whole[:, None], parts.shape)
    draws = bootstrap(parts.reshape(n, -1), below.reshape(n, -1), seed=seed).reshape(-1, arms, k)

    def interval(drawn: np.ndarray) -> np.ndarray:
        usable = (np.isfinite(drawn).mean(axis=0) > 0.5) & np.isfinite(value)
        return np.where(usable, np.nanpercentile(np.where(usable, drawn, 0), INTERVAL, axis=0), np.nan)

    low, high = interval(draws)
    did_low, did_high = interval(draws[:, :1] - draws)
    names = ("value", "low", "high", "did", "did_low", "did_high")
    return dict(zip(names, (value, low, high, value[:1] - value, did_low, did_high), strict=True))
