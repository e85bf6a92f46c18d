"""What the service stands on: worker processes with dlib, and the gRPC server."""
