"""Takes images one by one: claims the row, has the picture recognised, stores the result."""
