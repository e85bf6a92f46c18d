"""The ports of the redeemer on a database."""
