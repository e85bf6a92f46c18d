"""Webhooks: tells endpoints outside of results and people, until they have taken it."""
