"""Checkpoints of PG-GANs as other projects wrote them: recognized by content, and read without running anything."""

from gandid.generators.checkpoints.reading import read_checkpoint

__all__ = ["read_checkpoint"]
