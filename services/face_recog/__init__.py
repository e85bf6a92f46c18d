"""Finds faces in pictures and names those of known people, over gRPC."""
