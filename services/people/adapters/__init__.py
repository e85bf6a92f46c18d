"""Rows in the database, stored faces in memory, and face_recog."""
