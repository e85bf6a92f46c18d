"""Facestack: the services of the face pipeline."""
