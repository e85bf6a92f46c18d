"""Who is logged in, and what administrators see of access."""

from services.frontend.domain.documents import ReceiverDocument


class Account(ReceiverDocument):
    """Who is logged in, and which scopes they have."""

    name: str
    role: str
    scopes: frozenset[str]


class OpenedSession(ReceiverDocument):
    """What a log-in gives: ``token`` is the proof that the browser keeps."""

    token: str
    name: str
    role: str
