"""What screening finds and takes, against the exact sweep of the same latents.

    python benchmarks/screening.py [--latents 128] [--units 20] [--threads 1]

Ranks the units of `layer4` of the embedded rooms both ways in one run and prints, per object, which share of the summed
exact ACE of the exact top units the chosen ones carry, and how many of them are the same; then the time that both took, as
processor time and on the clock.
"""

import argparse
import time

import numpy as np
import torch

import gandid
from gandid.relation import top_units


def timed(study, latents, units, ranking):
    """The relation, and the seconds that it took, of the processor and on the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    relation = study.relate(latents, ranking=ranking, units=units)
    return relation, np.array([time.process_time() - processor, time.perf_counter() - clock])


def main() -> None:
    """Print the table of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=128)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    study = gandid.Study(gandid.load_generator("rooms"), gandid.load_segmenter("rooms"), layer="layer4", seed=0)
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
    ablations = asked.latents * exact.sizes["unit"]
    made = screened.attrs["ablations"]
    print(f"ablations of single units: {made:,} of {ablations:,} ({100 * made / ablations:.1f} %)")
    for told, i in (("processor time", 0), ("on the clock", 1)):
        print(f"{told}: {part[i]:.1f} s of {whole[i]:.1f} s ({100 * part[i] / whole[i]:.1f} %)")
    print(f"exact sweep: {ablations / whole[0]:.0f} images per second of processor time")


if __name__ == "__main__":
    main()
