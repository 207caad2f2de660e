"""Claim 2 as a regression: whether the unit-object relation decides if and how normalization entangles.

Liu et al. (2020) claim that it does. Here the observations are pairs (target, object) at several layers, the outcome is the DID
of `inpainted` (how much of the target's pixels the object takes because a normalization is live), and the regressors are four
relations of the pair's units, standardized, beside one constant per layer. Pairs and their relations: `gandid.studies.sweep`.

Two of the relations are of the pair and two of its target alone, all pairs of a target share its ablation, and what they share
must not pass for independent evidence. So errors are clustered by layer and target. Clusters are few, where the usual errors
are too small: these are the jackknife's over clusters (CR3; MacKinnon, Nielsen and Webb 2023, "Cluster-robust inference: a guide
to empirical practice"), with t of G - 1 degrees of freedom, and the claims are built on the wild cluster bootstrap, and on a
permutation of the relations beside it.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS

from gandid.did.inference import bh
from gandid.did.words import SHOWN

# What a pair's units are to its two classes: of the pair, and of its target alone.
OF_PAIR, OF_TARGET = ("overlap", "energy"), ("concentration", "gain")
RELATIONS = ("overlap", "concentration", "energy", "gain")
ALL = "all four"  # the row of the four relations together
CLUSTER = ["layer", "target"]
LEAST_CLUSTERS = 6  # below it no inference by clusters is to be trusted, and none is made
LEAST_TARGETS = 5  # the same for the check that takes all pairs of a target, over all layers, as one cluster
# Sizes of the bootstrap's weights, of either sign (Webb 2014): they take many values even in few clusters.
WEBB = np.sqrt([0.5, 1.0, 1.5])
AT_ONCE = 2**22  # values of a block of draws

COLUMNS = ["arm", "term", "coefficient", "se", "ci_low", "ci_high", "p", "n", "clusters"]
MORE = [
    "p_wild",
    "p_permuted",
    "p_target",
    "q",
    "se_two_way",
    "slope",
    "partial_r2",
    "vif",
    "left_out",
    "sd",
    "noise",
    "same_as",
    "why",
]


def regress(pairs: pd.DataFrame, *, level: float = 0.95, draws: int = 9999, seed: int = 0) -> pd.DataFrame:
    """Regress the pairs' DID on their relations, for each held arm by itself.

    Least squares without weights: what the relations do not explain is much larger than the DID's own sampling error (`noise`),
    and weights by that error would leave the regression to the pairs that nothing ever happens to, whose error is 0. Sampling
    error in the DID makes intervals wider and biases nothing; in the relations it draws coefficients towards 0.

    Parameters
    ----------
    pairs
        One row per (layer, target, object, arm), with `did`, `se`, `supported`, the four `RELATIONS`, and `same_as`, the arms
        that are the same as this one. Rows that are not supported, or lack a number, are left out and counted.
    level
        Coverage of the intervals.
    draws, seed
        Of the bootstrap and of the permutations, each.

    Returns
    -------
    pandas.DataFrame
        One row per arm and term: the four relations, then `ALL`. Within layers, in standard deviations of the DID per standard
        deviation of the relation:

        - `coefficient`, `se`, `ci_low`, `ci_high`, `p`: least squares, errors clustered by layer and target (CR3); for `ALL`,
          `p` of the Wald test that all four are 0;
        - `p_wild`: wild cluster bootstrap of the t statistic, the null hypothesis imposed (Cameron, Gelbach and Miller 2008),
          with Webb's weights;
        - `p_permuted`: the relation alone dealt out anew among the pairs of a target, or, if it is one of the target's, among
          the targets of a layer, with the same statistic; for `ALL` all four, with the share of variance explained;
        - `p_target`: as `p_wild`, with all pairs of a target, at all layers, as one cluster; NaN below `LEAST_TARGETS`;
        - `q`: Benjamini-Hochberg of `p_wild` over all arms and relations;
        - `se_two_way`: clustered by layer and target and by layer and object at once (Cameron, Gelbach and Miller 2011);
        - `slope`: the coefficient in the units of both, a share of the target's pixels per unit of the relation;
        - `partial_r2`: share of the variance, that the others leave unexplained within layers, which the relation explains; for
          `ALL`, R2 within layers;
        - `vif`: variance inflation factor, within layers;
        - `n`, `clusters`, `left_out`: pairs, clusters, and pairs left out;
        - `sd`: the DID's standard deviation within layers; `noise`: the share of its variance that is sampling error;
        - `why`: where nothing is estimated, the reason, and all numbers are NaN.
    """
    parts = [_arm(rows, level, draws, seed) for _, rows in pairs.groupby("arm", sort=False)]
    if not parts:
        return pd.DataFrame(columns=COLUMNS + MORE)
    table = pd.concat(parts, ignore_index=True)
    tested = table["term"] != ALL
    table["q"] = np.nan
    table.loc[tested, "q"] = bh(table.loc[tested, "p_wild"].to_numpy())
    return table[COLUMNS + MORE]


def shown(table: pd.DataFrame) -> pd.Series:
    """Which terms of `regress` count as found: `q` and the permutation's p-value both below `SHOWN`."""
    return (table["q"] < SHOWN) & (table["p_permuted"] < SHOWN)


def usable(pairs: pd.DataFrame) -> pd.Series:
    """Which pairs a regression takes: in support, with a DID and all relations."""
    numbers = pairs[["did", *RELATIONS]].astype(float)
    return pairs["supported"].astype(bool) & numbers.abs().lt(np.inf).all(axis=1)


def within(values: pd.DataFrame, layer: pd.Series) -> pd.DataFrame:
    """Columns of numbers less their layer's mean."""
    return values - values.groupby(layer.to_numpy()).transform("mean")


def correlations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Correlations of the relations within layers, over the usable pairs of one arm: (4, 4)."""
    rows = pairs[usable(pairs)]
    return within(rows[[*RELATIONS]], rows["layer"]).corr()


def sentences(table: pd.DataFrame, layers: int) -> list[str]:
    """What was found, arm by arm, in plain words that claim no more; the last says what it holds for."""
    said = [_told(rows) for _, rows in table.groupby("arm", sort=False)]
    if table["coefficient"].notna().any():
        said.append(
            f"This is said of this network, its objects and these {layers} layers, as an association over pairs: no relation "
            "was changed by experiment."
        )
    return said


def headline(table: pd.DataFrame) -> str:
    """The result in one sentence."""
    if not table["coefficient"].notna().any():
        reasons = "; ".join(dict.fromkeys(table["why"])) or "no layer's units were ranked"
        return f"Claim 2 could not be tested: {reasons}."
    found = table[shown(table)]
    arms = int(table.loc[table["coefficient"].notna(), "arm"].nunique())
    if not len(found):
        return (
            "Claim 2 is not shown here: no relation between units and objects goes with how much in-painting normalization "
            f"causes, beyond noise, in {'the one arm' if arms == 1 else f'any of the {arms} arms'} in support."
        )
    told = "; ".join(f"{row['term']} ({_signed(row['coefficient'])}, {row['arm']})" for row in found.to_dict("records"))
    return (
        f"Claim 2 finds support here for {', '.join(dict.fromkeys(found['term']))}: what goes with the in-painting that "
        f"normalization causes is {told}, in standard deviations per standard deviation."
    )


def _told(rows: pd.DataFrame) -> str:
    """One arm in words."""
    first, whole = rows.iloc[0], rows[rows["term"] == ALL].iloc[0]
    arm = first["arm"] + (f" (the same as {first['same_as']})" if first["same_as"] else "")
    left = f", {first['left_out']} left out (out of support or not estimable)" if first["left_out"] else ""
    if first["why"]:
        return f"Against {arm}: not estimated, {first['why']}; {first['n']} pairs{left}."
    text = f"Against {arm}, {first['n']} pairs in {first['clusters']} clusters{left}: "
    found = rows[shown(rows)]
    claims = []
    for row in found.to_dict("records"):
        way = "more" if row["coefficient"] > 0 else "less"
        claim = (
            f"{way} in-painting is caused where {row['term']} is larger ({_signed(row['coefficient'])} sd per sd "
            f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}], {_p('q', row['q'])})"
        )
        if np.isfinite(row["p_target"]) and row["p_target"] >= SHOWN:
            claim += (
                f", though not beyond noise with all layers of a target as one cluster ({_p('p', row['p_target'])})"
            )
        claims.append(claim)
    text += "; ".join(claims) if claims else "no relation goes with the DID of in-painting beyond noise"
    widest = float(np.nanmax(rows[["ci_low", "ci_high"]].abs().to_numpy()))
    excluded = "" if claims else f" (the intervals exclude more than {widest:.2f} sd per sd)"
    return (
        f"{text}{excluded}. The four together explain {100 * whole['partial_r2']:.0f} % of the DID's variance within layers "
        f"(permutation {_p('p', whole['p_permuted'])}). Its standard deviation is {100 * whole['sd']:.2f} points of the "
        f"target's pixels, and {100 * whole['noise']:.0f} % of its variance is sampling error, which no relation can explain."
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _p(name: str, value: float) -> str:
    return f"{name} < 0.001" if value < 0.001 else f"{name} = {value:.3f}"


def _arm(rows: pd.DataFrame, level: float, draws: int, seed: int) -> pd.DataFrame:
    """The rows of one arm."""
    kept = rows[usable(rows)].sort_values(["layer", "target", "object"], kind="stable")
    terms = [*RELATIONS, ALL]
    table = pd.DataFrame({name: np.full(len(terms), np.nan) for name in COLUMNS + MORE})
    table["arm"], table["same_as"], table["term"] = rows["arm"].iloc[0], rows["same_as"].iloc[0], terms
    table["n"], table["left_out"] = len(kept), len(rows) - len(kept)
    table["clusters"] = kept.groupby(CLUSTER).ngroups
    data = within(kept[["did", *RELATIONS]].astype(float), kept["layer"])
    table["why"] = _obstacle(kept, data)
    if table["why"].iloc[0]:
        return table
    sizes = data.std()
    y, x = (data["did"] / sizes["did"]).to_numpy(), (data[[*RELATIONS]] / sizes[[*RELATIONS]]).to_numpy()
    layers = pd.get_dummies(kept["layer"], dtype=float).to_numpy()
    groups = [kept.groupby(keys).ngroup().to_numpy() for keys in (CLUSTER, ["layer", "object"], ["target"])]

    k, free = len(RELATIONS), int(groups[0].max())
    of = np.arange(k)
    model = OLS(y, np.column_stack([x, layers]))
    fit = model.fit()
    slopes, spread = fit.params[:k], _jackknife(model.exog, y, fit.params, groups[0])[:k, :k]
    se = np.sqrt(np.diag(spread))
    half = stats.t.ppf((1 + level) / 2, free) * se
    table.loc[of, "coefficient"], table.loc[of, "se"] = slopes, se
    table.loc[of, "ci_low"], table.loc[of, "ci_high"] = slopes - half, slopes + half
    table.loc[of, "p"] = 2 * stats.t.sf(np.abs(slopes) / se, free)
    table.loc[k, "p"] = stats.f.sf(slopes @ np.linalg.solve(spread, slopes) / k, k, free)
    with np.errstate(invalid="ignore"):  # with few clusters two-way variances may come out below 0: NaN
        both = model.fit(cov_type="cluster", cov_kwds={"groups": np.column_stack(groups[:2])})
        table.loc[of, "se_two_way"] = both.bse[:k]
    t = fit.tvalues[:k]
    table.loc[of, "partial_r2"] = t**2 / (t**2 + fit.df_resid)
    table.loc[k, "partial_r2"] = 1 - fit.ssr / (y**2).sum()
    table.loc[of, "vif"] = np.diag(np.linalg.inv(np.corrcoef(x.T)))
    table.loc[of, "slope"] = slopes * sizes["did"] / sizes[[*RELATIONS]].to_numpy()
    table["sd"], table["noise"] = sizes["did"], min((kept["se"] ** 2).mean() / sizes["did"] ** 2, 1.0)

    deal = _dealer(kept["layer"].to_numpy(), groups[0])
    for j, term in enumerate(RELATIONS):
        rest = _Rest(np.column_stack([np.delete(x, j, axis=1), layers]))
        table.loc[j, "p_wild"] = _wild(y, x[:, j], rest, groups[0], draws, seed)
        if groups[2].max() + 1 >= LEAST_TARGETS:
            table.loc[j, "p_target"] = _wild(y, x[:, j], rest, groups[2], draws, seed)
        outcome, own = rest.residual(y[:, None]), rest.residual(x[:, j, None])
        reached = abs(_t(own, outcome, groups[0])[0])
        table.loc[j, "p_permuted"] = _share(
            (
                np.abs(_t(rest.residual(x[:, j][places.T]), outcome, groups[0])) >= reached * (1 - 1e-9)
                for places in deal(term in OF_PAIR, draws, seed)
            ),
            draws,
        )
    table.loc[k, "p_permuted"] = _all_permuted(y, x, kept["layer"].to_numpy(), deal, draws, seed)
    return table


def _obstacle(kept: pd.DataFrame, data: pd.DataFrame) -> str:
    """Why nothing can be estimated; empty if it can."""
    clusters = kept.groupby(CLUSTER).ngroups
    if kept.empty:
        return "no pair is in support"
    if clusters < LEAST_CLUSTERS:
        return f"{clusters} clusters (layer and target) are too few, {LEAST_CLUSTERS} are needed"
    if len(kept) <= 2 * (len(RELATIONS) + kept["layer"].nunique()):
        return "there are too few pairs"
    still = [str(name) for name in data if data[name].abs().max() <= 1e-12]
    if still:
        return f"{' and '.join(still)} {'is' if len(still) == 1 else 'are'} the same for all pairs of a layer"
    scaled = data[[*RELATIONS]] / data[[*RELATIONS]].std()
    if np.linalg.matrix_rank(scaled.to_numpy(), tol=1e-6 * len(scaled) ** 0.5) < len(RELATIONS):
        return "the relations cannot be told apart"
    return ""


def _jackknife(x: np.ndarray, y: np.ndarray, slopes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Covariance of least-squares coefficients from leaving out one cluster at a time (CR3): (k, k)."""
    count = groups.max() + 1
    without = np.array([np.linalg.lstsq(x[groups != g], y[groups != g])[0] for g in range(count)])
    return (without - slopes).T @ (without - slopes) * (count - 1) / count


class _Rest:
    """The other regressors, to be partialled out (Frisch, Waugh and Lovell)."""

    def __init__(self, columns: np.ndarray):
        left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
        self.basis = left[:, sizes > 1e-10 * sizes[0]]
        self.parameters = self.basis.shape[1]

    def residual(self, values: np.ndarray) -> np.ndarray:
        """What is left of columns (n, B)."""
        return values - self.basis @ (self.basis.T @ values)


def _t(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Cluster-robust t statistics (B,), up to their small-sample factor, of y on x (n, B), both free of the rest."""
    size = (x * x).sum(0)
    slope = (x * y).sum(0) / size
    members = np.eye(groups.max() + 1)[groups].T
    scores = members @ (x * (y - slope * x))
    return slope * size / np.sqrt((scores**2).sum(0))


def _wild(y: np.ndarray, x: np.ndarray, rest: _Rest, groups: np.ndarray, draws: int, seed: int) -> float:
    """Wild cluster bootstrap p-value of one relation's coefficient; under the null hypothesis y is its rest's alone."""
    rng = np.random.default_rng(seed)
    own, outcome = rest.residual(x[:, None]), rest.residual(y[:, None])
    reached = abs(_t(own, outcome, groups)[0])

    def hits() -> Iterator[np.ndarray]:
        for size in _blocks(len(y), draws):
            weights = rng.choice(np.concatenate([-WEBB, WEBB]), (groups.max() + 1, size))
            drawn = rest.residual(outcome * weights[groups])
            yield np.abs(_t(own, drawn, groups)) >= reached * (1 - 1e-9)

    return _share(hits(), draws)


Dealer = Callable[[bool, int, int], Iterator[np.ndarray]]


def _dealer(layer: np.ndarray, cluster: np.ndarray) -> Dealer:
    """Permutations of pairs: among those of a target, or of targets with all they have among those of a layer."""
    first = np.unique(cluster, return_index=True)[1]  # a pair of each cluster
    layers = np.unique(layer, return_inverse=True)[1]

    def deal(of_pair: bool, draws: int, seed: int) -> Iterator[np.ndarray]:
        """Blocks of places (B, n): the pair whose relation each pair is given."""
        rng = np.random.default_rng(seed)
        for size in _blocks(len(layer), draws):
            if of_pair:
                yield _shuffled(cluster, size, rng)
            else:
                yield first[_shuffled(layers[first], size, rng)][:, cluster]

    return deal


def _shuffled(strata: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Random permutations (size, n) that leave everything in its stratum, numbered from 0."""
    places = np.empty((size, len(strata)), int)
    places[:, np.argsort(strata, kind="stable")] = np.argsort(strata + rng.random((size, len(strata))), axis=1)
    return places


def _all_permuted(y: np.ndarray, x: np.ndarray, layer: np.ndarray, deal: Dealer, draws: int, seed: int) -> float:
    """Permutation p-value of the variance that all relations explain, those of a pair and those of a target dealt out anew."""
    of_pair = [RELATIONS.index(name) for name in OF_PAIR]
    of_target = [RELATIONS.index(name) for name in OF_TARGET]
    reached = _explained(y, x[None], layer)[0]

    def hits() -> Iterator[np.ndarray]:
        for pairs, targets in zip(deal(True, draws, seed), deal(False, draws, seed + 1), strict=True):
            drawn = np.empty((len(pairs), *x.shape))
            drawn[:, :, of_pair] = x[:, of_pair][pairs]
            drawn[:, :, of_target] = x[:, of_target][targets]
            yield _explained(y, drawn, layer) >= reached * (1 - 1e-9)

    return _share(hits(), draws)


def _explained(y: np.ndarray, x: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Sum of squares of y (n,) that columns of x (B, n, k) explain within layers: (B,)."""
    free = x.copy()
    for name in np.unique(layer):
        of = layer == name
        free[:, of] -= free[:, of].mean(axis=1, keepdims=True)
    moments = np.einsum("bnk,n->bk", free, y)
    gram = np.einsum("bnk,bnl->bkl", free, free)
    return np.einsum("bk,bkl,bl->b", moments, np.linalg.pinv(gram, hermitian=True), moments)


def _blocks(n: int, draws: int) -> Iterator[int]:
    """How many draws to make at a time."""
    size = max(AT_ONCE // max(n, 1), 1)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _share(hits: Iterator[np.ndarray], draws: int) -> float:
    """The p-value of so many draws (Phipson and Smyth 2010 for the + 1)."""
    return (sum(int(some.sum()) for some in hits) + 1) / (draws + 1)
