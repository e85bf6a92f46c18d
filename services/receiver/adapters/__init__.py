"""The receiver's sides: HTTP, the database, and pictures."""
