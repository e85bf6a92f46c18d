"""Load that users can make, on any Facestack: docs/load.md."""
