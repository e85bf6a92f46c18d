"""What the redeemer does, on ports that adapters fill."""
