"""What is told instead of a stack trace."""


class SecretsError(Exception):
    """It cannot be done as asked; the message says what to do."""


class NoContextError(SecretsError):
    """kubectl has no current context."""
