"""The endpoints, in a file that an operator writes."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import structlog
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from services.common.errors import RefusedError
from services.common.webhooks import WebhookType
from services.webhooks.domain import Endpoint, EndpointsError

log = structlog.get_logger(__name__)

_PREFIX: Final = "whsec_"
_KEY_BYTES: Final = (24, 64)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, Field(max_length=500, pattern="^https?://[!-~]+$")]
    secret: SecretStr
    events: Annotated[frozenset[WebhookType], Field(min_length=1)] = frozenset(WebhookType)
    allow_http: bool = False

    @model_validator(mode="after")
    def _check(self) -> "_Entry":
        parts = urlsplit(self.url)
        if not parts.hostname or parts.username is not None or parts.fragment:
            raise ValueError("url needs a host, and may have no user and no #fragment")
        if parts.scheme == "http" and not self.allow_http:
            raise ValueError(
                "url must begin with https: what is sent names people; allow_http is for a host of"
                " your own that nobody listens to on the way"
            )
        self.key()
        return self

    def key(self) -> bytes:
        """Return the secret's bytes, or raise ``ValueError``."""
        text = self.secret.get_secret_value()
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except ValueError:
            key = b""
        if not text.startswith(_PREFIX) or not _KEY_BYTES[0] <= len(key) <= _KEY_BYTES[1]:
            raise ValueError(
                f"secret must be {_PREFIX} and 24 to 64 random bytes in base64:"
                f' echo "{_PREFIX}$(head -c 32 /dev/urandom | base64)"'
            )
        return key


_LIST: Final = TypeAdapter(list[_Entry])


def read_endpoints(file: Path) -> tuple[Endpoint, ...]:
    """Return what the file says, nobody if it is not there; raise :class:`EndpointsError`."""
    try:
        found = _LIST.validate_json(file.read_bytes())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise EndpointsError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, ('', *fault['loc']))) or 'the file'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_context=False)
        )
        raise EndpointsError(f"{file} is wrong: {faults}") from None
    urls = [entry.url for entry in found]
    if twice := sorted({url for url in urls if urls.count(url) > 1}):
        raise EndpointsError(f"{file} is wrong: it names {', '.join(twice)} twice")
    return tuple(Endpoint(entry.url, entry.key(), entry.events) for entry in found)


class EndpointsFile:
    """The endpoints of now: the file is read again and again, and kept while it is wrong."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._error: str | None = None
        self._known = read_endpoints(file) if file else ()

    def __call__(self) -> Sequence[Endpoint]:
        """Return the endpoints."""
        return self._known

    async def look(self) -> None:
        """Read the file again."""
        if self._file is None:
            return
        try:
            found = read_endpoints(self._file)
        except RefusedError as error:
            if str(error) != self._error:
                log.error("endpoints are as before", reason=str(error))  # noqa: TRY400, no trace
            self._error = str(error)
            return
        self._error = None
        if found != self._known:
            log.info("endpoints have changed", endpoints=[endpoint.url for endpoint in found])
        self._known = found
