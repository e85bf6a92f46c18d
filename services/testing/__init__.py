"""Real servers for tests: MariaDB, NSQ, S3 and a browser, started on 127.0.0.1."""
