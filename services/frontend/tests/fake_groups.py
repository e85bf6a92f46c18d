"""Groups and questions as the receiver describes them."""

from typing import Any

import httpx

from services.frontend.tests.fake_receiver import FakeReceiver


def key_json(image_id: int, face_index: int = 0) -> dict[str, int]:
    """A face of a picture."""
    return {"image_id": image_id, "face_index": face_index}


def group_json(group_id: int, *pictures: int, size: int = 0, **values: Any) -> dict[str, Any]:
    """A group with the first faces of pictures, and more of them up to ``size``."""
    faces = [key_json(picture) for picture in pictures]
    return {"id": group_id, "size": size or len(faces), "faces": faces, **values}


def question_json(
    question_id: int,
    group: dict[str, Any],
    *,
    other: dict[str, Any] | None = None,
    person: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A question whether a group and another one, or a person, are the same."""
    return {"id": question_id, "likeness": 0.5, "group": group, "other": other, "person": person}


def show(
    receiver: FakeReceiver,
    *groups: dict[str, Any],
    questions: list[dict[str, Any]] | None = None,
    next_cursor: str | None = None,
) -> None:
    """Let the receiver have these groups and questions."""
    page = {"groups": list(groups), "next_cursor": next_cursor}
    asked = {"questions": questions or []}
    receiver.answers |= {
        "GET /groups": httpx.Response(200, json=page),
        "GET /questions": httpx.Response(200, json=asked),
        **{
            f"GET /groups/{group['id']}": httpx.Response(200, json={"next_cursor": None, **group})
            for group in groups
        },
    }
