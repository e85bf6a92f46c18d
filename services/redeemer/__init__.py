"""The repair loops: notify of images that nobody works on, remove what no row names or is too old."""
