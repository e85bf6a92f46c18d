"""Faults on purpose: the whole pipeline on one machine, and an account of every picture."""
