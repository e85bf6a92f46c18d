"""The ports of the image processor on NSQ, gRPC and a database."""
