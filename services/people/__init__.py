"""Decides again on stored faces after a change of a person, from encodings alone."""
