"""What ends a piece of work of people before its end, or keeps it from its start."""


class NotLoadedError(Exception):
    """The stored faces are not all in memory yet."""


class OtherEngineError(Exception):
    """What is looked for is another engine's than the stored faces in memory."""


class ClaimLostError(Exception):
    """Somebody else works on it, or the person has changed since."""


class RowsChangedError(Exception):
    """The rows that were decided on are others by now."""
