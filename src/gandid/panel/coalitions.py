"""Coalitions of sites and what each weighs in a Shapley share (Shapley 1953; Štrumbelj and Kononenko 2010 for sampled orders).

The game is ``v(A) = E[Y(1, S minus A)]``: the outcome of the edited arm with the sites ``A`` live and the others held. A site's share
is what it adds, on becoming live, to the sites that are live before it, averaged over all orders. The shares sum to
``v(S) - v(empty)``, which is the DID of holding all sites, exactly and per latent.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import factorial

import numpy as np

EXACT = 8  # sites up to which all 2^k arms are run
ORDERS = 16  # random orders of the sites, each with its reverse, where there are more sites


def coalitions(sites: int) -> list[frozenset[int]]:
    """All sets of live sites, smaller ones first."""
    return [frozenset(live) for size in range(sites + 1) for live in combinations(range(sites), size)]


def exact_weights(sites: int) -> tuple[list[frozenset[int]], np.ndarray]:
    """Shares as a linear map of the game, from all coalitions.

    Returns
    -------
    list of frozenset of int, numpy.ndarray
        The coalitions, and weights (site, coalition) with ``shares = weights @ v``. A coalition with the site weighs
        ``(a - 1)! (k - a)! / k!``, a its size, and one without it ``-a! (k - a - 1)! / k!``.
    """
    sets = coalitions(sites)
    weights = np.zeros((sites, len(sets)))
    for c, live in enumerate(sets):
        for site in range(sites):
            before = len(live) - (site in live)
            weight = factorial(before) * factorial(sites - before - 1) / factorial(sites)
            weights[site, c] = weight if site in live else -weight
    return sets, weights


def sampled_weights(sites: int, orders: int, seed: int = 0) -> tuple[list[frozenset[int]], np.ndarray]:
    """Shares as a linear map of the game, from random orders, each with its reverse.

    An order makes the sites live one after the other; each adds what its step adds. Every order's shares sum to the DID, so the
    mean's do too. An order and its reverse together vary less than two independent ones (antithetic sampling; Mitchell et al. 2022).

    Parameters
    ----------
    sites
        Number of sites.
    orders
        Number of pairs of an order and its reverse.
    seed
        Random seed for the orders.

    Returns
    -------
    list of frozenset of int, numpy.ndarray
        The coalitions that the orders meet, and weights (order, site, coalition).
    """
    rng = np.random.default_rng(seed)
    places: dict[frozenset[int], int] = {}
    steps: list[list[tuple[int, int, int]]] = []
    for _ in range(orders):
        order = [int(site) for site in rng.permutation(sites)]
        steps.append([step for way in (order, order[::-1]) for step in _steps(way, places)])
    weights = np.zeros((orders, sites, len(places)))
    for o, pair in enumerate(steps):
        for site, before, after in pair:
            weights[o, site, after] += 0.5
            weights[o, site, before] -= 0.5
    return list(places), weights


def _steps(order: Sequence[int], places: dict[frozenset[int], int]) -> Iterator[tuple[int, int, int]]:
    """(site, coalition before, coalition after) along an order; new coalitions get the next place."""
    live: frozenset[int] = frozenset()
    before = places.setdefault(live, len(places))
    for site in order:
        live = live | {site}
        after = places.setdefault(live, len(places))
        yield site, before, after
        before = after
