"""What a form says of who somebody is, and what may be done when that is refused."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Depends
from starlette.datastructures import FormData

from services.common.person_names import id_of
from services.frontend.adapters.pages.forms import text_of
from services.frontend.adapters.receiver.api import FacesApi, PeopleApi
from services.frontend.adapters.receiver.connection import or_none
from services.frontend.domain.errors import NotDoneError, RequestRefusedError
from services.frontend.domain.people import Person

_MAX_CHOICES: Final = 20
"""Of people who bear one name, so many are shown to choose from."""


@dataclass(frozen=True)
class Naming:
    """What a form says of who somebody is.

    ``name`` is what was typed, ``who`` a choice among those who bear it; ``another`` is somebody
    else of that name. ``insist`` is for a picture in doubt.
    """

    name: str
    who: str
    another: bool
    insist: bool

    @classmethod
    def of(cls, form: FormData) -> "Naming":
        """Return what the fields ``person``, ``who``, ``another`` and ``insist`` say."""
        name, insist = text_of(form, "person"), text_of(form, "insist")
        # Who insists does so for whom the doubt was about.
        another = "another" in form or insist == "another"
        chosen = insist if id_of(insist) is not None else text_of(form, "who")
        who = name if another else chosen or name
        return cls(name, who, another, bool(insist))

    @property
    def somebody(self) -> str:
        """Return who it is, or raise :class:`RequestRefusedError` when the form names nobody."""
        if not self.who:
            raise RequestRefusedError("Enter a name.")
        return self.who

    async def enrol(self, faces: FacesApi, picture_id: int, index: int) -> None:
        """Make a face a known picture of :attr:`somebody`."""
        await faces.enrol(
            self.somebody, picture_id, index, insist=self.insist, another=self.another
        )

    @property
    def insists(self) -> str:
        """Return what to send for insisting on the same."""
        return "another" if self.another else self.who if id_of(self.who) is not None else "true"


@dataclass(frozen=True)
class Refusal:
    """Why a form was refused, and what a person may do about it.

    ``form`` tells which of a page's forms, ``name`` what was typed there. ``people`` are those who
    bear the name, ``another`` says that somebody else may, ``insist`` what to send to insist.
    """

    message: str
    status: int
    form: int | str = ""
    name: str = ""
    people: tuple[Person, ...] = ()
    another: str = ""
    insist: str = ""


NotRefused = Annotated[Refusal | None, Depends(lambda: None)]
"""What a page that is asked for has; an action that shows it may say why it was refused."""


async def refusal_of(
    error: NotDoneError, naming: Naming, people: PeopleApi, form: int | str = ""
) -> Refusal:
    """Return why a face or a picture got no name, with the people whom the name may mean."""
    namesakes: tuple[Person, ...] = ()
    if error.status == HTTPStatus.CONFLICT and not naming.another:
        namesakes = await bearers(naming.who, people)
    can_insist = isinstance(error, RequestRefusedError) and error.can_insist
    is_name = id_of(naming.who) is None and not naming.another
    return Refusal(
        error.message,
        error.status,
        form,
        naming.name,
        namesakes,
        f"Somebody else called {naming.name}" if namesakes or (can_insist and is_name) else "",
        naming.insists if can_insist else "",
    )


async def bearers(name: str, people: PeopleApi) -> tuple[Person, ...]:
    """Return those who bear a name, if they are several.

    An older receiver knows of no such people, and would return everybody.
    """
    if not name or id_of(name) is not None:
        return ()
    pages = await asyncio.gather(
        *(
            or_none(people.page(person=name, hidden=hidden, limit=_MAX_CHOICES))
            for hidden in (False, True)
        )
    )
    found = tuple(
        person for page in pages if page for person in page.people if person.hidden is not None
    )
    return found if len(found) > 1 else ()
