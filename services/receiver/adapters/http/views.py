"""Writes answers as JSON; documents.py says what they look like."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import orjson
from starlette.responses import Response

from services.common.events import EventKind
from services.common.image_states import Status
from services.receiver.domain.access import Principal
from services.receiver.domain.acts import Recorded
from services.receiver.domain.changes import Change
from services.receiver.domain.cursors import (
    Page,
    Pair,
    PersonKey,
    encode_cursor,
    encode_pair,
    encode_person_cursor,
)
from services.receiver.domain.deliveries import Delivery
from services.receiver.domain.faces import FaceKey
from services.receiver.domain.groups import Group, Question
from services.receiver.domain.images import Image
from services.receiver.domain.keys import ApiKey
from services.receiver.domain.people import KnownPicture, Person
from services.receiver.domain.submissions import Accepted
from services.receiver.domain.users import NewSession, User

_Item = TypeVar("_Item")
_Place = TypeVar("_Place")

_LAST_MS: Final = 253_402_300_799_000
"""The last second that ISO 8601 has four digits for the year of; a damaged row may say more."""

_TIMES: Final = frozenset({"created_at", "processed_at"})


def json_response(content: object, status: int = 200, location: str | None = None) -> Response:
    """Return a JSON response."""
    headers = {"Location": location} if location else None
    return Response(orjson.dumps(content), status, headers, "application/json")


def location(image_id: int) -> str:
    """Return where to look at an image."""
    return f"/images/{image_id}"


def accepted_view(accepted: Accepted) -> dict[str, object]:
    """Return an ``AcceptedDocument``."""
    return {
        "id": accepted.id,
        "path": accepted.path,
        "status": accepted.status,
        "duplicate": accepted.duplicate,
        "location": location(accepted.id),
    }


def image_view(image: Image) -> dict[str, object]:
    """Return an ``ImageDocument``."""
    return {
        "id": image.id,
        "path": image.path,
        "name": image.name,
        "status": image.status,
        "attempt": image.attempt,
        "error": image.error,
        "created_at": _time(image.created_at),
        "updated_at": _time(image.updated_at),
        "processed_at": _time(image.processed_at),
        "next_attempt_at": _time(image.due_at) if image.status == Status.FAILED else None,
        "width": image.width,
        "height": image.height,
        "engine": image.engine,
        "faces": image.faces,  # written field by field
        "struck_out": [
            {"index": face.index, "box": face.box}
            for face in image.struck_out
            if not face.forgotten
        ],
    }


def page_view(page: Page[Image, int]) -> dict[str, object]:
    """Return an ``ImagePageDocument``."""
    return _page_view("images", page, image_view, encode_cursor)


def people_view(page: Page[Person, PersonKey]) -> dict[str, object]:
    """Return a ``PeopleDocument``."""
    return _page_view("people", page, person_view, encode_person_cursor)


def person_view(person: Person) -> dict[str, object]:
    """Return a ``PersonDocument``."""
    return {
        "id": person.id,
        "name": person.name,
        "hidden": person.hidden,
        "face": face_view(person.face),
        "pictures": [
            {
                "id": picture.id,
                "image_name": picture.image_name,
                "created_at": _time(picture.created_at),
            }
            for picture in person.pictures
        ],
    }


def whole_person_view(person: Person) -> dict[str, object]:
    """Return a ``WholePersonDocument``."""
    merges = [
        {"id": merge.id, "name": merge.name, "created_at": _time(merge.created_at)}
        for merge in person.merges
    ]
    return {**person_view(person), "merges": merges}


def face_view(face: FaceKey | None) -> dict[str, object] | None:
    """Return a ``FaceKeyDocument``."""
    return {"image_id": face.image_id, "face_index": face.index} if face else None


def enrolled_view(picture: KnownPicture) -> dict[str, object]:
    """Return an ``EnrolledDocument``."""
    return {
        "person": picture.person,
        "person_id": picture.person_id,
        "id": picture.id,
        "image_name": picture.image_name,
    }


def group_page_view(page: Page[Group, Pair]) -> dict[str, object]:
    """Return a ``GroupPageDocument``."""
    return _page_view("groups", page, group_view, encode_pair)


def group_view(group: Group) -> dict[str, object]:
    """Return a ``GroupDocument``."""
    return {"id": group.id, "size": group.size, "faces": [face_view(face) for face in group.faces]}


def whole_group_view(group: Group) -> dict[str, object]:
    """Return a ``WholeGroupDocument``."""
    cursor = None if group.last is None else encode_pair(group.last)
    return {**group_view(group), "next_cursor": cursor}


def question_view(question: Question, person: Person | None) -> dict[str, object]:
    """Return a ``QuestionDocument``."""
    return {
        "id": question.id,
        "likeness": question.likeness,
        "group": group_view(question.group),
        "other": question.other and group_view(question.other),
        "person": person
        and {
            "id": person.id,
            "name": person.name,
            "face": face_view(person.face),
        },
    }


def delivery_view(delivery: Delivery) -> dict[str, object]:
    """Return a ``DeliveryDocument``."""
    return {
        "id": delivery.id,
        "message_id": delivery.message_id,
        "endpoint": delivery.endpoint,
        "type": delivery.type,
        "subject_id": delivery.subject_id,
        "status": delivery.status,
        "attempt": delivery.attempt,
        "error": delivery.error,
        "created_at": _time(delivery.created_at),
        "updated_at": _time(delivery.updated_at),
        "next_attempt_at": _time(delivery.due_at),
    }


def delivery_page_view(page: Page[Delivery, int]) -> dict[str, object]:
    """Return a ``DeliveryPageDocument``."""
    return _page_view("deliveries", page, delivery_view, encode_cursor)


def user_view(user: User) -> dict[str, object]:
    """Return a ``UserDocument``."""
    return {
        "id": user.id,
        "name": user.name,
        "role": user.role,
        "issuer": user.issuer,
        "disabled": user.disabled_at is not None,
        "created_at": _time(user.created_at),
    }


def user_page_view(page: Page[User, int]) -> dict[str, object]:
    """Return a ``UserPageDocument``."""
    return _page_view("users", page, user_view, encode_cursor)


def new_session_view(token: str, session: NewSession) -> dict[str, object]:
    """Return a ``NewSessionDocument``."""
    return {
        "token": token,
        "name": session.name,
        "role": session.role,
        "ends_at": _time(session.ends_at),
    }


def session_view(principal: Principal) -> dict[str, object]:
    """Return a ``SessionDocument``."""
    return {
        "name": principal.name,
        "role": principal.role,
        "scopes": sorted(principal.scopes),
    }


def key_view(key: ApiKey) -> dict[str, object]:
    """Return a ``KeyDocument``."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": _time(key.created_at),
        "created_by": key.created_by,
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
        "last_used_at": _time(key.last_used_at),
    }


def audit_page_view(page: Page[Recorded, int]) -> dict[str, object]:
    """Return an ``AuditPageDocument``."""
    return _page_view("acts", page, _recorded_view, encode_cursor)


def _recorded_view(recorded: Recorded) -> dict[str, object]:
    view = {field.name: getattr(recorded, field.name) for field in fields(recorded)}
    return view | {"at": _time(recorded.at)}


def change_view(change: Change) -> dict[str, object]:
    """Return the data of an event."""
    match change.kind:
        case EventKind.IMAGE:
            return {"id": change.id, "status": change.status}
        case EventKind.PERSON:
            return {"id": change.id, "name": change.name}
        case _:  # of a newer version
            return {"id": change.id}


def _page_view(
    name: str,
    page: Page[_Item, _Place],
    view: Callable[[_Item], object],
    encode: Callable[[_Place], str],
) -> dict[str, object]:
    cursor = None if page.last is None else encode(page.last)
    return {name: [view(item) for item in page.items], "next_cursor": cursor}


def kept_view(part: Any) -> dict[str, Any]:
    """Return a part of an ``ExportDocument``: a dataclass of ``domain/personal_data.py``."""
    view = {field.name: getattr(part, field.name) for field in fields(part)}
    return view | {name: _time(view[name]) for name in _TIMES & view.keys()}


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    moment = datetime.fromtimestamp(min(max(0, milliseconds), _LAST_MS) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
