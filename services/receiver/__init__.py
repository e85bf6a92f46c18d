"""The receiver: the HTTP API in front of images and people."""
