"""A study at real size: a 256 px PG-GAN with 512 channels and SegFormer-B0, both with random weights, within 4 GiB.

    python benchmarks/real_size.py [--latents 64] [--memory 3GiB] [--device auto]

The networks have the shapes of the LSUN models of GAN Dissection and of SegFormer-B0 for ADE20K; their weights are random,
since the files must be fetched from their authors. Prints the time, images per second and the peak of memory of `gandid run`
with named units: ranking 512 of them is another 513 images per latent.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

from gandid.generators import Generator
from gandid.generators.storage import save_generator

CHANNELS = (512, 512, 512, 512, 256, 128, 64)  # at 4 to 256 px
UNITS = ",".join(map(str, range(20)))  # with random weights no unit is better than another


def make(folder: Path) -> list[str]:
    """Write both networks; returns the segmenter's classes by how often it sees them in the generator's images."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    from gandid.segmenters import load_segmenter

    torch.manual_seed(0)
    generator = Generator(CHANNELS, 512).eval()
    save_generator(generator, folder / "generator.safetensors")
    names = {i: f"class {i}" for i in range(150)}
    config = SegformerConfig(num_labels=150, id2label=names, label2id={name: i for i, name in names.items()})
    SegformerForSemanticSegmentation(config).save_pretrained(folder / "segformer")
    (folder / "segformer" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "SegformerImageProcessor", "do_normalize": true, "do_rescale": true, "do_resize": true,'
        ' "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": {"height": 512, "width": 512}}'
    )
    segmenter = load_segmenter(folder / "segformer", background=())
    with torch.inference_mode():
        seen = segmenter(generator(torch.randn(4, 512)))
    return [
        f"class {label}" for label in torch.bincount(seen.flatten(), minlength=150).argsort(descending=True).tolist()
    ]


def main() -> None:
    """Run the study and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--memory", default="3GiB")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="fp32")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = make(folder)[:3]
        command = [
            *(Path(sys.executable).with_name("gandid"), "run", "--layer", "layer4"),
            *("--generator", str(folder / "generator.safetensors"), "--segmenter", str(folder / "segformer")),
            *(word for target in targets for word in ("--target", f"{target}={UNITS}")),
            *("--latents", str(asked.latents)),
            *("--memory", asked.memory, "--device", asked.device, "--dtype", asked.dtype),
            *("--out", str(folder / "run")),
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - start
        resolved = yaml.safe_load((folder / "run" / "config.yaml").read_text())["resolved"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{asked.latents} latents, {len(targets)} targets, units not ranked: {took:,.0f} s")
    print(f"{resolved['images_per_second']:.2f} images per second, peak {peak / 2**30:.2f} GiB, budget {asked.memory}")


if __name__ == "__main__":
    main()
