"""Renders what Flux would apply to each cluster, checks it, and compares it with a cluster."""
