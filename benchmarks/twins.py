"""Three networks with pixel normalization and three without: is it the normalization, or the training.

    python benchmarks/twins.py [--networks runs/twins] [--layer layer4] [--layer layer6] [--latents 512] [--threads 1]

`--networks` is a folder with `seedS-pn/generator.safetensors` and `seedS-plain/generator.safetensors`, as docs/twins.md trains them.
Each network with normalization is a study, and those without are the twins of the first: on each the units of every object are ranked
by their ACE and the 12 largest are ablated. Then the networks are the observations. The studies are kept in `NETWORKS/measured`, and
the same command goes on where it was cut off. Prints the tables of docs/twins.md.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from scipy import stats

import gandid
from gandid.files import replacing
from lab.first import rooms
from lab.first.quality import evaluate_generator

KINDS = {"pn": "with", "plain": "without"}
TRAINED_ON = 64  # pixels, the size of the images that the segmenter was trained on


class Enlarged:
    """The embedded segmenter on images of half the size that it was trained on: they are enlarged for it, and its labels taken back.

    As they are, it hardly knows them: `reading` says how many it does.
    """

    def __init__(self):
        self.segmenter = gandid.load_segmenter("rooms")
        self.classes, self.background = self.segmenter.classes, self.segmenter.background

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] >= TRAINED_ON:
            return self.segmenter(images)
        return self.segmenter(F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False))[:, ::2, ::2]


def reading(segmenter: Enlarged, size: int) -> str:
    """How much of renders of a size the segmenter names right, as they are and enlarged."""
    images, labels = rooms.render(200, size, seed=50_000)
    unknown = segmenter.classes.index("unknown")
    parts = [
        f"{name} {100 * (seen == labels).float().mean():.1f} % right, {100 * (seen == unknown).float().mean():.1f} % unknown"
        for name, seen in (("as they are", segmenter.segmenter(images)), ("enlarged", segmenter(images)))
    ]
    return f"The segmenter on 200 renders of {size} px: {'; '.join(parts)}."


def effects(
    networks: dict[str, torch.nn.Module], layer: str, given: argparse.Namespace, progress: Progress
) -> pd.DataFrame:
    """The rows of `removed` and `inpainted` of every study at a layer, with a column `study`."""
    plain = {name: network for name, network in networks.items() if name.endswith("-plain")}
    tables = []
    for name, network in networks.items():
        if name in plain:
            continue
        twins = {} if tables else plain
        study = gandid.Study(network, Enlarged(), layer, given.seed, twins=twins)
        panel = study.run(
            units=given.units,
            control=["capped", "twin"] if twins else ["capped"],
            latents=given.latents,
            ranking_latents=given.ranking_latents,
            store=given.networks / "measured" / f"{name}-{layer}",
            progress=progress,
        )
        frame = gandid.did(panel, flips=99, resamples=2).to_frame()
        wanted = (frame["contrast"] == "did") & frame["outcome"].isin(["removed", "inpainted"])
        tables.append(frame[wanted].assign(study=name))
    return pd.concat(tables, ignore_index=True)


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The effects on the target itself, and in-painting by all other objects together."""
    return frame[(frame["kind"] == "target") & (frame["outcome"] == "removed") | (frame["kind"] == "together")]


def over_networks(frame: pd.DataFrame) -> pd.DataFrame:
    """Per target and outcome, networks with normalization against those without: Welch's comparison of two means."""
    rows = []
    for (target, outcome), part in whole(frame).groupby(["target", "outcome"], sort=False):
        with_norm = part[part["arm"] == "capped:first"][["tau_live", "se_live"]].dropna().to_numpy().T
        without = part[part["control"] == "twin"][["tau_held", "se_held"]].dropna().to_numpy().T
        row = {"target": target, "outcome": outcome}
        for kind, (values, _) in zip(KINDS.values(), (with_norm, without), strict=True):
            row[f"{kind}, by seed"] = " / ".join(f"{100 * value:.2f}" for value in values) or "not shown"
        if min(with_norm.shape[1], without.shape[1]) > 1:
            test = stats.ttest_ind(with_norm[0], without[0], equal_var=False)
            interval, did = test.confidence_interval(), with_norm[0].mean() - without[0].mean()
            pairs = [a - b for a, b in itertools.product(with_norm[0], without[0])]
            latents = np.sqrt(sum((errors**2).sum() / len(errors) ** 2 for _, errors in (with_norm, without)))
            row["DID over networks [95 %]"] = f"{points(did)} [{points(interval.low)}, {points(interval.high)}]"
            row["p"] = f"{test.pvalue:.3f}"
            row["as single pairs have it"] = f"{points(min(pairs))} to {points(max(pairs))}"
            row["error, latents alone"] = f"{100 * latents:.1f}"
            row["error, networks"] = f"{100 * did / test.statistic:.1f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Per target, outcome and held sites, each normalized network's own capped DID, and its sign where 0 is outside its interval."""
    rows = []
    capped = whole(frame)[lambda part: part["control"] == "capped"]
    for (target, outcome, held), part in capped.groupby(["target", "outcome", "held"], sort=False):
        row = {"target": target, "outcome": outcome, "capped": held}
        for one in part.itertuples():
            row[one.study] = f"{points(one.did)} [{points(one.ci_low)}, {points(one.ci_high)}]"
        ends = zip(part["ci_low"], part["ci_high"], strict=True)
        row["signs"] = " ".join("+" if low > 0 else "-" if high < 0 else "0" for low, high in ends)
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def qualities(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Which networks are as good as the project's bars for a generator ask."""
    rows = []
    for name, table in found.items():
        known, unknown = table.drop(index="unknown"), table.loc["unknown", "area"]
        missed = [
            f"{label} {100 * row[what]:.1f} % for {100 * row[f'{what}_renders']:.1f} % ({what})"
            for label, row in known.iterrows()
            for what in ("area", "presence")
            if not row[f"{what}_ok"]
        ]
        bars = 2 * len(known)
        row = {"network": name, "bars met": f"{bars - len(missed)} of {bars}", "missed": "; ".join(missed) or "none"}
        rows.append(row | {"unknown pixels": f"{100 * unknown:.1f} %"})
    return pd.DataFrame(rows)


def prototype(frame: pd.DataFrame) -> str:
    """What becomes of the window's area without normalization: whether another object stands there."""
    twins = frame[(frame["control"] == "twin") & (frame["target"] == "window")]
    lines = []
    for name, part in twins.groupby("held", sort=False):
        gone = part.loc[part["outcome"] == "removed", "tau_held"].iloc[0]
        filled = part[part["outcome"] == "inpainted"].set_index("object")["tau_held"]
        single = filled[part[part["kind"] == "object"]["object"].unique()]
        lines.append(
            f"- {name}: {100 * gone:.1f} % removed, {100 * single['painting']:.1f} % became painting, "
            f"{100 * filled['other objects']:.1f} % any other object (most of it {single.idxmax()}, {100 * single.max():.1f} %)"
        )
    return "\n".join(lines)


def points(share: float) -> str:
    """A difference in points."""
    return "?" if np.isnan(share) else f"{100 * share:+.2f}"


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| " + " | ".join(table.columns) + " |\n|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")


def main() -> None:
    """Measure what is not there yet, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=Path, default=Path("runs/twins"))
    parser.add_argument("--layer", action="append")
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--ranking-latents", type=int, default=128)
    parser.add_argument("--units", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="random seed for the latents")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    files = [file for kind in KINDS for file in sorted(given.networks.glob(f"seed*-{kind}/generator.safetensors"))]
    networks = {file.parent.name: gandid.load_generator(file) for file in files}
    if {name.rpartition("-")[2] for name in networks} != set(KINDS):
        parser.error(f"{given.networks} holds no networks of both kinds: docs/twins.md says how they are trained")
    (given.networks / "measured").mkdir(exist_ok=True)
    quality = {}
    for name, network in networks.items():
        table = given.networks / "measured" / f"{name}-quality.csv"
        if not table.is_file():
            with replacing(table) as aside:
                evaluate_generator(network, Enlarged(), samples=1000).to_csv(aside)
        quality[name] = pd.read_csv(table, index_col="class")
    print(reading(Enlarged(), network.resolution))
    show("Quality, 1,000 samples against 1,000 renders", qualities(quality))
    with Progress(console=Console(stderr=True)) as progress:
        found = {layer: effects(networks, layer, given, progress) for layer in given.layer or ["layer4", "layer6"]}
    for layer, frame in found.items():
        title = f"{layer}, {given.units} units, {given.latents} latents"
        show(f"{title}: networks with normalization against networks without, in points", over_networks(frame))
        show(f"{title}: each normalized network's own DID by capping its sites, in points [95 %]", over_seeds(frame))
        print(f"\n{title}: the window's area after its ablation without normalization\n\n{prototype(frame)}")


if __name__ == "__main__":
    main()
