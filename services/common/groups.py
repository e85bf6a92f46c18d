"""The names by which services still import what is in the modules below."""

from services.common.group_rows import FACES_IN_IT, current_groups

__all__ = ["FACES_IN_IT", "current_groups"]
