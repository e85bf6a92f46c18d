"""What several routes take in their addresses."""

from typing import Annotated, Final

from fastapi import Header, Path, Query
from pydantic import WithJsonSchema

from services.receiver.adapters.http import documents
from services.receiver.domain import CURSOR

ON_A_PAGE: Final = 50
"""Entries on a page, if nothing is said."""

ImageId = Annotated[int, Path(ge=1, le=2**63 - 1, description="An image's id.", examples=[1])]
PictureId = Annotated[
    int, Path(ge=1, le=2**63 - 1, description="A known picture's id.", examples=[1])
]
GroupId = Annotated[int, Path(ge=1, le=2**63 - 1, description="A group's id.", examples=[1])]
QuestionId = Annotated[int, Path(ge=1, le=2**63 - 1, description="A question's id.", examples=[1])]
FaceIndex = Annotated[
    int, Path(ge=0, le=10_000, description="A face's index in the image.", examples=[0])
]
Name = Annotated[documents.Who, Path()]
Insist = Annotated[
    bool, Query(description="Also when the face is of low quality, or looks like somebody else.")
]
Another = Annotated[bool, Query(description="Somebody new, though others have the name.")]
Cursor = Annotated[str, WithJsonSchema({"type": "string", "pattern": CURSOR})]
IfNoneMatch = Annotated[
    str | None, Header(description="ETag of an earlier answer: 304 if the file is still that one.")
]
