"""The unit-object relation: which units make which object, and rankings of units by it (docs/relation.md)."""

from gandid.ranking.relation import relate, top_units

__all__ = ["relate", "top_units"]
