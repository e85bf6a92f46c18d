"""All services on one machine: SQLite, a folder as the object store, no server, no container."""
