"""What manifests are held to, without a cluster."""
