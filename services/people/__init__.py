"""Which stored faces are whose, decided again after a change, and groups of those of nobody."""
