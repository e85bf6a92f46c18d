"""Brings the database to the revision that the services need, and its users to their rights."""
