"""Copies of everything elsewhere: ``python -m services.backup take|list|verify|restore``."""
