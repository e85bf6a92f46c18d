"""The names by which services still import what is in the modules below."""

from services.common.batches import batched as in_turns

__all__ = ["in_turns"]
