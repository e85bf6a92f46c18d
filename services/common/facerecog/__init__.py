"""The recogniser's interface: face.proto, its generated stubs, and a client."""
