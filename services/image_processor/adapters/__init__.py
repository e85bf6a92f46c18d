"""What the service's ports are in reality."""
