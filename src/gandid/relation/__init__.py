"""The unit-object relation: which units make which object."""

from gandid.relation.measures import relate, top_units

__all__ = ["relate", "top_units"]
