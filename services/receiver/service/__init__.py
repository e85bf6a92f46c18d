"""What the receiver does, on ports that adapters fill."""
