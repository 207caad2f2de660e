"""How the embedded segmenters were made, and the measurements that their bars are held against.

`train_segmenter` makes the weights: rendered scenes, worn and corrupted as `corruptions` says, a network, a
quarter of an hour of one core. Batch `k` depends on the seed and `k` only, so a run that was killed continues
from its checkpoint to the very same weights. `evaluate_segmenter` measures a segmenter on scenes and
corruptions that it never saw.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.image import imsave
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gandid.errors import UsageError
from gandid.files import load_checkpoint, save_checkpoint
from gandid.segmenters import load_segmenter
from gandid.segmenters.names import UNKNOWN
from gandid.segmenters.network import ARCHITECTURES, NetworkSegmenter, save_segmenter
from gandid.segmenters.pixelwise import Convolution, PixelNetwork
from gandid.segmenters.protocol import Segmenter
from lab import corruptions
from lab.first import rooms

CLASSES = (*rooms.CLASSES, UNKNOWN)
SCENES = 12_000  # rendered once, before the first step
BATCH = 32
STEPS = {"unet": 3_600, "dilated": 1_000}
NAMES = {"unet": "rooms", "dilated": "rooms-dilated"}  # under which `load_segmenter` has them
RATE = 4e-3  # the learning rate's maximum, after a twentieth of the steps; then half a cosine to 0
AVERAGING = 0.995  # decay of the moving average of the weights, which is what is kept
# Thin things have few pixels: without some weight of their own, too many of these are lost.
WEIGHTS = {"lamp": 1.5, "chair": 1.5, "plant": 1.5, UNKNOWN: 1.5}
IMPERFECT_UNKNOWN = 0.002  # share of imperfect renders' pixels that `unknown` may take: see `_calibrate`
CALIBRATION_SCENES = 500
EVALUATION_SEED = 990_001  # of the renders that measure: training takes seeds from 1,000,000 on

# What a segmenter must reach: intersection over union on unseen renders, and the two bars of `unknown`.
IOU_BARS = {
    "wall": 0.95, "floor": 0.95, "window": 0.95, "painting": 0.95, "rug": 0.95,
    "lamp": 0.85, "chair": 0.85, "plant": 0.85,
}  # fmt: skip
UNKNOWN_CLEAN_BAR = 0.005
# Of every held-out kind. The second segmenter, which was trained for a third of the time, declines to name less.
RECALL_BARS = {"unet": 0.8, "dilated": 0.4}

# Colours of the classes in the sample grids, in their order; the last is `unknown`.
PALETTE = torch.tensor(
    [
        [205, 203, 192], [122, 84, 56], [92, 160, 240], [232, 122, 40], [250, 228, 70], [200, 34, 40],
        [44, 148, 54], [150, 62, 160], [255, 0, 255],
    ],
    dtype=torch.uint8,
)  # fmt: skip


def train_segmenter(
    out: Path,
    *,
    architecture: str = "unet",
    seed: int = 0,
    steps: int | None = None,
    batch: int = BATCH,
    scenes: int = SCENES,
    resolution: int = 64,
    threads: int | None = None,
    save_every: int = 250,
    progress: bool = True,
) -> Path:
    """Train a segmenter of rooms; an interrupted run of the same settings in `out` is continued.

    A continued run ends with the same weights, bit for bit, on the same machine with the same number of
    threads.

    Parameters
    ----------
    out : path
        Folder for `checkpoint.pt` (replaced every `save_every` steps), `samples-<step>.png` (pictures with
        their labels and what the network says) and, at the end, `rooms.safetensors` or `rooms-dilated.safetensors`.
    architecture : {"unet", "dilated"}
        Of the network.
    seed : int, 0 to 2**32 - 1
        Of the scenes, the weights and the batches.
    steps, batch, scenes, resolution : int
        How many steps (as the embedded weights had, if None), pictures per step, scenes rendered to draw them from, and pixels per side.
    threads : int, optional
        Cores to use; PyTorch's default otherwise.
    save_every : int
        Steps between checkpoints.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    path
        The weights: a file for `load_segmenter`.

    Raises
    ------
    UsageError
        If the folder holds a run of other settings, there is no such architecture, or a number is out of range.
    """
    check_architecture(architecture)
    steps = STEPS[architecture] if steps is None else steps
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed must be 0 to {2**32 - 1}, not {seed}")
    if steps < 1 or batch < 1 or scenes < 1:
        raise UsageError(f"steps, batch and scenes must be at least 1, not {steps}, {batch} and {scenes}")
    if threads is not None:
        torch.set_num_threads(threads)
    out = Path(out)
    settings = {
        "architecture": architecture,
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "scenes": scenes,
        "resolution": resolution,
    }

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(architecture).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = _network(architecture)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3)
    step = 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file():
        state = load_checkpoint(checkpoint)
        if state.get("settings") != settings:
            raise UsageError(f"{out} holds a run of other settings ({state.get('settings')}): choose another folder")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    out.mkdir(parents=True, exist_ok=True)

    weights = torch.tensor([WEIGHTS.get(name, 1.0) for name in CLASSES])
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable=not progress,
    ) as bar:
        images, labels = _render(scenes if step < steps else 1, resolution, seed, bar)
        task = bar.add_task("training", total=steps, completed=step, note="")
        network.train()
        while step < steps:
            generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)
            rows = torch.randint(scenes, (batch,), generator=generator)
            pictures, truth = corruptions.training_batch(
                images[rows].float() / 127.5 - 1, labels[rows].long(), len(rooms.CLASSES), generator
            )
            scores = network(pictures)
            loss = F.cross_entropy(scores.flatten(0, 4), fold_blocks(truth).flatten(), weights)
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate(step / steps)
            optimizer.step()
            step += 1
            _update_average(average, network, min(AVERAGING, step / (step + 10)))

            bar.update(task, completed=step, note=f"loss {loss.item():.3f}")
            if step % save_every == 0 or step == steps:
                save_checkpoint(
                    checkpoint,
                    {
                        "settings": settings,
                        "step": step,
                        "network": network.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
                segmenter = NetworkSegmenter(folded(average), CLASSES, rooms.BACKGROUND)
                save_grid(out / f"samples-{step:06d}.png", pictures[:16], truth[:16], segmenter)

    path = out / f"{NAMES[architecture]}.safetensors"
    segmenter = NetworkSegmenter(folded(average), CLASSES, rooms.BACKGROUND)
    _calibrate(segmenter, min(scenes, CALIBRATION_SCENES), resolution, seed)
    save_segmenter(path, segmenter)
    return path


def check_architecture(name: str) -> None:
    """Raise `UsageError` if a segmenter has no such architecture."""
    if name not in ARCHITECTURES:
        raise UsageError(f"there is no architecture '{name}': choose {' or '.join(ARCHITECTURES)}")


def _network(architecture: str) -> PixelNetwork:
    """An untrained network for the classes of rooms."""
    return ARCHITECTURES[architecture](len(CLASSES), normalized=True)


def folded(network: PixelNetwork) -> PixelNetwork:
    """Give the same function without batch normalizations: each is folded into the convolution before it.

    In inference a batch normalization is `(y - mean) / sqrt(var + eps) * gamma + beta` per channel, so scaling the
    convolution's weights and shifting its bias does the same.
    """
    plain = type(network)(network.classes, normalized=False, **network.shape)
    plain.load_state_dict(network.state_dict(), strict=False)
    for name, source in network.named_modules():
        if isinstance(source, Convolution) and isinstance(source.norm, torch.nn.BatchNorm2d):
            mean, variance = source.norm.running_mean, source.norm.running_var
            gain = source.norm.weight / torch.sqrt(variance + source.norm.eps)
            target = plain.get_submodule(name).conv
            target.weight.data = (source.conv.weight * gain[:, None, None, None]).detach()
            target.bias.data = (source.norm.bias - mean * gain).detach()
    return plain.eval()


def fold_blocks(pixels: torch.Tensor) -> torch.Tensor:
    """Undo `gandid.segmenters.pixelwise.unfold_blocks`: (N, H, W) to (N, H / 2, W / 2, 2, 2)."""
    n, height, width = pixels.shape
    return pixels.view(n, height // 2, 2, width // 2, 2).transpose(2, 3)


def _calibrate(segmenter: NetworkSegmenter, scenes: int, resolution: int, seed: int) -> None:
    """Price `unknown` on worn scenes."""
    images, labels = rooms.render(scenes, resolution, _scene_seed(seed, 900_000))
    draw = corruptions.Draw(torch.Generator().manual_seed(seed), scenes, resolution)
    price_unknown(segmenter, corruptions.worn(images, labels, draw, len(rooms.CLASSES))[0])


@torch.inference_mode()
def price_unknown(segmenter: NetworkSegmenter, images: torch.Tensor) -> None:
    """Shift the score of `unknown` until it takes a share `IMPERFECT_UNKNOWN` of imperfect renders.

    How readily training makes it say `unknown` depends on how many corruptions it showed. This fixes the
    price instead: how many sound, if imperfect, pixels it may cost to find what is not of a room.
    """
    unknown, margins = segmenter.classes.index(UNKNOWN), []
    for some in images.split(64):
        scores = segmenter.network(some)
        margins.append((scores[..., unknown] - scores[..., :unknown].amax(dim=-1)).flatten())
    margin = torch.cat(margins)
    limit = margin.kthvalue(math.ceil(len(margin) * (1 - IMPERFECT_UNKNOWN))).values
    bias = segmenter.network.score.bias
    assert bias is not None
    bias.view(4, len(segmenter.classes))[:, unknown] -= limit


def _render(scenes: int, resolution: int, seed: int, bar: Progress) -> tuple[torch.Tensor, torch.Tensor]:
    """Render the training scenes as bytes: images (n, 3, H, W) 0 to 255, labels (n, H, W)."""
    images = torch.empty(scenes, 3, resolution, resolution, dtype=torch.uint8)
    labels = torch.empty(scenes, resolution, resolution, dtype=torch.uint8)
    task = bar.add_task("rendering", total=scenes, note="")
    part = 500
    for start in range(0, scenes, part):
        rows = slice(start, min(start + part, scenes))
        # A seed per part: the renderer would paint the first scenes of a seed again to reach the later ones.
        some, named = rooms.render(rows.stop - start, resolution, seed=_scene_seed(seed, start // part))
        images[rows] = (some + 1).mul_(127.5).round_().to(torch.uint8)
        labels[rows] = named.to(torch.uint8)
        bar.update(task, completed=rows.stop)
    return images, labels


def _scene_seed(seed: int, part: int) -> int:
    """Give the renderer's seed for a part of the training scenes: never that of the evaluation."""
    return (seed + 1) * 1_000_000 + part


def rate(done: float) -> float:
    """Give the learning rate at a share `done` of the steps."""
    return RATE * (min(done / 0.05, 1.0) * 0.5 * (1 + math.cos(math.pi * max(0.0, (done - 0.05) / 0.95))))


@torch.no_grad()
def _update_average(average: PixelNetwork, network: PixelNetwork, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)


def save_grid(path: Path, images: torch.Tensor, labels: torch.Tensor, segmenter: Segmenter) -> None:
    """Save pictures, their labels (black: ignored) and the segmenter's, one under the other, as a PNG.

    Parameters
    ----------
    path : path
        Of the PNG.
    images : Tensor, float32, shape (n, 3, H, W)
        Colours in [-1, 1]; `n` columns.
    labels : Tensor, int64, shape (n, H, W)
        Index into `CLASSES`, or negative where ignored.
    segmenter : Segmenter
        Of the same classes.
    """
    shown = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    truth = PALETTE[labels.clamp(min=0)] * (labels >= 0)[..., None]
    rows = [torch.cat(list(part), dim=1) for part in (shown, truth, PALETTE[segmenter(images)])]
    imsave(path, torch.cat(rows, dim=0).numpy())


def evaluate_segmenter(
    segmenter: Segmenter,
    scenes: int = 1000,
    seed: int = EVALUATION_SEED,
    *,
    resolution: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure a segmenter of rooms on renders, imperfect renders, and corruptions of kinds not trained on.

    Parameters
    ----------
    segmenter : Segmenter
        Its classes must include those of the rooms; without a class `"unknown"` the recalls are 0.
    scenes : int
        How many renders; each corruption kind is measured on all of them.
    seed : int
        Of the renders and the corruptions.
    resolution : int
        Pixels per side.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict
        All shares are 0 to 1.
        `scenes`, `seed`: as given.
        `iou`: {class: intersection over union on clean renders}; `accuracy`: share of pixels right there.
        `unknown_clean`: share of the clean renders' pixels called unknown.
        `imperfect`: {`iou`, `unknown`}, the same on renders worn as `corruptions.imperfect` does.
        `recall`: {held-out kind: share called unknown of the pixels in which a channel changed by more than
        `corruptions.VISIBLE`}; `recall_all`: the same over all kinds' pixels.
        `unknown_beside`: share called unknown of the pixels that the corruptions left as they were.

    Raises
    ------
    UsageError
        If the segmenter lacks a class of the rooms.
    """
    missing = [name for name in rooms.CLASSES if name not in segmenter.classes]
    if missing:
        raise UsageError(f"the segmenter does not know {', '.join(missing)}: it cannot be measured on rooms")
    # Labels of the segmenter in the order of the rooms' classes; whatever else it names counts as `others`.
    others = len(CLASSES)
    unknown = CLASSES.index(UNKNOWN)
    order = torch.tensor([CLASSES.index(c) if c in CLASSES else others for c in segmenter.classes])

    clean = torch.zeros(others, others + 1, dtype=torch.float64)
    worn = torch.zeros_like(clean)
    hits = dict.fromkeys(corruptions.HELD_OUT, 0)
    totals = dict.fromkeys(corruptions.HELD_OUT, 0)
    spared = spared_unknown = 0
    generator = torch.Generator().manual_seed(seed)
    images, labels = rooms.render(scenes, resolution, seed)
    with Progress(disable=not progress) as bar:
        task = bar.add_task("measuring", total=scenes)
        for start in range(0, scenes, 200):
            some, truth = images[start : start + 200], labels[start : start + 200]
            draw = corruptions.Draw(generator, len(some), resolution)
            clean += _confusion(truth, order[segmenter(some).cpu()])
            bent, followed = corruptions.worn(some, truth, draw, len(rooms.CLASSES))
            worn += _confusion(followed, order[segmenter(bent).cpu()])
            for name, corrupt in corruptions.HELD_OUT.items():
                spoilt = corrupt(some, truth, draw).clamp(-1, 1)
                called = order[segmenter(spoilt).cpu()] == unknown
                changed = corruptions.change(some, spoilt)
                visible, same = changed > corruptions.VISIBLE, changed == 0
                hits[name] += int((called & visible).sum())
                totals[name] += int(visible.sum())
                spared_unknown += int((called & same).sum())
                spared += int(same.sum())
            bar.update(task, advance=len(some))

    return {
        "scenes": scenes,
        "seed": seed,
        "iou": _intersection_over_union(clean),
        "accuracy": float(clean.diagonal().sum() / clean.sum()),
        "unknown_clean": float(clean[:, unknown].sum() / clean.sum()),
        "imperfect": {
            "iou": _intersection_over_union(worn),
            "unknown": float(worn[:, unknown].sum() / worn.sum()),
        },
        "recall": {name: hits[name] / max(totals[name], 1) for name in hits},
        "recall_all": sum(hits.values()) / max(sum(totals.values()), 1),
        "unknown_beside": spared_unknown / max(spared, 1),
    }


def quality_bars(result: dict[str, Any], architecture: str = "unet") -> list[tuple[str, float, str, bool]]:
    """Hold the numbers of `evaluate_segmenter` against the bars of an architecture.

    Returns
    -------
    list of (measure, value, bound in words, whether it is met)
    """
    rows = [
        (f"IoU of {name}", result["iou"][name], f">= {bar}", result["iou"][name] >= bar)
        for name, bar in IOU_BARS.items()
    ]
    clean = result["unknown_clean"]
    rows.append(("unknown on clean renders", clean, f"<= {UNKNOWN_CLEAN_BAR}", clean <= UNKNOWN_CLEAN_BAR))
    for name, recall in {**result["recall"], "all held-out kinds": result["recall_all"]}.items():
        bar = RECALL_BARS[architecture]
        rows.append((f"unknown on {name}", recall, f">= {bar}", recall >= bar))
    return rows


def _confusion(truth: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """Count pixels by true class (of `CLASSES`) and named class (those, and others)."""
    rows, columns = len(CLASSES), len(CLASSES) + 1
    return torch.bincount((truth * columns + named).flatten(), minlength=rows * columns).view(rows, columns)


def _intersection_over_union(confusion: torch.Tensor) -> dict[str, float]:
    hit = confusion.diagonal()
    union = confusion.sum(1) + confusion.sum(0)[: len(CLASSES)] - hit
    return {name: float(hit[i] / union[i]) for i, name in enumerate(rooms.CLASSES)}


def main() -> None:
    """Train, or measure, as the command line says."""
    parser = argparse.ArgumentParser(description="Train a segmenter of the first rooms, or go on training it.")
    parser.add_argument("--out", type=Path, help="folder of the run; an interrupted run is continued")
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="unet", help="of the network (unet)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the weights, scenes and batches (0)")
    parser.add_argument("--evaluate", action="store_true", help="measure the embedded weights instead")
    given = parser.parse_args()
    if given.evaluate:
        result = evaluate_segmenter(load_segmenter(NAMES[given.architecture]), progress=True)
        for name, value, bar, met in quality_bars(result, given.architecture):
            print(f"{name:32} {value:.4f} {bar:8} {'met' if met else 'missed'}")
    elif given.out is None:
        parser.error("--out is needed")
    else:
        try:
            print(train_segmenter(given.out, architecture=given.architecture, seed=given.seed))
        except UsageError as error:
            parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
