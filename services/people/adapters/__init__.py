"""Rows in the database, the gRPC interface, and face_recog."""
