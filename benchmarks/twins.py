"""Whether what normalization does in one network holds over trainings.

    python benchmarks/twins.py rooms rooms-1 rooms-2 rooms-twin [--layer layer4] [--latents 512] [--out runs/twins]

Each network is a study of its own: the units of every object are ranked on it and ablated, with every normalization live and with all of
them held half by `capped` (those that have some). Then networks are the observations. The studies are kept in OUT, and the same
command goes on where it was cut off. Prints the tables of docs/twins.md.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from scipy import stats

import gandid

ARM = "capped:all@k0.5"


def effects(name: str, given: argparse.Namespace, progress: Progress) -> pd.DataFrame:
    """A network's rows of what is removed, and what other objects take together, by target and outcome; its DID where it has normalizations."""
    generator = gandid.load_generator(name)
    study = gandid.Study(generator, gandid.load_segmenter("rooms"), given.layer, given.seed)
    held = {"control": "capped", "hold": "all", "strength": 0.5} if generator.pixel_norm else {"control": ()}
    panel = study.run(
        units=given.units,
        latents=given.latents,
        store=given.out / f"{name}-{given.layer}",
        progress=progress,
        second_segmenter=None,
        halvings=0,
        **held,
    )
    frame = gandid.did(panel, flips=99, resamples=2).to_frame()
    frame = frame[(frame["kind"] == "target") & (frame["outcome"] == "removed") | (frame["kind"] == "together")]
    return frame.assign(network=name, normalized=generator.pixel_norm).set_index(["target", "outcome"])


def whole(frame: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Per object, each network's DID with its interval over latents, and their mean with one over networks (Student's t)."""
    rows = []
    own = frame[(frame["arm"] == ARM) & (frame["contrast"] == "strength")].xs(outcome, level="outcome")
    for target, part in own.groupby(level="target", sort=False):
        row = {"object": target}
        row |= {
            one.network: f"{points(one.did)} [{points(one.ci_low)}, {points(one.ci_high)}]" for one in part.itertuples()
        }
        if len(part) > 1:
            low, high = stats.t.interval(0.95, len(part) - 1, part["did"].mean(), part["did"].std() / len(part) ** 0.5)
            row["over networks"] = f"{points(part['did'].mean())} [{points(low)}, {points(high)}]"
            row["error, latents alone"] = f"{100 * np.sqrt((part['se'] ** 2).sum()) / len(part):.1f}"
            row["error, networks"] = f"{100 * part['did'].std() / len(part) ** 0.5:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def against(frame: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Per object, the live effect in each network, and where one without normalization would lie if it were like the others."""
    rows = []
    live = frame[frame["contrast"].isin(["strength", "did", "live"])].xs(outcome, level="outcome")
    for target, part in live.groupby(level="target", sort=False):
        one = part.drop_duplicates("network").set_index("network")
        own, other = one[one["normalized"]]["tau_live"], one[~one["normalized"].astype(bool)]["tau_live"]
        row = {"object": target, **{name: f"{100 * value:.1f}" for name, value in one["tau_live"].items()}}
        if len(own) > 1 and len(other):
            reach = stats.t.ppf(0.975, len(own) - 1) * own.std() * np.sqrt(1 + 1 / len(own))
            row["like the others"] = f"{100 * (own.mean() - reach):.1f} to {100 * (own.mean() + reach):.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def points(share: float) -> str:
    """A difference in points."""
    return f"{100 * share:+.1f}"


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| " + " | ".join(table.columns) + " |\n|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")


def main() -> None:
    """Measure what is not there yet, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="random seed for the latents")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/twins"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with Progress(console=Console(stderr=True)) as progress:
        frame = pd.concat(effects(name, given, progress) for name in given.networks)
    for outcome in ("removed", "inpainted"):
        show(f"{outcome}, live less held half, points [95 %]", whole(frame, outcome))
        show(f"{outcome}, live, % of the object's pixels", against(frame, outcome))


if __name__ == "__main__":
    main()
