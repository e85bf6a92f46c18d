"""The documents that clients send and get, as the OpenAPI document describes them.

Answers are written by views.py without passing through these models, which would cost more than
all the rest; a test holds the two together. What is written as it stands in the domain, such as a
face, has no model here: the domain's docstrings are read by clients.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    RootModel,
    WithJsonSchema,
)
from pydantic_core import core_schema

from services.common.clock import now_ms
from services.common.image_states import Status
from services.common.object_keys import (
    MAX_PART_BYTES,
    MAX_PATH_BYTES,
    MAX_PATH_LENGTH,
    PATH_PATTERN,
)
from services.common.person_names import MAX_NAME_LENGTH, NAME_PATTERN, check_name, check_who
from services.common.webhooks import DeliveryStatus, WebhookType
from services.receiver.domain.access import AccessScope, ActorKind, Role
from services.receiver.domain.acts import SubjectKind
from services.receiver.domain.cursors import LAST_ID
from services.receiver.domain.encoding import EncodingState
from services.receiver.domain.faces import LAST_INDEX, Face, FaceKey, ImageRegion, StruckOut
from services.receiver.domain.groups import Answer
from services.receiver.domain.keys import MAX_KEY_NAME_LENGTH, check_key_name
from services.receiver.domain.personal_data import KeptFace
from services.receiver.domain.search import FoundFace, PictureFace
from services.receiver.domain.submissions import MAX_BATCH, Submission, submission_of_path
from services.receiver.domain.users import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH

Path = Annotated[
    Submission,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.no_info_after_validator_function(
            submission_of_path, core_schema.str_schema(strict=True)
        )
    ),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_PATH_LENGTH,
            "pattern": PATH_PATTERN,
            "description": "Key below pictures/ in the object store; one leading slash is taken"
            f" away. It has at most {MAX_PATH_BYTES} bytes in UTF-8, each part between slashes at"
            f" most {MAX_PART_BYTES}.",
            "examples": ["unknown_people/unknown220.jpg"],
        }
    ),
]

PersonName = Annotated[
    str,
    AfterValidator(check_name),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_NAME_LENGTH,
            "pattern": NAME_PATTERN,
            "description": f"A person's name: at most {MAX_PART_BYTES} bytes in UTF-8, nothing that"
            " cannot be seen, no slash, no dot at the start. It is kept in Unicode's composed form,"
            " without spaces around it.",
            "examples": ["Grace Hopper"],
        }
    ),
]

Who = Annotated[
    str,
    AfterValidator(check_who),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_NAME_LENGTH,
            "pattern": NAME_PATTERN,
            "description": "A person's name, or ~ and an id: ~42 is whose id is 42. Several people"
            " may have a name; then it is refused with 409, which lists their ids.",
            "examples": ["Grace Hopper"],
        }
    ),
]


def _whole(number: object) -> object:
    """Return an integer for one that is written with a fraction, as JSON does not tell them."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


RowId = Annotated[int, Field(strict=True, ge=1, le=LAST_ID), BeforeValidator(_whole)]


class PathDocument(BaseModel):
    """One picture that is in the object store already."""

    path: Path


class PathsDocument(BaseModel):
    """Up to 1000 pictures that are in the object store already."""

    paths: Annotated[list[PathDocument], Field(min_length=1, max_length=MAX_BATCH)]


class AcceptedDocument(BaseModel):
    """A durable row; ``duplicate`` when this path or content was submitted before."""

    id: int
    path: str
    status: Status
    duplicate: bool
    location: str

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": 42,
                    "path": "unknown_people/unknown220.jpg",
                    "status": "pending",
                    "duplicate": False,
                    "location": "/images/42",
                }
            ]
        }
    )


class AcceptedListDocument(BaseModel):
    """Rows in the order of the request."""

    images: list[AcceptedDocument]


_Time = Annotated[
    str,
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2024-05-01T12:00:00.000Z"]}
    ),
]


class _FacesDocument(BaseModel):
    # What is measured of a face has a default, for those who read it; it always stands there.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class ImageDocument(_FacesDocument):
    """An image, where it stands, and its faces once it is processed; ``struck_out`` are none."""

    id: int
    path: str
    name: str
    status: Status
    attempt: int
    error: str | None
    created_at: _Time
    updated_at: _Time
    processed_at: _Time | None
    next_attempt_at: _Time | None
    width: int | None
    height: int | None
    engine: str | None
    faces: list[Face]
    struck_out: list[StruckOut]


class ImagePageDocument(BaseModel):
    """Images, newest first; ``next_cursor`` leads to the next page and is null on the last."""

    images: list[ImageDocument]
    next_cursor: str | None


class RegionsDocument(BaseModel):
    """The faces that a picture file says it shows, in its order."""

    regions: list[ImageRegion]


class CountsDocument(BaseModel):
    """Rows per status."""

    pending: int
    processing: int
    processed: int
    failed: int
    rejected: int
    dead: int


class EncodingDocument(BaseModel):
    """Giving stored faces an encoding of the engine in use, where they have none.

    ``engine`` is null until face_recog has said it, ``images_left`` while they are counted;
    ``images_skipped`` and ``faces_encoded`` are of this pass through all images, or the last.
    """

    state: EncodingState
    engine: str | None
    images_left: int | None
    images_skipped: int
    faces_encoded: int


class BackupDocument(BaseModel):
    """How the backups stand.

    ``last_good_seconds`` is the age of the last good one, null before the first. ``is_old`` when
    that is more than BACKUP_MAX_AGE_DAYS. ``error`` says why the last one failed that ended, to
    callers with the scope administer; to others that it failed.
    """

    last_good_seconds: float | None
    is_old: bool
    error: str | None


class StatusDocument(BaseModel):
    """The whole at a glance; all but problems is null while the database is away.

    So it is if counts are not asked for, and backup while there was never one.
    """

    images: CountsDocument | None
    oldest_pending_seconds: float | None
    encoding: EncodingDocument | None
    backup: BackupDocument | None
    problems: dict[str, str]


class KnownPictureDocument(BaseModel):
    """A known picture; ``image_name`` is its key below known_people/."""

    id: int
    image_name: str
    created_at: _Time


class FaceKeyDocument(BaseModel):
    """A face of an image."""

    image_id: int
    face_index: int


class PersonDocument(BaseModel):
    """Somebody who can be recognised; the id stays when the name changes.

    ``face`` stands for them: the one that somebody chose, else any; null without a face of theirs.
    """

    id: int
    name: str
    hidden: bool
    face: FaceKeyDocument | None
    pictures: list[KnownPictureDocument]


class MergeDocument(BaseModel):
    """Somebody who had that name was said to be this person."""

    id: int
    name: str
    created_at: _Time


class WholePersonDocument(PersonDocument):
    """Somebody who can be recognised, with whom they were said to be."""

    merges: list[MergeDocument]


class PeopleDocument(BaseModel):
    """People, by name; ``next_cursor`` leads to the next page and is null on the last."""

    people: list[PersonDocument]
    next_cursor: str | None


class EnrolledDocument(BaseModel):
    """A known picture that is stored."""

    person: str
    person_id: int
    id: int
    image_name: str


class FaceReferenceDocument(BaseModel):
    """A face of a submitted picture."""

    image_id: Annotated[RowId, Field(examples=[42])]
    face_index: Annotated[
        int, Field(strict=True, ge=0, le=LAST_INDEX, examples=[0]), BeforeValidator(_whole)
    ]


class SearchDocument(BaseModel):
    """Stored faces that are near to one, nearest first.

    ``faces`` are those of an uploaded picture, largest first, of which the ``searched`` one was
    looked for.
    """

    faces: list[PictureFace]
    searched: int | None
    found: list[FoundFace]


_Another = Annotated[
    bool, Field(strict=True, description="Somebody new, though others have the name.")
]


class EnrolmentDocument(FaceReferenceDocument):
    """A face of a submitted picture that is to be known."""

    another: _Another = False


class NamingDocument(BaseModel):
    """Who a face is."""

    name: Who
    another: _Another = False


class GroupNamingDocument(NamingDocument):
    """Who a group of unknown faces is, but for some that do not belong in it."""

    without: Annotated[
        list[FaceReferenceDocument],
        Field(alias="except", max_length=1000, description="Faces that do not belong in it."),
    ] = []


class AnswerDocument(BaseModel):
    """What a person says to a question: yes, no, or nothing for a day."""

    answer: Answer


_Pixel = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]


class BoxDocument(BaseModel):
    """Pixels of the upright picture (EXIF orientation applied), origin top left."""

    left: Annotated[_Pixel, Field(examples=[40])]
    top: Annotated[_Pixel, Field(examples=[30])]
    right: Annotated[_Pixel, Field(examples=[120])]
    bottom: Annotated[_Pixel, Field(examples=[130])]


class DrawingDocument(BaseModel):
    """Where a face is, in a box of 8 pixels or more on a side, and whose; null: not known."""

    box: BoxDocument
    name: Who | None = None
    another: _Another = False


class OtherDocument(BaseModel):
    """Somebody else."""

    name: Who


class ChangeDocument(BaseModel):
    """What is to be otherwise of a person; what is left out stays."""

    name: PersonName | None = None
    another: Annotated[
        bool, Field(strict=True, description="Also when somebody else has the name.")
    ] = False
    hidden: Annotated[
        bool | None,
        Field(strict=True, description="Left out where people are listed and suggested."),
    ] = None


class GroupDocument(BaseModel):
    """Unknown faces that are one person's, as far as a machine can tell: some of them."""

    id: int
    size: int
    faces: list[FaceKeyDocument]


class GroupPageDocument(BaseModel):
    """Groups, largest first; ``next_cursor`` leads to the next page and is null on the last."""

    groups: list[GroupDocument]
    next_cursor: str | None


class WholeGroupDocument(GroupDocument):
    """A group; ``next_cursor`` leads to more of its faces, and is null when there are none."""

    next_cursor: str | None


class NamedGroupDocument(BaseModel):
    """Who a group is, and how many faces got the name."""

    person: str
    person_id: int
    faces: int


class AskedPersonDocument(BaseModel):
    """Who a group may be, and the face that stands for them."""

    id: int
    name: str
    face: FaceKeyDocument | None


class QuestionDocument(BaseModel):
    """Whether a group, and another one or a person, are the same; of a higher one more likely."""

    id: int
    likeness: float
    group: GroupDocument
    other: GroupDocument | None
    person: AskedPersonDocument | None


class QuestionsDocument(BaseModel):
    """Questions that wait for a person, likeliest first."""

    questions: list[QuestionDocument]


class DeliveryDocument(BaseModel):
    """What an endpoint of webhooks is told; ``subject_id`` is the image's or person's id.

    ``next_attempt_at`` is null when it is delivered or given up.
    """

    id: int
    message_id: str
    endpoint: str
    type: WebhookType
    subject_id: int
    status: DeliveryStatus
    attempt: int
    error: str | None
    created_at: _Time
    updated_at: _Time
    next_attempt_at: _Time | None


class DeliveryPageDocument(BaseModel):
    """Deliveries, newest first; ``next_cursor`` leads to the next page, null on the last."""

    deliveries: list[DeliveryDocument]
    next_cursor: str | None


_Password = Annotated[
    str,
    Field(
        min_length=MIN_PASSWORD_LENGTH,
        max_length=MAX_PASSWORD_LENGTH,
        description="Any characters; nothing but its hash is kept.",
        examples=["correct horse battery staple"],
    ),
]


class UserDocument(BaseModel):
    """Somebody who may log in, unless disabled: with a password, or with the issuer of OIDC."""

    id: int
    name: str
    role: Role
    issuer: str | None
    disabled: bool
    created_at: _Time


class UserPageDocument(BaseModel):
    """Users, oldest first; ``next_cursor`` leads to the next page and is null on the last."""

    users: list[UserDocument]
    next_cursor: str | None


class NewUserDocument(BaseModel):
    """Somebody who may log in with a password."""

    name: PersonName
    role: Role
    password: _Password


class UserChangeDocument(BaseModel):
    """What is to be otherwise of a user; what is left out stays."""

    role: Role | None = None
    password: _Password | None = None
    disabled: Annotated[
        bool | None, Field(strict=True, description="Cannot log in; the name stays taken.")
    ] = None


class PasswordLogInDocument(BaseModel):
    """A name and a password that somebody has typed."""

    name: Annotated[str, Field(max_length=MAX_PASSWORD_LENGTH)]
    password: Annotated[str, Field(max_length=MAX_PASSWORD_LENGTH)]


class IdentityLogInDocument(BaseModel):
    """Whom an OpenID Connect provider vouches for, by an ID token that the frontend verified."""

    issuer: Annotated[str, Field(min_length=1, max_length=250)]
    subject: Annotated[str, Field(min_length=1, max_length=250)]
    name: Annotated[str, Field(max_length=1000)]
    groups: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=1000)]


class LogInDocument(RootModel[PasswordLogInDocument | IdentityLogInDocument]):
    """Either of the ways to log in."""


class NewSessionDocument(BaseModel):
    """A session that has begun; the token is the proof of it, and shown this once."""

    token: str
    name: str
    role: Role
    ends_at: _Time


class SessionDocument(BaseModel):
    """Who acts, and what they may do; the role is null of who has not logged in."""

    name: str
    role: Role | None
    scopes: list[AccessScope]


class KeyDocument(BaseModel):
    """A program's key, of which nobody keeps the secret. ``last_used_at`` is right to a minute."""

    id: str
    name: str
    scopes: list[AccessScope]
    created_at: _Time
    created_by: str
    expires_at: _Time | None
    revoked_at: _Time | None
    last_used_at: _Time | None


class KeysDocument(BaseModel):
    """Keys: first those that are not revoked, each part newest first."""

    keys: list[KeyDocument]


class MadeKeyDocument(KeyDocument):
    """A key that was made, and what its program is to send: Authorization: Bearer and it."""

    key: str


_TIME_WITH_OFFSET: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _in_future(text: str) -> int:
    """Return a time to come in milliseconds, or raise ``ValueError``."""
    if not _TIME_WITH_OFFSET.fullmatch(text):
        raise ValueError("write a date, a time and its offset, such as 2030-05-01T12:00:00Z")
    moment = datetime.fromisoformat(text.upper())
    milliseconds = int((moment - _EPOCH).total_seconds() * 1000)
    if milliseconds <= now_ms():
        raise ValueError(f"{text} is over")
    return milliseconds


class WantedKeyDocument(BaseModel):
    """A key that is to be made; without ``expires_at`` it is valid until it is revoked."""

    name: Annotated[
        str,
        AfterValidator(check_key_name),
        WithJsonSchema(
            {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_KEY_NAME_LENGTH,
                "description": "Which program or installation has it; characters that can be seen.",
                "examples": ["camera at the gate"],
            }
        ),
    ]
    scopes: Annotated[list[AccessScope], Field(min_length=1, examples=[["submit", "read"]])]
    expires_at: (
        Annotated[
            int,
            GetPydanticSchema(
                lambda _source, _handler: core_schema.no_info_after_validator_function(
                    _in_future, core_schema.str_schema(strict=True)
                )
            ),
            WithJsonSchema(
                {
                    "type": "string",
                    "format": "date-time",
                    "description": "In the future, with its offset from UTC.",
                    "examples": ["2099-05-01T12:00:00Z"],
                }
            ),
        ]
        | None
    ) = None


class ActDocument(BaseModel):
    """Who did what, and where from: an act is the id of an operation of this document.

    ``who`` is the name of a key or a user, and ``actor_id`` its id. ``subject_id`` is the id of
    what it is about, if that is one thing. ``status`` is null for what was done, else the one that
    it was refused with. ``times``: how many alike this stands for, of submissions how many
    pictures.
    """

    id: int
    at: _Time
    kind: ActorKind
    who: str
    actor_id: str | None
    address: str
    action: str
    subject_kind: SubjectKind | None
    subject_id: str | None
    status: int | None
    times: int


class AuditPageDocument(BaseModel):
    """Who did what, newest first; ``next_cursor`` leads to the next page, null on the last."""

    acts: list[ActDocument]
    next_cursor: str | None


class EraseDocument(BaseModel):
    """What is to be forgotten with a person."""

    pictures: Annotated[
        bool,
        Field(
            strict=True,
            description="Also the pictures in which they are, whoever else these show. Without"
            " that, pictures stay as they are.",
        ),
    ]


class KeptPersonDocument(BaseModel):
    """Who it is; null is what was never chosen, and all but the name without a row."""

    id: int | None
    name: str
    hidden: bool
    created_at: _Time | None
    face: FaceKey | None


class KeptKnownDocument(BaseModel):
    """A known picture, and the face it was cut out of; without an id, a file put by hand."""

    id: int | None
    image_name: str
    created_at: _Time | None
    face: FaceKey | None
    address: str | None


class KeptPictureDocument(_FacesDocument):
    """A picture, and the faces of theirs that it shows."""

    id: int
    path: str
    name: str
    created_at: _Time
    processed_at: _Time | None
    width: int | None
    height: int | None
    faces: list[KeptFace]
    address: str


class KeptDenialDocument(BaseModel):
    """A face of which a person has said that it is not theirs."""

    image_id: int
    face_index: int
    created_at: _Time


class KeptMergeDocument(BaseModel):
    """Somebody who was said to be the same person."""

    id: int
    name: str
    created_at: _Time


class ExportDocument(BaseModel):
    """What is kept about a person; addresses are those of the files."""

    person: KeptPersonDocument
    known_pictures: list[KeptKnownDocument]
    pictures: list[KeptPictureDocument]
    denials: list[KeptDenialDocument]
    merges: list[KeptMergeDocument]


class FaultDocument(BaseModel):
    """One wrong part of the request and where it stands."""

    pointer: str
    detail: str


class ProblemDocument(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FaultDocument] = []

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no image 42",
                }
            ]
        }
    )
