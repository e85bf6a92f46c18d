"""What ends a run on this machine."""

from services.common.errors import RefusedError


class LocalError(RefusedError):
    """The run cannot start or go on; the message is one line for a person."""
