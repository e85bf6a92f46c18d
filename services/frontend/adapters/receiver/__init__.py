"""The receiver's HTTP API, which is the frontend's only way to data and actions."""
