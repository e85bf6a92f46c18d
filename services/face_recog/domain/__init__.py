"""Faces, known people and who is nearest to whom: values and rules."""
