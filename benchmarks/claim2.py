"""Claim 2 of Liu et al. (2020): does the relation of units and objects decide how normalization entangles objects.

    gandid run --layer layer3 --layer layer4 --layer layer5 --layer layer6 --latents 256 --out runs/sweep
    pip install 'gandid[claim2]'
    python benchmarks/claim2.py runs/sweep/layer*

An observation is a pair (target, object) at one layer. The outcome is the difference-in-differences of `inpainted`, the regressors are
four relations between the pair's units, and every held arm is regressed by itself with one constant per layer (docs/claim2.md).
Writes `pairs.csv`, `claim2.csv`, `claim2.png` and `depth.png` into the folder above the runs, or into `--out`, and prints the table.

All pairs of a target at a layer share its ablation, so errors are clustered by layer and target. Such clusters are few; the standard
errors are the jackknife's over clusters (CR3; MacKinnon, Nielsen and Webb 2023, "Cluster-robust inference: a guide to empirical
practice"), and claims rest on the wild cluster bootstrap and on a permutation of the relation. The regression, its errors and the
bootstrap are pyfixest's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pyfixest
import wildboottest  # noqa: F401  pyfixest's bootstrap needs it, and would only print that it is missing
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from gandid.errors import UsageError
from gandid.estimation import read_effects
from gandid.estimation.effects import identical
from gandid.outcomes.concentration import overlap, share
from gandid.runs import open_panel

OF_PAIR, OF_TARGET = ("overlap", "energy"), ("concentration", "gain")
RELATIONS = ("overlap", "concentration", "energy", "gain")
TOGETHER = "all four"  # the row of the four relations together
FORMULA = f"did ~ {' + '.join(RELATIONS)} + C(layer)"
LEAST_CLUSTERS = 6  # with fewer no inference over clusters is made
LEAST_TARGETS = 5  # the same for the stricter test that takes a target at all layers as one cluster
FOUND = 0.05
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}


def pairs(folders: Sequence[Path]) -> pd.DataFrame:
    """The pairs of target and object in the runs of several layers.

    Returns
    -------
    pandas.DataFrame
        `layer, target, object, arm, same_as` (other arms whose counts are identical at every layer), `did, se, supported` of
        `inpainted`, and the relations: `overlap`, the cosine of the positive ACE of target and object over the units;
        `concentration`, the share of the target's positive ACE that the edited units carry; `energy`, the mean over the edited units
        of the share of a unit's energy that lies on the object; `gain`, the mean gain at the first site inside the target's pixels.
    """
    runs = [(folder, open_panel(folder)) for folder in folders]
    found = [read_effects(folder, panel) for folder, panel in runs]
    same = identical_arms([identical(effects.main) for effects in found])
    parts = []
    for (folder, panel), effects in zip(runs, found, strict=True):
        if not (folder / "relation.zarr").is_dir():
            continue  # the user named all units, so that none was ranked
        relation = xr.open_zarr(folder / "relation.zarr", chunks=None)
        ace = {str(name): relation["ace"].sel(object=name).values for name in relation["object"].values}
        energy = {str(name): relation["energy"].sel(object=name).values for name in relation["object"].values}
        frame = effects.main[(effects.main["outcome"] == "inpainted") & (effects.main["kind"] == "object")]
        rows = frame.loc[frame["arm"].isin(list(same)), ["target", "object", "arm", "did", "se", "supported"]]
        named = list(zip(rows["target"], rows["object"], strict=True))
        edited = panel["units"].sel(networks="own", draws=0)
        units = {target: edited.sel(target=target).values for target in effects.targets}
        units = {target: numbers[numbers >= 0] for target, numbers in units.items()}
        gain = {target: float(panel["gain"].sel(target=target).astype(float).mean()) for target in effects.targets}
        parts.append(
            rows.assign(
                layer=effects.attrs["layer"],
                same_as=rows["arm"].map(same),
                overlap=[float(overlap(ace[target], ace[other])) for target, other in named],
                concentration=[float(share(ace[target], units[target])) for target, _ in named],
                energy=[float(energy[other][units[target]].mean()) for target, other in named],
                gain=[gain[target] for target, _ in named],
            )
        )
    if not parts:
        raise UsageError("none of these runs ranked its units: there is no relation to regress on")
    columns = ["layer", "target", "object", "arm", "same_as", "did", "se", "supported", *RELATIONS]
    return pd.concat(parts, ignore_index=True)[columns]


def identical_arms(layers: Sequence[Sequence[Sequence[str]]]) -> dict[str, str]:
    """{held arm: the other arms that are identical to it at every layer, joined by commas}, the first of each group alone."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for arm in [name for group in layers[0] for name in group]:
        place = tuple(next(i for i, group in enumerate(layer) if arm in group) for layer in layers)
        groups.setdefault(place, []).append(arm)
    return {first: ", ".join(others) for first, *others in groups.values()}


def regress(table: pd.DataFrame, *, level: float = 0.95, draws: int = 9999, seed: int = 0) -> pd.DataFrame:
    """Regress the difference-in-differences of the pairs on their relations, for each held arm by itself.

    Least squares without weights: what the relations leave unexplained is much larger than the sampling error of the outcome, and
    weights by that error would leave the regression to pairs to which nothing ever happens, whose error is 0.

    Parameters
    ----------
    table
        As `pairs` returns it. Rows that are not supported or lack a number are left out and counted.
    level
        Coverage of the intervals.
    draws, seed
        Number of draws of the bootstrap and of the permutations, each, and their random seed.

    Returns
    -------
    pandas.DataFrame
        One row per arm and term, the four relations and then `TOGETHER`, in standard deviations of the outcome per standard
        deviation of the relation, within layers: `coefficient, se, ci_low, ci_high, p` (CR3, t with G - 1 degrees of freedom);
        `p_wild` (wild cluster bootstrap, null hypothesis imposed, Webb's weights); `p_permuted` (the relation dealt out anew among
        the pairs of a target, or among the targets of a layer where it belongs to the target); `p_target` (as `p_wild`, a target at all
        layers being one cluster); `q` (Benjamini-Hochberg of `p_wild` over arms and relations); `partial_r2` (for `TOGETHER`, R2 within
        layers); `n, clusters, left_out`; `sd` of the outcome within layers; `noise`, the share of its variance that is sampling
        error; `why` nothing was estimated, where that is so.
    """
    found = pd.concat(
        [_regress_arm(rows, level, draws, seed) for _, rows in table.groupby("arm", sort=False)], ignore_index=True
    )
    tested = found["p_wild"].notna()
    found["q"] = np.nan
    found.loc[tested, "q"] = stats.false_discovery_control(found.loc[tested, "p_wild"]) if tested.any() else []
    return found


def _regress_arm(rows: pd.DataFrame, level: float, draws: int, seed: int) -> pd.DataFrame:
    numbers = rows[["did", *RELATIONS]].astype(float)
    usable = rows["supported"].astype(bool) & np.isfinite(numbers).all(axis=1)
    kept = rows[usable].sort_values(["layer", "target", "object"], kind="stable").reset_index(drop=True)
    kept["cluster"] = kept.groupby(["layer", "target"]).ngroup()
    clusters = kept["cluster"].nunique()
    within = kept[["did", *RELATIONS]].astype(float)
    within -= within.groupby(kept["layer"]).transform("mean")
    head = {"arm": rows["arm"].iloc[0], "same_as": rows["same_as"].iloc[0]}
    size = {"n": len(kept), "clusters": clusters, "left_out": len(rows) - len(kept)}
    why = _obstacle(within, clusters, kept["layer"].nunique())
    if why:
        return pd.DataFrame(
            [head | {"term": term} | size | {"p_wild": np.nan, "why": why} for term in (*RELATIONS, TOGETHER)]
        )
    data = kept[["layer", "cluster"]].join(within / within.std())
    data["target"] = kept["target"].factorize()[0]  # the bootstrap takes clusters as numbers
    fit = pyfixest.feols(FORMULA, data, vcov="iid")
    partial = fit.tstat() ** 2 / (fit.tstat() ** 2 + len(data) - len(fit.coef()))
    r2 = 1 - float((fit.resid() ** 2).sum() / (data["did"] ** 2).sum())
    fit.vcov({"CRV3": "cluster"})
    # The jackknife's variance has the factor (G - 1) / G; pyfixest multiplies by small-sample factors instead.
    plain = pyfixest.feols(FORMULA, data, vcov={"CRV3": "cluster"}, ssc=pyfixest.ssc(k_adj=False, G_adj=False))
    se = plain.se() * np.sqrt((clusters - 1) / clusters)
    half = stats.t.ppf((1 + level) / 2, clusters - 1) * se
    permuted = _permute(data, draws, seed)
    result = []
    for term in RELATIONS:
        value = float(fit.coef()[term])
        row = {"coefficient": value, "se": se[term], "ci_low": value - half[term], "ci_high": value + half[term]}
        row["p"] = 2 * stats.t.sf(abs(value) / se[term], clusters - 1)
        row["p_wild"] = _wild(fit, term, "cluster", draws, seed)
        enough = data["target"].nunique() >= LEAST_TARGETS
        row["p_target"] = _wild(fit, term, "target", draws, seed) if enough else np.nan
        result.append(head | {"term": term} | row | {"partial_r2": partial[term], "p_permuted": permuted[term]})
    result.append(head | {"term": TOGETHER, "partial_r2": r2, "p_permuted": permuted[TOGETHER]})
    sd = within["did"].std()
    noise = min((kept["se"] ** 2).mean() / sd**2, 1.0)
    return pd.DataFrame(result).assign(**size, sd=sd, noise=noise, why="")


def _obstacle(within: pd.DataFrame, clusters: int, layers: int) -> str:
    """Why nothing can be estimated; empty if it can."""
    if within.empty:
        return "no pair is in range"
    if clusters < LEAST_CLUSTERS:
        return f"{clusters} clusters (layer and target) are too few, {LEAST_CLUSTERS} are needed"
    if len(within) <= 2 * (len(RELATIONS) + layers):
        return "there are too few pairs"
    constant = [str(name) for name in within if within[name].abs().max() <= 1e-12]
    if constant:
        return f"{' and '.join(constant)} {'is' if len(constant) == 1 else 'are'} the same for all pairs of a layer"
    scaled = within[[*RELATIONS]] / within[[*RELATIONS]].std()
    if np.linalg.matrix_rank(scaled.to_numpy(), tol=1e-6 * len(scaled) ** 0.5) < len(RELATIONS):
        return "the relations cannot be told apart"
    return ""


def _wild(fit: pyfixest.Feols, term: str, cluster: str, draws: int, seed: int) -> float:
    """P-value of the wild cluster bootstrap (Cameron, Gelbach and Miller 2008; weights of Webb 2014)."""
    result = fit.wildboottest(param=term, cluster=cluster, reps=draws, seed=seed, weights_type="webb", impose_null=True)
    return float((result["Pr(>|t|)"] * draws + 1) / (draws + 1))  # Phipson and Smyth 2010: never zero


def _permute(data: pd.DataFrame, draws: int, seed: int) -> dict[str, float]:
    """Permutation p-value per relation (by its clustered t) and of all four (by R2), each dealt out where it belongs."""
    rng = np.random.default_rng(seed)
    cluster = data["cluster"].to_numpy()
    layer = data["layer"].factorize()[0]
    layer_of_cluster = layer[np.unique(cluster, return_index=True)[1]]
    y, x = data["did"].to_numpy(), data[[*RELATIONS]].to_numpy()
    members = np.eye(cluster.max() + 1)[:, cluster]
    constants = np.eye(layer.max() + 1)[layer]

    def deal() -> np.ndarray:
        """The relations with those of a pair shuffled within the target, those of a target within the layer."""
        pair = np.lexsort((rng.random(len(cluster)), cluster))
        order = np.lexsort((rng.random(len(layer_of_cluster)), layer_of_cluster))
        ordered = np.argsort(layer_of_cluster, kind="stable")
        target = np.empty(len(order), int)
        target[ordered] = order
        first = np.unique(cluster, return_index=True)[1]
        drawn = x.copy()
        for place, name in enumerate(RELATIONS):
            drawn[:, place] = x[pair, place] if name in OF_PAIR else x[first[target], place][cluster]
        return drawn

    def clustered_t(values: np.ndarray, rest: np.ndarray) -> float:
        own, outcome = values - rest @ (rest.T @ values), y - rest @ (rest.T @ y)
        slope = own @ outcome / (own @ own)
        return abs(slope) * (own @ own) / np.linalg.norm(members @ (own * (outcome - slope * own)))

    def explained(values: np.ndarray) -> float:
        free = values - constants @ np.linalg.lstsq(constants, values)[0]
        return float(y @ free @ np.linalg.lstsq(free, y)[0])

    rests = [np.linalg.qr(np.column_stack([np.delete(x, j, axis=1), constants]))[0] for j in range(len(RELATIONS))]
    reached = [clustered_t(x[:, j], rest) for j, rest in enumerate(rests)] + [explained(x)]
    hits = np.zeros(len(reached))
    for _ in range(draws):
        drawn = deal()
        values = [clustered_t(drawn[:, j], rest) for j, rest in enumerate(rests)] + [explained(drawn)]
        hits += np.array(values) >= np.array(reached) * (1 - 1e-9)
    return dict(zip((*RELATIONS, TOGETHER), ((hits + 1) / (draws + 1)).tolist(), strict=True))


def beyond_noise(table: pd.DataFrame) -> pd.Series:
    """Which terms of `regress` count as found: `q` and the permutation's p-value are both below 0.05."""
    return (table["q"] < FOUND) & (table["p_permuted"] < FOUND)


def draw_claim(table: pd.DataFrame, regressed: pd.DataFrame) -> Figure | None:
    """Coefficients of every arm that was estimated, and each pair of the first of them against each relation; None without any."""
    estimated = regressed[regressed["coefficient"].notna()] if "coefficient" in regressed else regressed[:0]
    if estimated.empty:
        return None
    arms = list(dict.fromkeys(estimated["arm"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 5), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
        axes = left.subplots()
        axes.axvline(0, color="0.4", linewidth=0.8)
        for i, arm in enumerate(arms):
            rows = estimated[estimated["arm"] == arm]
            shift = (i - (len(arms) - 1) / 2) * 0.15
            axes.errorbar(
                rows["coefficient"],
                np.arange(len(RELATIONS))[::-1] - shift,
                xerr=[rows["coefficient"] - rows["ci_low"], rows["ci_high"] - rows["coefficient"]],
                fmt="o",
                label=f"{arm}, {rows['n'].iloc[0]} pairs",
            )
        axes.set_yticks(np.arange(len(RELATIONS))[::-1], RELATIONS)
        axes.set_xlabel("standard deviations of DID per standard deviation")
        left.legend(loc="outside lower center", frameon=False)
        pairs_of_arm = table[(table["arm"] == arms[0]) & table["supported"].astype(bool)]
        panels = right.subplots(2, 2, sharey=True)
        for one, term in zip(panels.flat, RELATIONS, strict=True):
            for layer, rows in pairs_of_arm.groupby("layer", sort=False):
                one.scatter(rows[term], 100 * rows["did"].astype(float), s=14, label=layer)
            one.set_xlabel(term)
        for one in panels[:, 0]:
            one.set_ylabel("DID of in-painting, points")
        right.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def draw_depth(folders: Sequence[Path], arm: str) -> Figure:
    """The DID of removal and of in-painting by all other objects over the layers, of one arm; hollow where out of range."""
    found = [read_effects(folder, open_panel(folder)) for folder in folders]
    table = pd.concat([one.main[one.main["arm"] == arm].assign(layer=one.attrs["layer"]) for one in found])
    layers, targets = list(dict.fromkeys(table["layer"])), list(dict.fromkeys(table["target"]))
    whole = {
        "removed": table[table["outcome"] == "removed"],
        "inpainted": table[(table["outcome"] == "inpainted") & (table["kind"] == "together")],
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 1.6 * len(targets), 4.5), layout="constrained")
        grid = figure.subplots(2, len(targets), sharex=True, sharey="row", squeeze=False)
        for line, (outcome, rows) in zip(grid, whole.items(), strict=True):
            for axes, target in zip(line, targets, strict=True):
                _over_layers(axes, rows[rows["target"] == target], layers)
            line[0].set_ylabel(f"DID of {outcome}, points")
        for axes, target in zip(grid[0], targets, strict=True):
            axes.set_title(f"{target} ablated", fontsize=9)
        figure.suptitle(f"Live minus held ({arm}), 95 % intervals")
    return figure


def _over_layers(axes: Axes, rows: pd.DataFrame, layers: Sequence[str]) -> None:
    axes.axhline(0, color="0.4", linewidth=0.8)
    for row in rows.dropna(subset=["did"]).itertuples():
        place = layers.index(row.layer)
        axes.plot([place, place], [100 * row.ci_low, 100 * row.ci_high], color="C0")
        axes.plot(place, 100 * row.did, "o", color="C0", markerfacecolor="C0" if row.supported else "white")
    axes.set_xticks(range(len(layers)), layers, rotation=60)


def main() -> None:
    """Make the tables and figures and print the regression."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of one study at several layers")
    parser.add_argument("--out", type=Path, help="folder for the tables and figures; that above the runs if not given")
    parser.add_argument("--draws", type=int, default=9999, help="draws of the bootstrap and of the permutations")
    parser.add_argument("--seed", type=int, default=0, help="random seed of both")
    given = parser.parse_args()
    out = given.out or given.runs[0].resolve().parent
    out.mkdir(parents=True, exist_ok=True)
    table = pairs(given.runs)
    regressed = regress(table, draws=given.draws, seed=given.seed)
    table.to_csv(out / "pairs.csv", index=False)
    regressed.to_csv(out / "claim2.csv", index=False)
    figure = draw_claim(table, regressed)
    if figure:
        figure.savefig(out / "claim2.png", dpi=150)
    draw_depth(given.runs, table["arm"].iloc[0]).savefig(out / "depth.png", dpi=150)
    for arm, rows in regressed.groupby("arm", sort=False):
        first = rows.iloc[0]
        same = f" (identical: {first['same_as']})" if first["same_as"] else ""
        print(f"\n{arm}{same}: {first['n']} pairs in {first['clusters']} clusters, {first['left_out']} left out")
        if first["why"]:
            print(f"  not estimated: {first['why']}")
            continue
        columns = ["coefficient", "ci_low", "ci_high", "p", "p_wild", "p_permuted", "p_target", "q", "partial_r2"]
        print(rows.set_index("term")[columns].to_string(float_format="%.3f", na_rep=""))
        names = rows.loc[beyond_noise(rows), "term"]
        print(f"  beyond noise: {', '.join(names) or 'no relation'}")
    print(f"\nWritten: {out / 'pairs.csv'}, claim2.csv, claim2.png, depth.png")


if __name__ == "__main__":
    main()
