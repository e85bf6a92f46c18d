"""What the image processor does, on ports that adapters fill."""
