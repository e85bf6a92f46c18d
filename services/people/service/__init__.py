"""The use cases: stored faces in memory, deciding again, and groups of unknown faces."""
