"""The repair loops: ring for images that nobody works on, remove objects that no row names."""
