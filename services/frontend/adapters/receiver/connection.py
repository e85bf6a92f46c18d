"""Calls of the receiver's HTTP API, and the one place that translates what goes wrong with them."""

import re
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from services.common import metrics
from services.common.person_names import InvalidNameError, check_who
from services.frontend.adapters.receiver.visitor import visitor
from services.frontend.domain.errors import (
    LoggedOutError,
    NotDoneError,
    ReceiverAwayError,
    RequestRefusedError,
)
from services.frontend.domain.words import sentence

_CONNECT_SECONDS: Final = 2.0

_NO_KEY: Final = (
    "The receiver asks for a key that these pages do not have. Whoever runs them has to set"
    " RECEIVER_KEY_FILE to the file that is the receiver's FRONTEND_KEY_FILE."
)

_DOUBT: Final = "/query/insist"
"""Where an error points that the parameter overrules."""

_PLACEHOLDER: Final = re.compile(r"\{\w+\}")

_BEARER: Final = "Bearer"
"""The challenge of a receiver that does not know the key or the session."""

_BOUNDARY: Final = "facestack-known-picture-0d9b6f2c7a1e4835"

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class ReceiverConnection:
    """The receiver behind an HTTP client whose base URL is the receiver's.

    Every call raises :class:`ReceiverAwayError` when the receiver, or what it needs, is away, and
    :class:`RequestRefusedError` when it refuses the request. It has ``seconds`` for an answer, and
    ``upload_seconds`` for a ``slow`` one, such as where pictures are sent or faces are cut out.

    An operation is a method and a path, such as ``GET /images/{id}``, whose placeholders stand for
    the ``parts``, in order; ``params`` that are None, False or empty are not sent.

    With ``keys``, of which one is the receiver's now, it says who asks, as :func:`visitor` tells,
    and raises :class:`LoggedOutError` when the receiver does not know the session.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        seconds: float = 15.0,
        upload_seconds: float = 60.0,
        keys: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        self._client = client
        self._auth = _Credentials(keys) if keys else None
        self._timeout = httpx.Timeout(seconds, connect=_CONNECT_SECONDS)
        self._slow_timeout = httpx.Timeout(upload_seconds, connect=_CONNECT_SECONDS)

    async def call(
        self,
        operation: str,
        *parts: str | int,
        params: Mapping[str, Any] | None = None,
        slow: bool = False,
        **body: Any,
    ) -> httpx.Response:
        """Return the answer to an operation; ``body`` is what httpx takes for one, and headers."""
        request = self._request(operation, parts, slow=slow)
        wanted = {
            name: value
            for name, value in (params or {}).items()
            if value is not None and value is not False and value != ""
        }
        with _observed(operation):
            response = await self._client.request(**request, params=wanted, **body)
            _check_away(response)
        _check_refused(response)
        return response

    async def read(self, model: type[M], operation: str, *parts: str | int, **arguments: Any) -> M:
        """Return the document that is the answer to a :meth:`call`."""
        response = await self.call(operation, *parts, **arguments)
        try:
            return model.model_validate_json(response.content)
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise ReceiverAwayError(
                reason=f"gave an answer that is not understood: {reason}"
            ) from error

    async def stream(self, operation: str, *parts: str | int) -> AsyncIterator[bytes]:
        """Yield the answer to a slow operation; a refusal is raised before the first piece."""
        request = self._request(operation, parts, slow=True)
        with _observed(operation):
            async with self._client.stream(**request) as response:
                if response.is_error:
                    await response.aread()
                    _check_away(response)
                else:
                    async for piece in response.aiter_bytes():
                        yield piece
        _check_refused(response)

    def _request(
        self, operation: str, parts: tuple[str | int, ...], *, slow: bool
    ) -> dict[str, Any]:
        if not visitor().proven:
            raise RuntimeError(f"{operation} for a form that has shown no token")
        method, _, path = operation.partition(" ")
        values = map(_quoted, parts)
        return {
            "method": method,
            "auth": self._auth,
            "url": _PLACEHOLDER.sub(lambda _: next(values), path),
            "timeout": self._slow_timeout if slow else self._timeout,
        }


class _Credentials(httpx.Auth):
    """Puts on every request who sends it.

    ``keys`` are read for each. While one is replaced, this process and the receiver's hear of the
    new one at different times: who is refused with one tries the other, and begins with what was
    taken last, as a body that streams cannot be sent twice.
    """

    def __init__(self, keys: Callable[[], Iterable[str]]) -> None:
        self._keys = keys
        self._taken = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the headers."""
        who = visitor()
        request.headers["Facestack-Address"] = who.address
        if who.session:
            request.headers["Facestack-Session"] = who.session
        if who.by_itself:
            request.headers["Facestack-By-Itself"] = "yes"
        for key in sorted(self._keys(), key=self._taken.__ne__):
            request.headers["Authorization"] = f"Bearer {key}"
            response = yield request
            # A wrong password is 401 with another challenge, and must not be counted twice.
            if response.headers.get("WWW-Authenticate") != _BEARER:
                self._taken = key
                return
            self._taken = ""
            if not isinstance(request.stream, httpx.ByteStream):
                return


def file_form(file: AsyncIterable[bytes], size: int) -> dict[str, Any]:
    """Return the body of a call that sends a form with a file of ``size`` bytes.

    By hand, for httpx reads the files of a form from the disk within the event loop.
    """
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n\r\n'
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()

    async def content() -> AsyncIterator[bytes]:
        yield head
        async for piece in file:
            yield piece
        yield tail

    return {
        "content": content(),
        "headers": {
            "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            "Content-Length": str(len(head) + size + len(tail)),
        },
    }


def explain_problem(detail: str, headers: Mapping[str, str] | None) -> str:
    """Return what is wrong as a sentence, and when to try again."""
    wait = (headers or {}).get("Retry-After")
    if not wait or f"in {wait} s" in detail:
        return sentence(detail)
    return f"{sentence(detail)} Try again in {wait} s."


async def or_error(call: Awaitable[T]) -> T | NotDoneError:
    """Return what a call returns, or why there is nothing: a page shows something all the same."""
    try:
        return await call
    except NotDoneError as error:
        return error


async def or_none(call: Awaitable[T]) -> T | None:
    """Return what a call returns, if anything."""
    result = await or_error(call)
    return None if isinstance(result, NotDoneError) else result


async def gone(deletion: Awaitable[None]) -> None:
    """Delete what may be gone already: somebody else was faster, and that is all right."""
    try:
        await deletion
    except RequestRefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise


def _quoted(part: str | int) -> str:
    # In a URL a slash would name something else, however it is quoted.
    try:
        return quote(check_who(part), safe="") if isinstance(part, str) else str(part)
    except InvalidNameError as error:
        raise RequestRefusedError(sentence(str(error))) from None


@contextmanager
def _observed(operation: str) -> Iterator[None]:
    """Observe a call and turn a missing answer into ReceiverAwayError."""
    with metrics.observe(f"receiver {operation}"):
        try:
            yield
        except httpx.HTTPError as error:
            raise ReceiverAwayError(reason=str(error) or type(error).__name__) from error


def _check_away(response: httpx.Response) -> None:
    # A busy receiver says nothing about what it was asked for.
    if response.is_server_error:
        raise ReceiverAwayError(_explanation(response)[0])
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        wait = response.headers.get("Retry-After", "")
        raise ReceiverAwayError(_explanation(response)[0], wait_seconds=wait)


def _check_refused(response: httpx.Response) -> None:
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        who = visitor()
        if who.session:
            raise LoggedOutError
        if not who.is_outside:
            raise ReceiverAwayError(_NO_KEY)
    if response.is_error:
        message, can_insist = _explanation(response)
        raise RequestRefusedError(message, response.status_code, can_insist=can_insist)


def _explanation(response: httpx.Response) -> tuple[str, bool]:
    """Return what a problem document (RFC 9457) says, for people, and whether it is a doubt."""
    try:
        document = response.json()
        text = str(document.get("detail") or document["title"])
        errors = document.get("errors") or ()
        details = [str(error["detail"]) for error in errors if error.get("pointer") != _DOUBT]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"The receiver answered {response.status_code} without a reason.", False
    parts = (text, *(detail for detail in details if detail not in text))
    message = explain_problem(" ".join(map(sentence, parts)), response.headers)
    return message, len(details) < len(errors)
