"""Brings the database to the revision that the services need: ``python -m services.migrations``."""
