"""Databases, and where backups are."""
