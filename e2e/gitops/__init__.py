"""A real cluster that Flux keeps equal to a git server inside it: the tests push and watch."""
