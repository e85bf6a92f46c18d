"""What several routes take in their addresses."""

from typing import Annotated, Any, Final

from fastapi import Header, Path, Query
from pydantic import WithJsonSchema
from starlette.convertors import IntegerConvertor, register_url_convertor

from services.receiver.adapters.http import documents
from services.receiver.domain.cursors import CURSOR, LAST_ID
from services.receiver.domain.faces import LAST_INDEX

ON_A_PAGE: Final = 50
"""Entries on a page, if nothing is said."""


class _IdConvertor(IntegerConvertor):
    """Digits, fewer than those of which Python makes no number; more are nobody's id."""

    regex = "[0-9]{1,100}"


register_url_convertor("id", _IdConvertor())


def row_id(what: str) -> Any:
    """Return what an address says of the id of something."""
    return Path(ge=1, le=LAST_ID, description=f"{what}'s id.", examples=[1])


ImageId = Annotated[int, row_id("An image")]
PictureId = Annotated[int, row_id("A known picture")]
GroupId = Annotated[int, row_id("A group")]
QuestionId = Annotated[int, row_id("A question")]
FaceIndex = Annotated[
    int, Path(ge=0, le=LAST_INDEX, description="A face's index in the image.", examples=[0])
]
Name = Annotated[documents.Who, Path()]
OfPerson = Annotated[documents.Who | None, Query(description="Only with a face of this person.")]
Insist = Annotated[
    bool, Query(description="Also when the face is of low quality, or looks like somebody else.")
]
Another = Annotated[bool, Query(description="Somebody new, though others have the name.")]
Cursor = Annotated[str, WithJsonSchema({"type": "string", "pattern": CURSOR})]
IfNoneMatch = Annotated[
    str | None, Header(description="ETag of an earlier answer: 304 if the file is still that one.")
]
