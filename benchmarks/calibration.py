"""How often do the intervals cover and the tests err: thousands of simulated studies of a generator whose DID is known.

    python benchmarks/calibration.py [--studies 4000] [--latents 200] [--looks 2000]

The planted generator paints a target on a block of columns and, faintly, other things below it; one pixel normalization follows.
What an ablation uncovers is known in closed form per *kind* of latent (width of the block x what lies below it), and a latent is
a draw of a kind, so that the true DID is a sum over kinds. The generator itself runs on every kind, with its arms in one batch, and
its counts must be those of the closed form. A simulated study is then a panel of drawn kinds, and `gandid.did` estimates it as
any other. Prints the tables of docs/calibration.md.
"""

import argparse

import numpy as np
import pandas as pd
import torch
import xarray as xr
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import gandid
from gandid import outcomes
from gandid.estimation.stopping import half_widths, is_precise, next_look
from gandid.generators.pggan import PixelNorm
from gandid.interventions import REFERENCE, Arm, Runner, ablate, hold
from gandid.outcomes.counts import pixels
from gandid.panel.schema import Classes, empty_panel
from gandid.panel.table import study_block
from gandid.stats import CARRIERS, sequence_half_width

SIZE = 16
WIDTHS = np.arange(9)  # columns of the target's block; 0: absent
BELOW = ("nothing", "faint b", "plain b", "e when live", "e when held", "faint r")
TARGET = 3.0
# What lies below the target, in units B, E and R. Unedited, all of it is divided by about 1.5; with the target ablated and the
# site live by about 0.5, and held by 1.5 still.
LEVELS = np.array([[0, 0, 0], [0.6, 0, 0], [2.0, 0, 0], [0, 0.3, 0], [0, 0.75, 0], [0, 0, 0.6]])
UNTIL, MOST = 0.05, 4000  # the half-width asked for, and the latents allowed


def chances(rare: float) -> np.ndarray:
    """Probability of each kind, (9, 6).

    A third of the latents are without the target; wide blocks are rarer, and likelier to have B below. R is below in a share
    `rare` of the latents, and E as often where it is seen live alone as where it is seen held alone: its DID is 0.
    """
    width = np.array([3.2, 1.6, 1.3, 1.1, 0.9, 0.7, 0.5, 0.4, 0.3])
    width = width / width.sum()
    faint = 0.10 + 0.02 * WIDTHS
    below = np.stack([faint, np.full(9, 0.15), np.full(9, 0.12), np.full(9, 0.12), np.full(9, rare)], axis=1)
    return width[:, None] * np.concatenate([1 - below.sum(1, keepdims=True), below], axis=1)


class Mosaic(nn.Module):
    """Latents are (width, kind of what lies below), as numbers; units A, B, E, R and an even one."""

    latent_dim, resolution, layers = 2, SIZE, ("paint",)

    def __init__(self) -> None:
        super().__init__()
        self.paint, self.norm = Paint(), PixelNorm()

    def forward(self, z: Tensor) -> Tensor:
        a, b, e, r, _ = self.norm(self.paint(z)).unbind(1)
        return torch.stack([a, b, e - r], dim=1)


class Paint(nn.Module):
    """The edited layer."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(LEVELS, dtype=torch.float32), requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        block = (torch.arange(SIZE) < z[:, :1].round().clamp(0, SIZE)).float()[:, None, None, :].expand(-1, 1, SIZE, -1)
        below = self.levels[z[:, 1].round().long().clamp(0, len(BELOW) - 1)][:, :, None, None] * block
        return torch.cat([TARGET * block, below, torch.ones_like(block)], dim=1)


class Seer:
    """Sees `a`, `b` and `r` where they are bright, and `e` where it is neither faint nor bright."""

    classes, background = ("wall", "a", "b", "e", "r"), ("wall",)

    def __call__(self, images: Tensor) -> Tensor:
        a, b, other = images.unbind(1)
        e = (other > 0.4) & (other < 0.7)
        return torch.where(a > 0.8, 1, torch.where(b > 0.8, 2, torch.where(e, 3, torch.where(other < -0.8, 4, 0))))


def kinds() -> dict[str, np.ndarray]:
    """The counts of every kind of latent, from the generator: `pixels` and `inside`, (54, arm, class)."""
    z = torch.tensor([[w, b] for w in WIDTHS for b in range(len(BELOW))], dtype=torch.float32)
    runner, see = Runner(Mosaic(), "paint"), Seer()
    arms = [REFERENCE, Arm(ablate((0,))), Arm(ablate((0,)), hold("capped", "first", runner.downstream))]
    labels = see(runner.run(z, arms).flatten(0, 1)).unflatten(0, (3, len(z)))
    counts = pixels(labels, 5), pixels(labels, 5, labels[0] == 1)
    return {name: of.movedim(0, 1).numpy() for name, of in zip(("pixels", "inside"), counts, strict=True)}


def truth(chance: np.ndarray) -> dict[tuple[str, str], float]:
    """The DID of each (outcome, object), in closed form."""
    columns = WIDTHS[:, None] * chance
    caused = {"b": columns[:, 1].sum(), "e": columns[:, 3].sum() - columns[:, 4].sum(), "r": columns[:, 5].sum()}
    ratios = {("inpainted", name): value / columns.sum() for name, value in caused.items()}
    return ratios | {("area", name): value / SIZE for name, value in caused.items()}


def panel(counts: dict[str, np.ndarray], drawn: np.ndarray) -> xr.Dataset:
    """A study of the drawn kinds, as `gandid.Study` stores it."""
    blank = empty_panel(
        [study_block([("capped", "first")])],
        targets=["a"],
        segmenters={"seer": Classes(Seer.classes, Seer.background)},
        sites={"norm": True},
        networks=["own"],
        units=np.zeros((1, 1, 1, 1), np.int32),
        values=None,
        energy=np.ones((1, 1), np.float32),
        attrs={"image_pixels": SIZE * SIZE, "alpha": 1.0},
    )
    dims, measured = ("segmenter", "latent", "target", "arm", "object"), np.full((1, 3), len(drawn))
    variables = {name: (dims, values[drawn][None, :, None]) for name, values in counts.items()}
    bare = blank.drop_dims("latent").assign_coords(
        latent=np.arange(len(drawn)), measured=(("segmenter", "arm"), measured)
    )
    return bare.assign(variables).assign_attrs(blank.attrs)


def first(whole: xr.Dataset, latents: int) -> xr.Dataset:
    """The same after so many latents."""
    return whole.isel(latent=slice(latents)).assign_coords(measured=0 * whole["measured"] + latents)


def studies(counts: dict[str, np.ndarray], chance: np.ndarray, latents: int, number: int) -> pd.DataFrame:
    """Estimate `number` simulated studies; one row per study and (outcome, object)."""
    rng, found = np.random.default_rng(0), []
    for study in track(range(number), description="studies", console=Console(stderr=True)):
        drawn = rng.choice(chance.size, latents, p=chance.ravel())
        frame = gandid.did(panel(counts, drawn), flips=999, resamples=400, seed=study).main
        found.append(frame[frame["outcome"].isin(["inpainted", "area"]) & frame["object"].isin(["b", "e", "r"])])
    return pd.concat(found, ignore_index=True)


def rates(found: pd.DataFrame, true: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Coverage and errors by (outcome, object), in percent."""
    rows = []
    for (outcome, name), of in found.groupby(["outcome", "object"], sort=False):
        known = true[str(outcome), str(name)]
        inside = (of["ci_low"] <= known) & (known <= of["ci_high"])
        row = {"outcome": outcome, "object": name, "true DID": known, "mean estimate": of["did"].mean()}
        row |= {"carried by": f"{of['carriers'].mean():.0f}", "interval covers": inside.mean()}
        boot = (of["ci_boot_low"] <= known) & (known <= of["ci_boot_high"])
        row["bootstrap covers"] = boot.mean() if outcome in outcomes.WHOLE else np.nan
        row["p < 0.05"] = (of["p"] < 0.05).mean()
        row["bias / error"] = f"{(of['did'].mean() - known) / of['did'].std():+.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def missed(counts: dict[str, np.ndarray], chance: np.ndarray, looks: int, number: int) -> pd.DataFrame:
    """Share of studies whose confidence sequence misses the truth at *any* size up to `looks` latents."""
    rng, true = np.random.default_rng(1), truth(chance)
    misses = dict.fromkeys(true, 0)
    hole = counts["inside"][:, 0, 1].astype(float)
    for _ in track(range(number), description="sequences", console=Console(stderr=True)):
        drawn = rng.choice(chance.size, looks, p=chance.ravel())
        for outcome, name in true:
            place = Seer.classes.index(name)
            if outcome == "area":
                gap = (counts["pixels"][:, 1, place] - counts["pixels"][:, 2, place])[drawn].astype(float)
                misses[outcome, name] += misses_somewhere(gap, np.full(looks, SIZE * SIZE), true[outcome, name])
            else:
                gap = (counts["inside"][:, 1, place] - counts["inside"][:, 2, place])[drawn].astype(float)
                misses[outcome, name] += misses_somewhere(gap, hole[drawn], true[outcome, name])
    rows = [{"outcome": o, "object": c, "misses at some look": count / number} for (o, c), count in misses.items()]
    return pd.DataFrame(rows)


def misses_somewhere(numerator: np.ndarray, denominator: np.ndarray, true: float) -> bool:
    """Whether the sequence of a ratio of sums, looked at after every latent, misses; the arms share the denominator here."""
    informs = denominator > 0
    a, b = numerator[informs], denominator[informs]
    n = np.arange(1, len(a) + 1)
    sums = [np.cumsum(of) for of in (a, b, a * a, a * b, b * b)]
    value = sums[0] / sums[1]
    squares = np.maximum(sums[2] - 2 * value * sums[3] + value**2 * sums[4], 0)
    se = np.sqrt(squares * n / np.maximum(n - 1, 1)) / sums[1]
    return bool((np.abs(value - true) > sequence_half_width(se, n, np.cumsum(a != 0))).any())


def stopped(counts: dict[str, np.ndarray], until: float, most: int, number: int) -> pd.DataFrame:
    """Studies that look and stop as ``--until`` has it: how far they go, and what an interval and a sequence cover then.

    Of the DIDs that are waited for: that of `removed`, which is 0 because nothing ever differs, and of `inpainted` by all objects.
    """
    rng, chance, known = np.random.default_rng(2), chances(0.05), truth(chances(0.05))
    true = {"removed": 0.0, "inpainted": sum(value for (outcome, _), value in known.items() if outcome == "inpainted")}
    found = []
    for _ in track(range(number), description="stopping", console=Console(stderr=True)):
        whole, latents, missed = (
            panel(counts, rng.choice(chance.size, most, p=chance.ravel())),
            200,
            dict.fromkeys(true, False),
        )
        while True:
            some = first(whole, latents)
            widths = half_widths(some).set_index("outcome")
            for outcome, value in true.items():
                missed[outcome] |= bool(abs(widths["did"][outcome] - value) > widths["half_width"][outcome])
            if latents == most or is_precise(widths, until, latents, most):
                break
            latents = next_look(latents, most)
        end = gandid.did(some, flips=9, resamples=2).main
        end = end[end["kind"] == "together"].iloc[0]
        inside = {"removed": np.nan, "inpainted": float(end["ci_low"] <= true["inpainted"] <= end["ci_high"])}
        for outcome, missing in missed.items():
            found.append({"outcome": outcome, "latents": latents, "missed": missing, "interval": inside[outcome]})
    rows = []
    for outcome, of in pd.DataFrame(found).groupby("outcome", sort=False):
        early = (of["latents"] < most).mean()
        row = {"outcome": outcome, "true DID": true[str(outcome)], "stopped before the most": early}
        row |= {
            "latents, median": f"{of['latents'].median():,.0f}",
            "sequence misses at some look": of["missed"].mean(),
        }
        rows.append(row | {"interval at the end covers": of["interval"].mean()})
    return pd.DataFrame(rows)


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table in Markdown; shares in percent."""
    print(f"\n{title}\n\n| " + " | ".join(table.columns) + " |\n|" + " --- |" * table.shape[1])
    for row in table.itertuples(index=False):
        cells = (
            "" if value != value else f"{100 * value:.1f} %" if isinstance(value, float) else value for value in row
        )
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description="Coverage and error rates of simulated studies.")
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--latents", type=int, default=200)
    parser.add_argument("--looks", type=int, default=2000)
    asked = parser.parse_args()
    counts = kinds()
    for rare in (0.2, 0.1, 0.05, 0.02):
        chance = chances(rare)
        found = rates(studies(counts, chance, asked.latents, asked.studies), truth(chance))
        common = rare == 0.2
        title = f"{asked.studies:,} studies of {asked.latents} latents, r in {100 * rare:.0f} % of those that show a"
        show(title, found if common else found[found["object"] == "r"])
    show(
        f"Confidence sequences, {asked.studies:,} studies looked at after each of {asked.looks:,} latents, "
        f"r in 5 % of them; from {CARRIERS} latents that carry the effect on",
        missed(counts, chances(0.05), asked.looks, asked.studies),
    )
    show(
        f"Stopped by --until {UNTIL}, {asked.studies:,} studies of 200 to {MOST:,} latents, r in 5 % of them",
        stopped(counts, UNTIL, MOST, asked.studies),
    )


if __name__ == "__main__":
    main()
