"""What is told instead of a stack trace."""


class SecretsError(Exception):
    """It cannot be done as asked; the message says what to do."""


class NoProgramError(SecretsError):
    """A program is not installed."""


class NoContextError(SecretsError):
    """kubectl has no current context."""
