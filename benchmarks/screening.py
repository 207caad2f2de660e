"""What screening finds and takes, against the exact sweep of the same latents.

    python benchmarks/screening.py [--layer layer4] [--seed 0] [--latents 128] [--units 20] [--threads 1]

Ranks the units of a layer of the embedded rooms both ways in one run and prints, per object, which share of the summed exact
ACE of the exact top units the chosen ones carry, and how many of them are the same; then what predictions without any
ablation would have chosen; the time that both took, as processor time and on the clock; and the speed of the exact sweep
beside that of the same ablations as arms of the runner, 128 images at a time.
"""

import argparse
import time

import numpy as np
import torch

import gandid
from gandid.interventions import REFERENCE, Arm, ablate
from gandid.measure.memory import CPU_ROWS
from gandid.outcomes.counts import pixels
from gandid.ranking import top_units
from gandid.ranking.gradients import soft_area
from gandid.ranking.journal import Journal
from gandid.ranking.rankings import Ablations, area


def timed(study, count, units, ranking):
    """The relation on so many latents, and the seconds that it took, of the processor and on the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    relation = study.relate(count, ranking=ranking, units=units)
    return relation, np.array([time.process_time() - processor, time.perf_counter() - clock])


def predicted(study, count, part, level):
    """Derivative of each object's soft area by the scale of each unit (units, objects), a random part of the units at a level.

    With no part, these are first-order effects; else the second point of an integrated gradient, for many units at once.
    """
    z, chance = study.latents(range(count), "ranking"), torch.Generator().manual_seed(0)
    numbers = [study.segmenter.classes.index(name) for name in study.objects]
    total = torch.zeros(study.runner.units, len(numbers))
    for batch in z.split(16):
        changed = torch.rand(len(batch), study.runner.units, generator=chance) < part
        scale = torch.where(changed, level, 1.0).requires_grad_()
        areas = soft_area(study.segmenter, study.runner.scaled(batch, scale)).sum(dim=0)
        for i, number in enumerate(numbers):
            total[:, i] += torch.autograd.grad(areas[number], scale, retain_graph=True)[0].sum(dim=0)
    return total.numpy() / count


def speeds(study, count=8):
    """Images per second of processor time of the ablations as arms of the runner, and as the sweep makes them, in turn."""
    z, units = study.latents(range(count), "ranking"), study.runner.units
    classes, size = len(study.segmenter.classes), study.runner.image_size[0] * study.runner.image_size[1]
    before = area(study.segmenter(study.runner.run(z, [REFERENCE])[0]), classes).numpy()
    sweep = Ablations([(study.runner, study.segmenter)], z, before, CPU_ROWS, Journal(None), lambda done: None)
    took = np.zeros(2)
    for i in range(count):
        start = time.process_time()
        for first in range(0, units, 127):
            arms = [REFERENCE, *(Arm(ablate((unit,))) for unit in range(first, min(first + 127, units)))]
            labels = study.segmenter(study.runner.run(z[i : i + 1], arms).flatten(0, 1))
            pixels(labels, classes).numpy() / size
        between = time.process_time()
        sweep.drops(np.full(units, i), np.arange(units))
        took += between - start, time.process_time() - between
    return count * units / took


def main() -> None:
    """Print the table of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latents", type=int, default=128)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    study = gandid.Study(
        gandid.load_generator("rooms"), gandid.load_segmenter("rooms"), layer=asked.layer, seed=asked.seed
    )
    study.relate(4, ranking="screened", units=asked.units)  # the first pass through anything is slower than the others
    # One half before and one after: what else the machine does should not fall on one of them alone.
    screened, before = timed(study, asked.latents, asked.units, "screened")
    exact, whole = timed(study, asked.latents, asked.units, "exact")
    _, after = timed(study, asked.latents, asked.units, "screened")
    part = (before + after) / 2

    print(f"{'object':<10} {'share of ACE':>12} {'same units':>10}")
    for name in study.objects:
        ace = exact["ace"].sel(object=name)
        ours, theirs = (top_units(relation, name, asked.units) for relation in (screened, exact))
        share = float(ace.sel(unit=list(ours)).sum() / ace.sel(unit=list(theirs)).sum())
        print(f"{name:<10} {100 * share:>10.2f} % {len({*ours} & {*theirs}):>7} of {asked.units}")
    print("by prediction alone, share of ACE:")
    one = predicted(study, asked.latents, 0.0, 1.0)
    for label, other in (
        ("first order", one),
        ("and a tenth of the units halved", predicted(study, asked.latents, 0.1, 0.5)),
        ("and a twentieth of the units ablated", predicted(study, asked.latents, 0.05, 0.0)),
    ):
        shares = []
        for i, name in enumerate(study.objects):
            ace = exact["ace"].sel(object=name).values
            chosen = np.argsort(-(one + other)[:, i], kind="stable")[: asked.units]
            shares.append(f"{100 * ace[chosen].sum() / np.sort(ace)[-asked.units :].sum():.1f}")
        print(f"  {label:<38} {' '.join(shares)}")
    ablations = asked.latents * exact.sizes["unit"]
    made = screened.attrs["ablations"]
    print(f"ablations of single units: {made:,} of {ablations:,} ({100 * made / ablations:.1f} %)")
    for label, i in (("processor time", 0), ("on the clock", 1)):
        print(f"{label}: {part[i]:.1f} s of {whole[i]:.1f} s ({100 * part[i] / whole[i]:.1f} %)")
    arms, sweep = speeds(study)
    print(f"exact sweep: {sweep:.0f} images per second of processor time, {arms:.0f} as arms of the runner")


if __name__ == "__main__":
    main()
