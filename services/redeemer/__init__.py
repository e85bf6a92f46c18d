"""The repair loops: notify of images that nobody works on, remove objects that no row names."""
