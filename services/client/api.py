"""The receiver's HTTP API as the command line uses it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import httpx

from services.client.errors import ItemRefusedError, NoKeyError, ServerAwayError
from services.common.person_names import InvalidNameError, by_id, check_who, id_of

DEFAULT_URL: Final = "http://127.0.0.1:8000"
"""Where ``make run`` has the API."""

PAGE: Final = 200
"""Images or people asked for at once: the most that the API gives."""

Image = dict[str, Any]
"""An image as the server's ``ImageDocument`` says it."""

_PAUSE_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 300.0
"""How long an outage may last that begins after the server has answered: a rollout, a restart."""

_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0, pool=None)
_AWAY: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


class FacestackApi:
    """The server at ``url``; ``note`` is told when it must be waited for.

    ``key`` says who asks; where everybody may ask, none is needed.
    """

    def __init__(
        self,
        url: str,
        note: Callable[[str], None],
        *,
        key: str = "",
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self._url = url
        self._note = note
        self._patience = patience
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT)
        self._met = False
        self._away_since: float | None = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        done: HTTPStatus | None = None,
        once: bool = False,
        **request: Any,
    ) -> httpx.Response:
        """Return the answer to what may safely be asked twice, or is asked only ``once``.

        Raises :class:`ItemRefusedError` with the server's reason, and :class:`ServerAwayError`: at
        once when the server never answered before, else after ``patience`` seconds of an outage.
        Asked again because the answer was lost, ``done`` is no refusal: it says that the first was
        heard. What is asked only once is refused then.
        """
        lost = False
        while True:
            began = asyncio.get_running_loop().time()
            try:
                answer = await self.http.request(method, path, **request)
            except httpx.RequestError as error:
                lost |= not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if lost and once:
                    raise _unheard(str(error) or type(error).__name__) from None
                await self._wait_out(str(error) or type(error).__name__, _PAUSE_SECONDS)
                continue
            pause = retry_after(answer.headers.get("Retry-After", ""))
            if answer.status_code in _AWAY:
                lost = True
                if once:
                    raise _unheard(_reason(answer))
                await self._wait_out(_reason(answer), pause)
                continue
            # What was in flight when the outage began may be answered in the middle of it.
            if self._away_since is not None and self._away_since < began:
                self._away_since = None
            if lost and answer.status_code == done:
                return answer
            if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
                return self._checked(answer)
            await asyncio.sleep(pause)

    async def get(self, method: str, path: str, *keys: str, **request: Any) -> dict[str, Any]:
        """Return the document that is the answer, which must have the keys; raise as above."""
        return self._document(await self.ask(method, path, **request), *keys)

    async def image(self, method: str, path: str) -> Image:
        """Return the image that is the answer."""
        return await self.get(method, path, "id", "status", "faces")

    async def delete(self, path: str) -> None:
        """Remove what has this path; raise as above."""
        self._check_empty(await self.ask("DELETE", path, done=HTTPStatus.NOT_FOUND))

    async def retry(self, path: str) -> Image:
        """Have the image with this path looked at again and return it; raise as above."""
        await self.ask("POST", f"{path}/retry", done=HTTPStatus.CONFLICT)
        return await self.image("GET", path)

    async def pages(self, kind: str, **filters: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield ``images``, newest first, or ``people``, by name, a page at once.

        Receivers that give all people in one answer name no next page.
        """
        query = {**filters, "limit": str(PAGE)}
        while True:
            page = await self.get("GET", f"/{kind}", kind, params=query)
            yield page[kind]
            if page.get("next_cursor") is None:
                break
            query["cursor"] = page["next_cursor"]

    async def enrol(self, person: str, *, insist: bool, **body: Any) -> dict[str, Any]:
        """Make a picture a known one of a person."""
        params = {"insist": "true"} if insist else {}
        address = f"{address_of(await self._settled(person))}/pictures"
        return await self.get("POST", address, "person", params=params, **body)

    async def search(self, *, face: int | None, limit: int, **body: Any) -> dict[str, Any]:
        """Return the stored faces that are nearest to one of a picture."""
        params = {"limit": limit} | ({} if face is None else {"face": face})
        return await self.get("POST", "/search", "faces", "found", params=params, **body)

    async def deny(self, image_id: int, face: int, person: str, *, undo: bool) -> None:
        """Say that a face is not a person's, or take that back; raise as above."""
        its = await self._settled(person)
        path = f"/images/{image_id}/faces/{face}/denials/{quote(its, safe='')}"
        method = "DELETE" if undo else "PUT"
        self._check_empty(await self.ask(method, path, once=id_of(its) is None))

    async def person(self, person: str) -> dict[str, Any]:
        """Return a person, with whom they were said to be; raise as above."""
        return await self.get("GET", address_of(person), "id", "name", "merges")

    async def _settled(self, person: str) -> str:
        """Return the ``~id`` of whoever is meant, by which it is the same person when asked again.

        Of somebody whose pictures were all put there by hand there may be no row: then it is the
        name, with which nothing that hurts another of that name may be asked twice.
        """
        who = kept_who(person)
        if id_of(who) is not None:
            return who
        try:
            return by_id((await self.person(who))["id"])
        except ItemRefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return who

    async def change(self, person: str, **values: object) -> dict[str, Any]:
        """Change a person and return them; raise as above."""
        # By the id, which stays when the name changes.
        its = by_id((await self.person(person))["id"])
        return await self.get("PATCH", f"/people/{its}", "id", "name", json=values)

    async def merge(self, person: str, other: str) -> dict[str, Any]:
        """Say that another is this person, who is returned; raise as above."""
        its, others = [by_id((await self.person(who))["id"]) for who in (person, other)]
        # Heard before, there is nobody with the other's id any more.
        path, body = f"/people/{its}/merge", {"name": others}
        await self.ask("POST", path, done=HTTPStatus.NOT_FOUND, json=body)
        return await self.person(its)

    async def unmerge(self, person: str, merge_id: int | None) -> dict[str, Any]:
        """Take a merge back, the only one if not said which, and return it; raise as above."""
        found = await self.person(person)
        merges: list[dict[str, Any]] = [
            merge for merge in found["merges"] if merge_id in (None, merge["id"])
        ]
        if not merges:
            raise ItemRefusedError(f"nobody was said to be {person!r}, or not by such a merge")
        if len(merges) > 1:
            several = ", ".join(f"{merge['id']} ({merge['name']})" for merge in merges)
            raise ItemRefusedError(f"{person!r} has several merges, say which one: {several}")
        [merge] = merges
        path = f"/people/{by_id(found['id'])}/merges/{merge['id']}"
        await self.ask("DELETE", path, done=HTTPStatus.NOT_FOUND)
        return merge

    async def about(self, person: str) -> httpx.Response:
        """Return the answer with all that is kept about a person; raise as above."""
        answer = await self.ask("GET", f"{address_of(person)}/export")
        self._document(answer, "person", "known_pictures", "pictures")
        return answer

    async def erase(self, person: str, *, pictures: bool) -> dict[str, Any]:
        """Have a person forgotten and return how much that is; raise as above.

        It is not known any more when the first answer was lost.
        """
        its = await self._settled(person)
        answer = await self.ask(
            "POST",
            f"{address_of(its)}/erase",
            done=HTTPStatus.NOT_FOUND,
            once=id_of(its) is None,
            json={"pictures": pictures},
        )
        if not answer.is_success:
            return {}
        return self._document(answer, "known_pictures", "faces", "pictures")

    async def _wait_out(self, reason: str, pause: float) -> None:
        now = asyncio.get_running_loop().time()
        if not self._met:
            raise ServerAwayError(
                f"{self._url} does not answer: {reason}. Is the server up, and is this the address"
                " of its API? --url or FACESTACK_URL gives another"
            )
        if self._away_since is None:
            self._away_since = now
            self._note(f"{self._url} does not answer: {reason}. Waiting for it")
        if now - self._away_since >= self._patience:
            raise ServerAwayError(
                f"{self._url} has not answered for {self._patience:g} s: {reason}."
                " Run the same again later: what the server has is not sent twice"
            )
        await asyncio.sleep(pause)

    def _document(self, answer: httpx.Response, *keys: str) -> dict[str, Any]:
        document = _document(answer)
        if not document.keys() >= {*keys}:
            raise self._stranger(answer)
        self._met = True
        return document

    def _check_empty(self, answer: httpx.Response) -> None:
        if answer.is_success and answer.status_code != HTTPStatus.NO_CONTENT:
            raise self._stranger(answer)
        self._met = True

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        problem = _problem(answer)
        if not problem and not self._met:
            raise self._stranger(answer)
        self._met = True
        if problem and answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise NoKeyError(
                f"{self._url} asks who calls: set the variable FACESTACK_KEY to a key that it"
                " knows; whoever administers it makes one"
            )
        # Without a problem, a proxy in front refused it, for example a body that is too large.
        doubts = [error.get("pointer") for error in problem.get("errors", [])]
        overruled = " (--insist overrules it)" if "/query/insist" in doubts else ""
        raise ItemRefusedError(_reason(answer) + overruled, answer.status_code)

    def _stranger(self, answer: httpx.Response) -> ServerAwayError:
        where = f" to {answer.headers['Location']}" if "Location" in answer.headers else ""
        return ServerAwayError(
            f"{self._url} is not the API of a Facestack: {answer.request.url} answered"
            f" {answer.status_code}{where} ({answer.headers.get('Content-Type', 'no type')})."
            f" The page has another address than the API; that of 'make run' is {DEFAULT_URL}"
        )


def _unheard(reason: str) -> ItemRefusedError:
    return ItemRefusedError(
        f"the answer was lost ({reason}), so whether it was done is not known: look who is there,"
        " then run the same again"
    )


def retry_after(header: str) -> float:
    """Return how many seconds to wait, at most a minute; a date counts as not said."""
    seconds = float(header) if header.isascii() and header.isdigit() else _PAUSE_SECONDS
    return min(max(seconds, 0.1), 60.0)


def kept_who(person: str, check: Callable[[str], str] = check_who) -> str:
    """Return a name as the server keeps it, or ``~id``, or raise :class:`ItemRefusedError`."""
    try:
        return check(person)
    except InvalidNameError as error:
        raise ItemRefusedError(f"{error}, got {person!r}") from None


def address_of(person: str) -> str:
    """Return the address of a person, or raise :class:`ItemRefusedError`."""
    return f"/people/{quote(kept_who(person), safe='')}"


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json(object_hook=_numbered)
    except (ValueError, TypeError):
        return {}
    return document if isinstance(document, dict) else {}


def _numbered(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a document, or raise ``TypeError``: ids become names of files."""
    if not isinstance(part.get("id", 0), int):
        raise TypeError(f"{part['id']!r} is no id")
    return part


def _problem(answer: httpx.Response) -> dict[str, Any]:
    is_problem = answer.headers.get("Content-Type") == "application/problem+json"
    return _document(answer) if is_problem else {}


def _reason(answer: httpx.Response) -> str:
    given = _problem(answer).get("detail")
    return str(given or f"{answer.status_code} {answer.reason_phrase}")
