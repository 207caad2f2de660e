"""Does what is said of normalization on one network hold over trainings: a study of each of several networks, and of all together.

    python benchmarks/twins.py rooms rooms-1 rooms-2 rooms-twin [--layer layer4] [--latents 512] [--units 20] [--threads 1] [--out runs/twins]

Every network with pixel normalization is a study by itself: of each object its own units are ranked and ablated, and live is compared
with `capped`, held as `gandid run` holds it. A network without normalization has nothing to hold; it is a twin of the first of the others,
with units of its own. Then the networks are the observations (docs/twins.md). The studies are kept in `OUT/NAME-LAYER`, and the same command
goes on where it was cut off. Prints tables in Markdown.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from rich.console import Console
from rich.progress import Progress

import gandid
from gandid import outcomes
from gandid.estimation import read_effects
from gandid.stats import t_interval

LEGEND = """\
In points [95 %]: of each network over latents, of the mean over networks, by the larger of its two errors. Signs: + or - where 0 is
outside the network's interval, else 0; ? where too few images show the object; * where the hold is out of range."""


def effects(
    networks: Mapping[str, torch.nn.Module], given: argparse.Namespace, progress: Progress
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The whole effects in every study, with a column `network`; and by network without normalization its arm in the first study."""
    segmenter, tables, arms = gandid.load_segmenter("rooms"), list[pd.DataFrame](), dict[str, str]()
    plain = {name: network for name, network in networks.items() if not network.pixel_norm}
    for name in [name for name in networks if name not in plain]:
        twins = {} if tables else plain
        study = gandid.Study(networks[name], segmenter, given.layer, twins=twins)
        store = given.out / f"{name}-{given.layer}"
        control = ["capped", "twin"] if twins else ["capped"]
        panel = study.run(units=given.units, control=control, latents=given.latents, store=store, progress=progress)
        frame = read_effects(store, panel).to_frame()
        partly = frame["contrast"].eq("strength") & frame["strength"].lt(1)
        frame = frame[outcomes.whole(frame) & (frame["contrast"].eq("did") | partly)].assign(network=name)
        counts = panel["inside"].isel(segmenter=0).sortby("latent").load().astype(float)
        tables.append(frame.assign(influence=[influence(counts, one, study.objects) for one in frame.itertuples()]))
        if twins:
            arms = dict(zip(plain, frame.loc[frame["control"] == "twin", "arm"].unique(), strict=True))
    return pd.concat(tables, ignore_index=True), arms


def influence(counts: xr.DataArray, one: Any, objects: Sequence[str]) -> np.ndarray:
    """What each latent adds to the error of a DID under `capped`, from the pixels inside the target's original ones (docs/panel.md)."""
    counts = counts.sel(target=one.target)
    hole = counts.sel(arm="reference").sum("object")
    gap = counts.sel(arm="live") - counts.sel(arm=one.arm)
    others = [name for name in objects if name != one.target]
    change = -gap.sel(object=one.target) if one.outcome == "removed" else gap.sel(object=others).sum("object")
    return ((change - one.did * hole) / hole.sum()).values


def over_networks(frame: pd.DataFrame) -> pd.DataFrame:
    """Of one held arm, a row per target and outcome: the DID in each network, its signs, and the mean over networks."""
    rows = []
    for (target, outcome), part in frame.groupby(["target", "outcome"], sort=False):
        row = {"target": target, "outcome": outcome}
        one: Any
        for one in part.itertuples():
            row[one.network] = f"{100 * one.did:+.2f} {span(one.ci_low, one.ci_high)}"
        row["signs"] = " ".join(map(sign, part.itertuples()))
        did = part["did"].to_numpy()
        networks = np.std(did, ddof=1) / np.sqrt(len(did)) if len(did) > 1 else np.nan
        latents = np.sqrt((np.mean(list(part["influence"]), axis=0) ** 2).sum())
        mean = t_interval(did.mean(), np.maximum(networks, latents), len(did), np.inf)
        row["mean over networks"] = f"{100 * did.mean():+.2f} {span(mean.low, mean.high)}"
        row |= {"error, networks": f"{100 * networks:.2f}", "error, latents": f"{100 * latents:.2f}"}
        rows.append(row)
    return pd.DataFrame(rows)


def without(frame: pd.DataFrame, arms: Mapping[str, str]) -> pd.DataFrame:
    """A row per target and outcome: the effect in each network, and where that of one more with normalization is expected."""
    rows = []
    for (target, outcome), part in frame.groupby(["target", "outcome"], sort=False):
        live = part[part["arm"] == "capped:first"].set_index("network")["tau_live"]
        row = {"target": target, "outcome": outcome} | {str(name): f"{100 * tau:.2f}" for name, tau in live.items()}
        s = np.asarray(live.std())
        more = t_interval(np.asarray(live.mean()), s * np.sqrt(1 + 1 / len(live)), len(live), np.inf)
        row |= {"s": f"{100 * s:.2f}", "one more [95 %]": span(more.low, more.high)}
        for name, arm in arms.items():
            one = part[part["arm"] == arm].iloc[0]
            outside = one["ci_held_low"] > more.high or one["ci_held_high"] < more.low
            row[name] = f"{100 * one['tau_held']:.2f}{' (outside)' if outside else ''}"
        rows.append(row)
    return pd.DataFrame(rows)


def sign(one: Any) -> str:
    """The sign of a DID, where its interval shows one."""
    if not one.estimable:
        return "?"
    return ("+" if one.ci_low > 0 else "-" if one.ci_high < 0 else "0") + ("" if one.supported else "*")


def span(low: Any, high: Any) -> str:
    """An interval, in points."""
    return f"[{100 * low:+.2f}, {100 * high:+.2f}]"


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| " + " | ".join(table.columns) + " |\n|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)).replace("+nan", "?").replace("nan", "?") + " |")


def main() -> None:
    """Measure what is not there yet, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help="generators of the rooms by name, with and without normalization")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/twins"), help="folder of the studies")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = {name: gandid.load_generator(name) for name in given.networks}
    if not any(network.pixel_norm for network in networks.values()):
        parser.error("name a network with normalization: in one without there is nothing to hold")
    with Progress(console=Console(stderr=True)) as progress:
        frame, arms = effects(networks, given, progress)
    about = f"{given.layer}, {given.units} units, {given.latents} latents"
    print(LEGEND)
    for arm, part in frame[frame["control"] == "capped"].groupby("arm", sort=False):
        table = over_networks(part)
        show(f"{about}: live less {arm}", table)
        signs = table["signs"].str.split().map(set)
        same, both = signs.isin([{"+"}, {"-"}]).sum(), signs.map({"+", "-"}.issubset).sum()
        print(f"\nIn range, {same} of {len(table)} have the same sign in all networks, and {both} have both signs.")
    if arms:
        show(f"{about}: the effect itself, in % of the object's pixels", without(frame, arms))


if __name__ == "__main__":
    main()
