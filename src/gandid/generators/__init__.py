"""Generators: the PG-GAN network, its files, and the models that have a name. PyTorch is imported when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gandid.generators.named import NAMED, NamedModel
from gandid.lazy import attach

if TYPE_CHECKING:
    from gandid.generators.loading import load_discriminator, load_generator
    from gandid.generators.pggan import Discriminator, Generator

__all__ = ["NAMED", "Discriminator", "Generator", "NamedModel", "load_discriminator", "load_generator"]

_MODULES = {"loading": ("load_discriminator", "load_generator"), "pggan": ("Discriminator", "Generator")}
__getattr__ = attach(__name__, {name: module for module, names in _MODULES.items() for name in names})
