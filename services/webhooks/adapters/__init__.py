"""The webhooks' sides: the database, the endpoints' file, and the endpoints."""
