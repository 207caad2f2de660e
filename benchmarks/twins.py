"""Three networks with pixel normalization and three without: is it the normalization, or the training.

    python benchmarks/twins.py [--networks runs/twins] [--layer layer4] [--layer layer6] [--latents 512] [--threads 1]

`--networks` is a folder with `seedS-pn/generator.safetensors` and `seedS-plain/generator.safetensors`, as docs/twins.md trains them.
On each network the units of every object are ranked by their ACE, the 12 largest are ablated, and what is removed and in-painted is
counted on the same latents; with pixel normalization also with its sites capped. Then the networks are the clusters
(`gandid.did.networks`). What was measured is kept in `NETWORKS/measured`, and the same command goes on where it was cut off. Prints the
tables of docs/twins.md.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import xarray as xr
from rich.console import Console
from rich.progress import Progress

import gandid
from gandid import did
from gandid.did import estimands
from gandid.did.inference import ratio_effect
from gandid.did.networks import Network, pooled
from gandid.did.totals import TOGETHER, objects_inpainted
from gandid.files import replacing
from gandid.interventions import Runner, ablate
from gandid.relation import relate, top_units
from gandid.scenes import rooms
from gandid.segmenters import objects_of
from gandid.studies.design import Design, Held, count
from gandid.studies.folder import fingerprint
from gandid.studies.latents import latents
from gandid.studies.store import write_dataset
from gandid.training.quality import evaluate_generator

KINDS = {"pn": "with", "plain": "without"}
CAPPED = (Held("capped", "first"), Held("capped", "all"))
SEEN = 64  # px, the size of the images that the segmenter was trained on
ROWS = 256  # images at once
ENOUGH = 30  # images that must show a target before a network says anything of it


class Enlarged:
    """The embedded segmenter on images of half the size that it was trained on: they are enlarged for it, and its labels taken back.

    As they are, it hardly knows them: `reading` says how many it does.
    """

    def __init__(self):
        self.segmenter = gandid.load_segmenter("rooms")
        self.classes, self.background = self.segmenter.classes, self.segmenter.background

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] >= SEEN:
            return self.segmenter(images)
        return self.segmenter(F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False))[:, ::2, ::2]


def measured(path, network, segmenter, layer, asked, progress) -> xr.Dataset:
    """A panel of one network at one layer, from `path` if it is there."""
    if path.is_dir():
        return xr.open_zarr(path, chunks=None).load()
    runner = Runner(network, layer)
    task = progress.add_task(f"{path.stem}", total=asked.ranking_latents + asked.latents)

    def z(numbers, stream):
        return latents(asked.seed, numbers, network.latent_dim, stream)

    relation = relate(
        runner,
        segmenter,
        z(range(asked.ranking_latents), "ranking"),
        lambda steps: progress.advance(task, steps),
        count=asked.units,
        rows=ROWS,
    )
    edits = {target: ablate(top_units(relation, target, asked.units)) for target in objects_of(segmenter)}
    design = Design(edits, CAPPED if runner.downstream else (), shrinking=runner.closed_form)
    step = ROWS // 16
    parts = []
    for start in range(0, asked.latents, step):
        numbers = range(start, min(start + step, asked.latents))
        parts.append(count(runner, segmenter, design, z(numbers, "effects"), rows=ROWS))
        progress.advance(task, len(numbers))
    dims = ("latent", "target", "arm", "object")
    panel = xr.Dataset(
        {name: (dims, np.concatenate([part[name] for part in parts])) for name in ("pixels", "inside")},
        coords={
            "target": list(edits),
            "arm": design.arms,
            "object": list(segmenter.classes),
            "edit": ("arm", [arm != "reference" for arm in design.arms]),
            "control": ("arm", ["none", "none", *(held.control for held in design.held)]),
            "held": ("arm", ["none", "none", *(held.which for held in design.held)]),
            "background": ("object", [name in segmenter.background for name in segmenter.classes]),
        },
        attrs={"image_pixels": network.resolution**2, "presence": 0.003},
    )
    write_dataset(path, panel)
    return panel


def live(panel: xr.Dataset) -> pd.DataFrame:
    """What ablation does in a network as it is: (target, outcome, object) with `value`, `se` and the images `n` that tell."""
    rows = []
    for target in panel["target"].values:
        inside = panel["inside"].sel(target=target, arm="live")
        hole = inside.sum("object")
        kind = estimands.kinds(panel, target)
        others = inside.isel(object=kind == "object")
        parts = {("removed", target): hole - inside.sel(object=target), ("inpainted", TOGETHER): others.sum("object")}
        parts |= {("inpainted", str(name)): others.sel(object=name) for name in others["object"].values}
        for (outcome, name), pixels in parts.items():
            found = ratio_effect(pixels.values, hole.values)
            usable = found.n >= ENOUGH
            values = (float(found.value), float(found.se)) if usable else (np.nan, np.nan)
            rows.append((str(target), outcome, name, *values, found.n))
    return pd.DataFrame(rows, columns=["target", "outcome", "object", "value", "se", "n"])


def capped(panel: xr.Dataset) -> pd.DataFrame:
    """The DID of a network with normalization, by holding its own sites: `removed`, and `inpainted` by all other objects."""
    frame = did.estimate(panel, flips=99, resamples=2).to_frame()
    frame = frame[(frame["outcome"] == "removed") & frame["estimable"]]
    together = objects_inpainted(panel).assign(outcome="inpainted", object=TOGETHER)
    columns = ["target", "outcome", "object", "held", "did", "ci_low", "ci_high", "n"]
    return pd.concat([frame[columns], together[columns]], ignore_index=True)


def over_networks(found: pd.DataFrame) -> pd.DataFrame:
    """Per (target, outcome), networks with normalization against those without."""
    rows = []
    asked = found[(found["outcome"] == "removed") | (found["object"] == TOGETHER)]
    for (target, outcome), of in asked.groupby(["target", "outcome"], sort=False):
        kinds = [of[(of["kind"] == kind) & of["value"].notna()] for kind in KINDS]
        row = {"target": target, "outcome": outcome}
        for kind, its in zip(KINDS.values(), kinds, strict=True):
            row[f"{kind}, by seed"] = " / ".join(f"{100 * value:.2f}" for value in its["value"]) or "not shown"
        if all(len(its) for its in kinds):
            values = [[Network(*pair) for pair in zip(its["value"], its["se"], strict=True)] for its in kinds]
            one = pooled(*values)
            row["DID over networks [95 %]"] = f"{points(one.did)} [{points(one.low)}, {points(one.high)}]"
            row["p"] = f"{one.p:.3f}"
            pairs = [a.value - b.value for a, b in itertools.product(*values)]
            row["as single pairs have it"] = f"{points(min(pairs))} to {points(max(pairs))}"
            row["error, latents alone"] = f"{100 * one.se_latents:.1f}"
            row["error, networks"] = f"{100 * one.se:.1f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def over_seeds(found: pd.DataFrame) -> pd.DataFrame:
    """Per (target, outcome, held), each normalized network's own capped DID, and how many are shown to be of which sign."""
    rows = []
    for (target, outcome, held), of in found.groupby(["target", "outcome", "held"], sort=False):
        row = {"target": target, "outcome": outcome, "capped": held}
        for one in of.itertuples():
            row[one.network] = f"{points(one.did)} [{points(one.ci_low)}, {points(one.ci_high)}]"
        ends = zip(of["ci_low"], of["ci_high"], strict=True)
        signs = ["+" if low > 0 else "-" if high < 0 else "0" if low <= high else "?" for low, high in ends]
        row["signs"] = " ".join(signs)
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def qualities(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Which networks are as good as the project's bars for a generator ask."""
    rows = []
    for name, of in found.items():
        known, unknown = of.drop(index="unknown"), of.loc["unknown", "area"]
        missed = [
            f"{label} {100 * row[what]:.1f} % for {100 * row[f'{what}_renders']:.1f} % ({said})"
            for label, row in known.iterrows()
            for what, said in (("area", "area"), ("presence", "present"))
            if not row[f"{what}_ok"]
        ]
        met = 2 * len(known) - len(missed)
        row = {"network": name, "bars met": f"{met} of {2 * len(known)}", "missed": "; ".join(missed) or "none"}
        rows.append(row | {"unknown pixels": f"{100 * unknown:.1f} %"})
    return pd.DataFrame(rows)


def prototype(found: pd.DataFrame) -> str:
    """What became of the claim that, without normalization, another object stands where the window was."""
    of = found[(found["target"] == "window") & (found["kind"] == "plain")].set_index(["network", "object"])
    told = []
    for name in dict.fromkeys(of.index.get_level_values("network")):
        gone, others = (of.loc[(name, what), "value"] for what in ("window", TOGETHER))
        if np.isnan(gone):
            told.append(f"{name}: shows no window in {ENOUGH} images")
            continue
        single = of.loc[name].drop(index=["window", TOGETHER])["value"]
        told.append(
            f"{name}: {100 * gone:.1f} % removed, {100 * single['painting']:.1f} % became painting, "
            f"{100 * others:.1f} % any other object (most of it {single.idxmax()}, {100 * single.max():.1f} %)"
        )
    return "\n".join(f"- {one}" for one in told)


def points(share: float) -> str:
    """A difference in points."""
    return "?" if np.isnan(share) else f"{100 * share:+.2f}"


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| " + " | ".join(table.columns) + " |\n|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")


def reading(segmenter: Enlarged, size: int) -> str:
    """How much of renders of a size the segmenter names right, as they are and enlarged."""
    images, labels = rooms.render(200, size, seed=50_000)
    seen = {"as they are": segmenter.segmenter(images), "enlarged": segmenter(images)}
    unknown = segmenter.classes.index("unknown")
    told = [
        f"{told} {100 * (of == labels).float().mean():.1f} % right, {100 * (of == unknown).float().mean():.1f} % unknown"
        for told, of in seen.items()
    ]
    return f"The segmenter on 200 renders of {size} px: {'; '.join(told)}."


def networks(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(name, kind, file) of the networks that are there, those with normalization first."""
    for kind in KINDS:
        for file in sorted(folder.glob(f"seed*-{kind}/generator.safetensors")):
            yield file.parent.name, kind, file


def main() -> None:
    """Measure what is not there yet, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=Path, default=Path("runs/twins"))
    parser.add_argument("--layer", action="append")
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--ranking-latents", type=int, default=128)
    parser.add_argument("--units", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the latents")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    there = list(networks(asked.networks))
    if {kind for _, kind, _ in there} != set(KINDS):
        parser.error(f"{asked.networks} holds no networks of both kinds: docs/twins.md says how they are trained")
    kept, segmenter = asked.networks / "measured", Enlarged()
    kept.mkdir(exist_ok=True)
    asked.layer = asked.layer or ["layer4", "layer6"]
    told = f"{asked.seed}-{asked.latents}-{asked.ranking_latents}-{asked.units}"
    quality, effects, own = {}, [], []
    with Progress(console=Console(stderr=True)) as progress:
        for name, kind, file in there:
            network = gandid.load_generator(file)
            weights = fingerprint(network)[:12]  # another training is another file
            table = kept / f"{name}-{weights}-quality.csv"
            if not table.is_file():
                with replacing(table) as aside:
                    evaluate_generator(network, segmenter, samples=1000).to_csv(aside)
            quality[name] = pd.read_csv(table, index_col="class")
            for layer in asked.layer:
                panel = measured(
                    kept / f"{name}-{weights}-{layer}-{told}.zarr", network, segmenter, layer, asked, progress
                )
                effects.append(live(panel).assign(network=name, kind=kind, layer=layer))
                if kind == "pn":
                    own.append(capped(panel).assign(network=name, layer=layer))
    print(reading(segmenter, network.resolution))
    everything, by_control = pd.concat(effects), pd.concat(own)
    show("Quality, 1,000 samples against 1,000 renders", qualities(quality))
    for layer in asked.layer:
        here = everything[everything["layer"] == layer]
        title = f"{layer}, {asked.units} units, {asked.latents} latents"
        show(f"{title}: networks with pixel normalization against networks without, in points", over_networks(here))
        show(
            f"{title}: each normalized network's own DID by capping its sites, in points [95 % over latents]",
            over_seeds(by_control[by_control["layer"] == layer]),
        )
        print(f"\n{title}: the window's area after its ablation without normalization\n\n{prototype(here)}")


if __name__ == "__main__":
    main()
