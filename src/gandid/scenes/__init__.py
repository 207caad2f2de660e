"""Procedural data sets with exact masks: what a generator is trained on when the truth must be known."""

from gandid.scenes import rooms

__all__ = ["rooms"]
