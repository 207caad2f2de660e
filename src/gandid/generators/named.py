"""The models that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class NamedModel:
    """An embedded generator, with the layer that a study edits unless told otherwise, and why that one."""

    name: str
    weights: Path
    discriminator: Path
    segmenter: str
    default_layer: str
    why: str


NAMED = {
    model.name: model
    for model in (
        NamedModel(
            name="rooms",
            weights=WEIGHTS / "rooms.safetensors",
            discriminator=WEIGHTS / "rooms-discriminator.safetensors",
            segmenter="rooms",
            default_layer="layer4",
            why="of layer4, layer5 and layer6, its units remove their object most completely (see the model card)",
        ),
    )
}
