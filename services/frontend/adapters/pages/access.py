"""The pages of administrators: who may log in, the keys of programs, and who did what."""

from functools import partial
from http import HTTPStatus

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from services.frontend.adapters.pages.answers import Answers, done
from services.frontend.adapters.pages.forms import Cursor, Filter, form_of, text_of
from services.frontend.adapters.pages.naming import Refusal
from services.frontend.adapters.receiver.api import AccessApi
from services.frontend.adapters.receiver.connection import gone
from services.frontend.domain.access import ROLES, SCOPES, MadeKey
from services.frontend.domain.errors import RequestRefusedError


class AccessPages:
    """Routes of access; the receiver refuses them to whoever is no administrator."""

    def __init__(self, access: AccessApi, answers: Answers) -> None:
        self._access = access
        self._answers = answers

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        post = partial(router.post, dependencies=[Depends(form_of)])
        router.get("/keys")(self.keys_page)
        post("/keys")(self.make_key)
        post("/keys/{key_id}/rotate")(self.rotate_key)
        post("/keys/{key_id}/revoke")(self.revoke_key)
        router.get("/users")(self.users_page)
        post("/users")(self.add_user)
        post("/users/{user_id}")(self.change_user)
        post("/users/{user_id}/delete")(self.delete_user)
        router.get("/audit")(self.audit_page)
        return router

    async def keys_page(self) -> Response:
        """Show the keys of programs."""
        return await self._keys()

    async def make_key(self, request: Request) -> Response:
        """Make a key as the form says, and show it, this once."""
        form = await form_of(request)
        name, day = text_of(form, "name"), text_of(form, "expires")
        try:
            ends = f"{day}T23:59:59Z" if day else None
            made = await self._access.make_key(name, map(str, form.getlist("scope")), ends)
        except RequestRefusedError as error:
            return await self._keys(refusal=Refusal(error.message, error.status, name=name))
        return await self._keys(made)

    async def rotate_key(self, key_id: str) -> Response:
        """Make a key that replaces another, and show it, this once."""
        try:
            return await self._keys(await self._access.rotate_key(key_id))
        except RequestRefusedError as error:
            return await self._keys(refusal=Refusal(error.message, error.status, key_id))

    async def revoke_key(self, request: Request, key_id: str) -> Response:
        """Make a key invalid."""
        await gone(self._access.revoke_key(key_id))
        return done(request, "/keys")

    async def users_page(self, cursor: Cursor = None) -> Response:
        """Show who may log in."""
        return await self._users(cursor)

    async def add_user(self, request: Request) -> Response:
        """Let somebody log in with a password."""
        form = await form_of(request)
        name, role = text_of(form, "name"), text_of(form, "role")
        try:
            await self._access.add_user(name, role, str(form.get("password", "")))
        except RequestRefusedError as error:
            return await self._users(refusal=Refusal(error.message, error.status, name=name))
        return RedirectResponse("/users", HTTPStatus.SEE_OTHER)

    async def change_user(self, request: Request, user_id: int) -> Response:
        """Change what the pressed button is for: the role, the password, or whether they may."""
        form = await form_of(request)
        change: dict[str, object] = {}
        if "disabled" in form:
            change["disabled"] = text_of(form, "disabled") == "yes"
        elif form.get("password"):
            change["password"] = str(form["password"])
        elif "role" in form:
            change["role"] = text_of(form, "role")
        try:
            await self._access.change_user(user_id, change)
        except RequestRefusedError as error:
            return await self._users(refusal=Refusal(error.message, error.status, user_id))
        return RedirectResponse("/users", HTTPStatus.SEE_OTHER)

    async def delete_user(self, request: Request, user_id: int) -> Response:
        """Remove a user."""
        await gone(self._access.delete_user(user_id))
        return done(request, "/users")

    async def audit_page(self, who: Filter = None, cursor: Cursor = None) -> Response:
        """Show who did what, newest first."""
        page = await self._access.audit(who, cursor)
        view = {"available": True, "page": page, "who": who, "cursor": cursor}
        return await self._answers.page("audit.html", view)

    async def _keys(self, made: MadeKey | None = None, refusal: Refusal | None = None) -> Response:
        keys = (await self._access.keys()).keys
        view = {"available": True, "keys": keys, "made": made, "scopes": SCOPES}
        return await self._answers.page("keys.html", view, refusal)

    async def _users(self, cursor: str | None = None, refusal: Refusal | None = None) -> Response:
        page = await self._access.users(cursor)
        view = {"available": True, "page": page, "cursor": cursor, "roles": ROLES}
        return await self._answers.page("users.html", view, refusal)
