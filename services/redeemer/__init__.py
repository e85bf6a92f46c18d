"""The repair loops: ring for what nobody works on, remove what no row names or is too old."""
