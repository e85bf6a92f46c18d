"""Groups of unknown faces: who they are, what does not belong in them, and what is asked."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import structlog

from services.common.errors import RefusedError
from services.common.person_names import by_id
from services.receiver.domain.cursors import Page, Pair
from services.receiver.domain.errors import ConflictError, InvalidError, NotFoundError
from services.receiver.domain.faces import FaceKey
from services.receiver.domain.groups import Answer, Group, Member, NamedGroup, Question
from services.receiver.domain.people import KnownPicture, Person
from services.receiver.ports import GroupRows
from services.receiver.service.people import Enrolment

log = structlog.get_logger(__name__)

_KNOWN: Final = 10
"""Known pictures that a group gives: each more makes its person harder to mistake by less."""

_TRIED: Final = 20
"""Faces that are cut out for that, at most: not of each the recogniser finds the face again."""


class Grouped:
    """What a person does with groups; the service people makes them, and follows."""

    def __init__(self, rows: GroupRows, enrolment: Enrolment) -> None:
        self._rows = rows
        self._enrolment = enrolment

    async def page(self, *, after: Pair | None, limit: int) -> Page[Group, Pair]:
        """Return the largest groups behind a place."""
        return await self._rows.page(after=after, limit=limit)

    async def group(self, group_id: int, *, after: Pair | None, limit: int) -> Group:
        """Return a group with its faces behind a place, or raise :class:`NotFoundError`."""
        found = await self._rows.group(group_id, after=after, limit=limit)
        if found is None:
            raise _no_group(group_id)
        return found

    async def name(
        self, group_id: int, who: str, *, another: bool = False, without: Collection[FaceKey] = ()
    ) -> NamedGroup:
        """Name the faces of a group, all but some, which do not belong in it.

        The best become known pictures, the others are named by hand. A face that gets another name
        meanwhile keeps it, and so does one of which alone a hand has said that it is not this
        person; that the group was not is taken back. Whoever does it again goes on where it ended,
        with ``another`` with who was made for the group then. Raises a ``RefusedError``, and
        ``RecogniserError`` when no face can be cut out now.
        """
        if another:
            return await self._name_another(group_id, who, without)
        person = await self._enrolment.who(who)
        if without:
            await self._rows.strike(group_id, without)
        if person.id is not None:
            await self._rows.allow(group_id, person.id)
        return await self._name(group_id, who, person.id)

    async def _name(self, group_id: int, who: str, person_id: int | None) -> NamedGroup:
        members = await self._rows.members(group_id, person_id)
        if not members:
            raise _no_group(group_id)
        enrolled, refusal = await self._enrol(who, person_id, members)
        if enrolled:
            person_id = enrolled[0].person_id
        elif person_id is None:
            raise refusal or ConflictError(f"the faces of group {group_id} have just got a name")
        named = await self._rows.name(members, person_id)
        log.info("group named", group_id=group_id, person_id=person_id, faces=named)
        its = await self._enrolment.person(by_id(person_id))
        return NamedGroup(its.name, its.id, len(enrolled) + named)

    async def _name_another(
        self, group_id: int, who: str, without: Collection[FaceKey]
    ) -> NamedGroup:
        new = await self._enrolment.who(who, another=True)
        person_id = await self._rows.make_another(group_id, new)
        if person_id is None:
            raise _no_group(group_id)
        try:
            named = await self.name(group_id, by_id(person_id), without=without)
        except Exception as error:
            all_named = isinstance(error, NotFoundError)
            await self._rows.end_another(person_id, goes_on=not all_named)
            raise
        await self._rows.end_another(person_id, goes_on=False)
        return named

    async def _enrol(
        self, who: str, person_id: int | None, members: Sequence[Member]
    ) -> tuple[list[KnownPicture], RefusedError | None]:
        """Make the best faces known pictures, of each picture one; return also why one is not."""
        enrolled: list[KnownPicture] = []
        refusal: RefusedError | None = None
        for member in _best(members):
            if len(enrolled) == _KNOWN:
                break
            if not await self._rows.is_unknown(member, person_id):
                continue
            try:
                known = await self._enrolment.enrol_face(
                    by_id(enrolled[0].person_id) if enrolled else who,
                    member.key.image_id,
                    member.key.index,
                    insist=True,
                )
            except (ConflictError, InvalidError, NotFoundError) as error:
                refusal = error
            else:
                enrolled.append(known)
                person_id = known.person_id
        return enrolled, refusal

    async def strike(self, group_id: int, key: FaceKey) -> None:
        """Write down that a face does not belong in a group, or raise :class:`NotFoundError`."""
        if not await self._rows.strike(group_id, [key]):
            raise NotFoundError(f"group {group_id} has no face {key.index} of image {key.image_id}")
        log.info("face does not belong", group_id=group_id, image_id=key.image_id)

    async def questions(self, limit: int) -> Sequence[tuple[Question, Person | None]]:
        """Return questions that wait for a person, each with who is asked about."""
        found = await self._rows.questions(limit)
        people: dict[int, Person | None] = {}
        for person_id in {
            question.person_id for question in found if question.person_id is not None
        }:
            try:
                people[person_id] = await self._enrolment.person(by_id(person_id))
            except NotFoundError:  # has just gone, and the question with them
                people[person_id] = None
        return [
            (question, None if question.person_id is None else people[question.person_id])
            for question in found
            if question.person_id is None or people[question.person_id]
        ]

    async def answer(self, question_id: int, answer: Answer) -> None:
        """Take what a person says, in place of what was said before, or raise a ``RefusedError``.

        With yes, the group gets the person's name at once, and of two groups the service people
        makes one.
        """
        question = await self._rows.question(question_id)
        if question is None:
            raise NotFoundError(f"there is no question {question_id}, or it is answered")
        if answer is Answer.YES and question.person_id is not None:
            await self._rows.answer(question_id, None)  # open until all have the name
            await self._name(question.group.id, by_id(question.person_id), question.person_id)
            await self._rows.settle(question_id)
        else:
            await self._rows.answer(question_id, answer)
        log.info("question answered", question_id=question_id, answer=answer)


def _best(members: Iterable[Member]) -> list[Member]:
    """Return the faces of the best quality, of each picture one."""
    by_image: dict[int, Member] = {}
    for member in sorted(
        members, key=lambda member: (-member.quality, member.key.image_id, member.key.index)
    ):
        by_image.setdefault(member.key.image_id, member)
    return list(by_image.values())[:_TRIED]


def _no_group(group_id: int) -> NotFoundError:
    return NotFoundError(
        f"there is no group {group_id} with unknown faces: they have a name, or are gone"
    )
