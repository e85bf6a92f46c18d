"""What the recogniser does, on ports that adapters fill."""
