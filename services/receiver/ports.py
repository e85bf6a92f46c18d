"""What the use cases need from the outside.

What asks the database raises ``DatabaseUnavailableError`` when that is away.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from services.common.events import Position
from services.common.faces import Box, SeenFace
from services.common.object_info import ObjectInfo
from services.common.stored_pictures import Removal, StoredPicture
from services.common.strangers import PairsOfStrangers
from services.receiver.domain.access import Role
from services.receiver.domain.acts import ActOnPaths, Record
from services.receiver.domain.changes import Changes
from services.receiver.domain.cursors import Page, Pair, PersonKey
from services.receiver.domain.erasing import Erased, Erasure, Stage
from services.receiver.domain.faces import EncodedFace, FaceKey, FaceOfResult, ImageRegion
from services.receiver.domain.groups import Answer, Group, Member, Question
from services.receiver.domain.images import Image, StatusReport
from services.receiver.domain.keys import ApiKey, SecretKey, ValidKey, WantedKey
from services.receiver.domain.merges import Copy, Merge, Merged
from services.receiver.domain.objects import StoredFace
from services.receiver.domain.people import (
    KnownPicture,
    NewKnownPicture,
    Person,
    Somebody,
)
from services.receiver.domain.personal_data import (
    KeptDenial,
    KeptKnown,
    KeptPerson,
    KeptPicture,
)
from services.receiver.domain.search import DetectedFaces, FaceNow
from services.receiver.domain.submissions import Accepted, Submission, Upload
from services.receiver.domain.users import (
    Identity,
    NewSession,
    StoredPassword,
    User,
    UserChange,
    ValidSession,
)


class KeyFile(Protocol):
    """A key that lies in a file."""

    def __call__(self) -> Sequence[bytes]:
        """Return the key, and the one before it while that is being replaced."""


class PasswordHasher(Protocol):
    """Makes of passwords what may be stored, and checks them, slowly on purpose.

    Raises ``BusyError`` when too many wait for that.
    """

    async def hash(self, password: str) -> str:
        """Return what is stored of a password."""

    async def verify(self, stored: str | None, password: str) -> bool:
        """Tell whether it is the password; without one that is stored, no, after as much work."""

    def is_outdated(self, stored: str) -> bool:
        """Tell whether a new hash of the same password would be harder to guess."""


class UserRows(Protocol):
    """Users in the database.

    ``keep_administrator``: raise ``ConflictError`` where no administrator would be left who may log
    in.
    """

    async def page(self, *, after: int | None, limit: int) -> Page[User, int]:
        """Return users, in the order in which they were made."""

    async def add(self, name: str, role: Role, password_hash: str) -> User:
        """Add a user; raises ``ConflictError`` when somebody has the name."""

    async def change(self, user_id: int, change: UserChange, *, keep_administrator: bool) -> User:
        """Change a user, whose sessions end with that.

        Raises ``NotFoundError``, and ``ConflictError`` for what the provider says of a user.
        """

    async def delete(self, user_id: int, *, keep_administrator: bool) -> None:
        """Remove a user with all sessions; raises ``NotFoundError``."""

    async def password(self, name: str) -> StoredPassword | None:
        """Return the password of who has the name, has one, and is not disabled."""


class SessionRows(Protocol):
    """Sessions in the database, by the SHA-256 of their tokens."""

    async def begin(
        self, session_id: str, password: StoredPassword, new_hash: str | None
    ) -> NewSession | None:
        """Begin a session of a user, whose password is stored anew if a new hash is given.

        None when that is not the user's password any more, or the user is disabled.
        """

    async def begin_for(self, session_id: str, identity: Identity, role: Role) -> NewSession | None:
        """Begin a session of whom a provider vouches for, who is added when they are not there.

        Another role than before ends their other sessions. None when they are disabled.
        """

    async def valid(self, session_ids: Collection[str]) -> Mapping[str, ValidSession]:
        """Return those that are valid now, with the roles that their users have now."""

    async def touch(self, session_id: str) -> None:
        """Write down that it is being used."""

    async def end(self, session_id: str) -> None:
        """End a session."""

    async def forget_ended(self) -> int:
        """Remove some that have ended; return how many."""


class AttemptRows(Protocol):
    """Wrong passwords in the database, by the address and the name that they came with."""

    async def begin(self, address: str, name: str) -> int:
        """Count an attempt as wrong before it is made, so that many at once are counted, too.

        Returns for how many ms it is refused; then it is not counted.
        """

    async def right(self, address: str, name: str) -> None:
        """Forget that attempt and the wrong ones before it of the name from there."""

    async def not_made(self, address: str, name: str) -> None:
        """Forget that attempt alone."""

    async def forget_old(self) -> int:
        """Remove some that are older than a day; return how many."""


class ApiKeys(Protocol):
    """Keys of programs."""

    async def valid(self, ids: Collection[str]) -> Mapping[str, ValidKey]:
        """Return those of these ids that are there, not revoked and not over."""

    async def note_use(self, key_id: str) -> None:
        """Note that it is in use now, unless that was noted within a minute."""

    async def all(self) -> Sequence[ApiKey]:
        """Return up to 1,000, those first that are not revoked, each part newest first."""

    async def add(self, secret: SecretKey, wanted: WantedKey, *, by: str) -> ApiKey:
        """Add a key; ``ConflictError`` while another one of its name is valid."""

    async def add_like(self, secret: SecretKey, key_id: str, *, by: str) -> ApiKey:
        """Add a second one with the name and scopes of another, and valid for as long.

        Raises ``NotFoundError`` without a valid one, ``ConflictError`` when there are two already.
        """

    async def revoke(self, key_id: str) -> None:
        """End a key, or raise ``NotFoundError`` when there is none that was not revoked."""


class AuditRows(Protocol):
    """The audit in the database."""

    async def add(self, records: Sequence[Record]) -> None:
        """Add rows, in a transaction of their own."""


class Garbage(Protocol):
    """The objects that the redeemer removes unless a row names them."""

    async def expect(self, key: str) -> None:
        """Note that an object is about to be stored: without a row it goes after a while.

        Whoever stores the row takes the note away, and stores nothing when it is gone: then the
        redeemer may be removing the object.
        """

    async def discard(self, key: str) -> None:
        """Have an object removed that no row names, soon and once more an hour later."""


class ImageRows(Protocol):
    """Images in the database."""

    async def add(
        self,
        submissions: Sequence[Submission],
        acts: Sequence[ActOnPaths] = (),
    ) -> dict[str, Accepted]:
        """Insert the paths that are not there yet, in one transaction; return all by path.

        The paths are distinct. What was rejected or dead goes back to pending. Nothing is stored
        when it raises. The transaction records the ``acts`` of the requests that it is for, each
        with what was submitted.
        """

    async def add_uploads(self, uploads: Sequence[Upload]) -> list[Accepted] | None:
        """Insert a row for each content that has none, in one transaction; return all in order.

        The objects were expected before they were stored; those that get no row are removed. None,
        and nothing is stored, when that took too long. What was rejected or dead goes back to
        pending.
        """

    async def replace_object(self, accepted: Accepted, upload: Upload) -> Accepted | None:
        """Name an upload's object in the row of this content, whose own is lost; return the row.

        A row that is gone, or names another object by now, stays as it is. None, and nothing is
        stored, when storing took too long.
        """

    async def get(self, image_id: int) -> Image | None:
        """Return an image with its faces."""

    async def stored(self, image_id: int) -> StoredPicture | None:
        """Return where an image's picture is."""

    async def stored_face(self, image_id: int, index: int) -> StoredFace | None:
        """Return where a face is; None of one that was struck out."""

    async def page(
        self, *, status: str | None, person: Somebody | None, before: int | None, limit: int
    ) -> Page[Image, int]:
        """Return the newest images with an id below ``before``."""

    async def retry(self, image_id: int) -> bool:
        """Set a rejected or dead image back to pending; False when it is neither."""

    async def look_again(self, image_id: int, tag: str) -> bool:
        """Set a processed image back to pending, without its faces.

        False when its result is not about the picture with this tag, any more.
        """

    async def recognise(self, image_id: int) -> bool:
        """Set a final image back to pending, without its faces.

        False when it is not final, or has a face of which somebody has said by hand who it is, or
        who it is not, or which somebody has drawn or struck out.
        """

    async def delete(self, image_id: int, path: str, removal: Removal | None) -> bool:
        """Remove an image with its faces, and have its object and all thumbnails removed.

        False when the image is gone, or its picture is not at this path any more.
        """

    async def status(self, person: Somebody | None = None) -> StatusReport:
        """Count rows by status, of a person only those with a face of this person."""


class People(Protocol):
    """People in the database."""

    async def all(self) -> tuple[Person, ...]:
        """Return everybody who is not hidden, by name."""

    async def page(
        self,
        *,
        who: str | None,
        part: str | None,
        hidden: bool,
        after: PersonKey | None,
        limit: int,
    ) -> Page[Person, PersonKey]:
        """Return the first people by name, behind ``after``, who are hidden, or who are not.

        Only those whom ``who`` may mean, and only those with ``part`` in their names, in capital or
        small letters. Whoever comes and goes between two pages moves nobody else to another.
        """

    async def get(self, person_id: int) -> Person | None:
        """Return one person."""

    async def who(
        self, who: str, *, another: bool = False, others: Collection[str] = ()
    ) -> Somebody:
        """Return who is meant by a name or ``~id``; with ``another``, somebody new of the name.

        The folder of somebody new is one below ``known_people/`` of nobody else, and none of the
        ``others``: the name, unless somebody has it. Raises ``NotFoundError`` when nobody has the
        id, ``ConflictError`` when several people have the name.
        """

    async def of_folder(self, folder: str) -> Somebody:
        """Return the person whose known pictures lie there; without a row, who is called so."""

    async def bearer(self, name: str) -> int | None:
        """Return the id of whom a face is that has only this name."""

    async def rename(
        self, person_id: int, new: str, *, another: bool = False, beside: bool = False
    ) -> bool:
        """Give a person another name; False when nobody has the id.

        Everything of theirs stays where it is. Raises ``ConflictError`` when somebody else has the
        name, unless it is to be ``another`` of the name; ``beside`` as in ``Somebody``.
        """

    async def hide(self, person_id: int, *, hidden: bool) -> bool:
        """Hide a person, or hide them no more; False when nobody has the id."""

    async def choose_face(self, person_id: int, face: FaceKey | None) -> bool:
        """Have a face of a person's stand for them, or none; False when nobody has the id.

        Raises ``NotFoundError`` when there is no such face, ``ConflictError`` if it is not theirs.
        """

    async def delete(self, person: Somebody, found: Sequence[ObjectInfo]) -> int:
        """Remove a person and all known pictures, and have their objects and thumbnails removed.

        What was ``found`` in their folder beside them goes too, unless it is being enrolled. No
        face has the name any more. Returns how many rows and objects that are, without objects that
        were to be removed already. Raises ``ConflictError`` as :meth:`KnownPictures.add` does.
        """


class KnownPictures(Protocol):
    """Known pictures in the database, and what is said by hand of whose a face is."""

    async def find(self, content_digest: str) -> KnownPicture | None:
        """Return the known picture with this content, whose ever it is."""

    async def picture(self, picture_id: int) -> KnownPicture | None:
        """Return a known picture."""

    async def add(self, picture: NewKnownPicture, face: FaceOfResult | None) -> KnownPicture | None:
        """Make content a known picture of a person, who is created when missing.

        ``face`` gets the person's name in the same transaction; what a hand had named it before
        goes, with the known picture that was cut out of it. The object was expected before it was
        stored; it is removed when its content is known already. Then that picture is returned,
        which may be somebody else's. None, and nothing is stored, when storing took too long.
        Raises ``ConflictError`` when it is not who was meant any more.
        """

    async def replace_object(
        self, known: KnownPicture, picture: NewKnownPicture
    ) -> KnownPicture | None:
        """Name a new object in the row of a known picture, whose own is lost.

        As :meth:`ImageRows.replace_object` does.
        """

    async def delete_picture(self, picture_id: int) -> None:
        """Remove a known picture, and have its object and its thumbnail removed.

        The face that it was cut out of loses the name that it got so.
        """

    async def unname(self, key: FaceKey, digests: Sequence[str]) -> bool:
        """Take back what a hand named a face; False when there is no such face.

        The known picture that was cut out of it goes; where nobody noted that, the one of its
        person with such a content.
        """

    async def deny(
        self,
        key: FaceKey,
        person: Somebody,
        *,
        is_known: bool,
        digests: Sequence[str] | None = None,
    ) -> bool:
        """Write down that a face is not this person's; False when there is no such face or person.

        It loses the name if the machine gave it, and with ``digests`` also if a hand did, as
        :meth:`unname` says. ``is_known``: pictures of theirs are in the store, though there may be
        no row. Raises ``ConflictError`` as :meth:`add` does, and without ``digests`` when a hand
        gave it the name.
        """

    async def allow(self, key: FaceKey, person: Somebody) -> bool:
        """Take a denial back, if there is one; False when there is no such face."""


class GroupRows(Protocol):
    """Groups of unknown faces, which the service people makes, and the questions that they raise.

    Of a group whose faces are in another by now, that one is meant. A question is whether a group,
    and another one or a person, are the same.
    """

    async def page(self, *, after: Pair | None, limit: int) -> Page[Group, Pair]:
        """Return the largest groups behind a place, each with its first faces."""

    async def group(self, group_id: int, *, after: Pair | None, limit: int) -> Group | None:
        """Return a group with its faces behind a place; None without any face."""

    async def members(self, group_id: int, person_id: int | None) -> Sequence[Member]:
        """Return the faces of a group, but for those who are not this person as a hand has said."""

    async def is_unknown(self, member: Member, person_id: int | None) -> bool:
        """Tell whether a face still is one of that result, has no name, and may be this person."""

    async def strike(self, group_id: int, keys: Collection[FaceKey]) -> int:
        """Write down that faces do not belong in a group; return how many were in it."""

    async def name(self, members: Sequence[Member], person_id: int) -> int:
        """Name by hand those faces that are still unknown, and return how many.

        Raises ``ConflictError`` when the person is gone.
        """

    async def allow(self, group_id: int, person_id: int) -> None:
        """Take back that a group is not this person; what was said of a face alone stays said."""

    async def make_another(self, group_id: int, person: Somebody) -> int | None:
        """Make somebody new for a group, and return the id; None without an unknown face.

        Until :meth:`end_another` it is the same one when it is asked for again.
        """

    async def end_another(self, person_id: int, *, goes_on: bool) -> None:
        """Forget that somebody was made for a group, unless that goes on when asked for again.

        Without any face or picture they are forgotten themselves.
        """

    async def questions(self, limit: int) -> Sequence[Question]:
        """Return questions that wait for a person, the most alike first."""

    async def question(self, question_id: int) -> Question | None:
        """Return a question; None when it is gone, or its yes is being done.

        It is gone, too, when all faces of a group have a name by now.
        """

    async def answer(self, question_id: int, answer: Answer | None) -> None:
        """Write down what a person says, None for nothing yet, in place of what was said before.

        With no, each face that is in the groups now is denied the person, or the other group.
        Raises ``NotFoundError`` when nobody asks any more.
        """

    async def settle(self, question_id: int) -> None:
        """Forget a question that is answered for good, unless somebody has just answered it."""


class Faces(Protocol):
    """Faces that a person draws or strikes out."""

    async def draw(
        self,
        image_id: int,
        processed_at: int | None,
        box: Box,
        face: EncodedFace,
        person: Somebody | None,
    ) -> int:
        """Add a face to the result of that time and return its index.

        By hand it is that person, else who the machine says, as far as no hand says otherwise.
        Raises ``ConflictError`` when another result is there, or a face where it is, or no room,
        or the person is somebody else by now.
        """

    async def strike_out(self, key: FaceKey) -> bool:
        """Take a face away, whose place stays; False when there is none.

        Raises ``ConflictError`` when a hand has named it.
        """

    async def restore(self, face: FaceOfResult, seen: EncodedFace) -> None:
        """Have a face that was struck out back, as :meth:`draw` does.

        Raises ``ConflictError`` when it is not struck out any more.
        """


class Merges(Protocol):
    """People who were said to be one, in the database.

    Copies were expected before they were stored; those that get no row are removed, and so are the
    originals of the others. Known pictures that lack a copy are returned, and nothing is stored;
    None, and nothing is stored, when storing took too long.
    """

    async def merge(
        self, kept: Somebody, gone: Somebody, copies: Sequence[Copy]
    ) -> Sequence[str] | None:
        """Make all that is one person's another's, in one transaction but for very many faces.

        Raises ``ConflictError`` when they are not who was meant any more.
        """

    async def find(self, person_id: int, merge_id: int) -> Merged | None:
        """Return who was said to be this person."""

    async def undo(
        self, kept: Somebody, merge_id: int, folder: str, copies: Sequence[Copy]
    ) -> Sequence[str] | None:
        """Make somebody anew, with the id of before, of what was theirs and is still so.

        Very many faces come by :meth:`undo_more`. Raises ``NotFoundError`` when there is no such
        merge any more, ``ConflictError`` as :meth:`merge`, and when somebody has the folder.
        """

    async def undo_more(self, person_id: int, merge_id: int) -> bool:
        """Go on with a merge that is being taken back; False when all of it is."""


class Events(Protocol):
    """What has changed."""

    async def latest(self) -> Position:
        """Return the position before whatever is not committed yet."""

    async def lost(self, position: Position) -> bool:
        """Tell whether changes after the position may be forgotten already."""

    async def after(self, position: Position) -> Changes:
        """Return the next changes after the position."""


class Pictures(Protocol):
    """The object store; raises as :class:`services.common.objects.ObjectStore` does."""

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        """Return an object's content and its tag."""

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object."""

    async def exists(self, key: str) -> bool:
        """Tell whether an object has this key."""

    async def tag(self, key: str) -> str | None:
        """Return an object's tag, which changes with it; None when there is none."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix, which ends in ``/``."""


class RegionFiles(Protocol):
    """The faces that picture files say they show; raises ``ConflictError`` for damaged ones."""

    async def read(self, content: bytes, sidecar: bytes | None) -> list[ImageRegion]:
        """Return those of a picture file, or of a sidecar of it: ``InvalidError`` if damaged."""

    async def write(self, content: bytes, faces: Sequence[tuple[str, Box]]) -> bytes:
        """Return a sidecar of a picture file, with faces by their names."""


class FaceChecker(Protocol):
    """Finds faces in a picture."""

    async def faces(
        self, content: bytes, *, person: str, image_id: int | None
    ) -> Sequence[SeenFace]:
        """Return the faces that the picture shows, each held against a person, by their folder.

        Raises ``InvalidError`` when it cannot be read, ``RecogniserError`` when there is no answer.
        """


class FaceEncoder(Protocol):
    """Looks at a face where a person says that one is."""

    async def face_in(self, content: bytes, box: Box, *, person: str, image_id: int) -> EncodedFace:
        """Return what is in a box of the picture, as if it were a face, whether it is one or not.

        Raises as :class:`FaceChecker` does, and ``InvalidError`` for a box beyond the picture.
        """


class Cropper(Protocol):
    """Cuts a face out of a picture."""

    async def crop(self, content: bytes, box: Box, margins: Sequence[float]) -> Sequence[bytes]:
        """Return JPEGs of the box of the upright picture and each margin of its size around it.

        Raises ``InvalidError`` when the picture cannot be read.
        """


class Shrinker(Protocol):
    """Makes pictures smaller."""

    async def shrink(self, content: bytes, longest_side: int) -> bytes:
        """Return an upright JPEG without metadata, no side longer than that in pixels.

        Raises ``InvalidError`` when the picture cannot be read, ``BusyError`` without memory.
        """

    async def shrink_face(self, content: bytes, box: Box, side: int) -> bytes:
        """Return such a JPEG of the square around a box, with so many pixels a side at most.

        It has a quarter of the box's size around it, as far as the picture reaches.
        """


class Erasures(Protocol):
    """People who are being forgotten.

    A call that is given an :class:`Erasure` is one transaction, and raises ``ClaimLostError``.
    """

    async def begin(
        self, person: Somebody, files: Sequence[ObjectInfo], *, pictures: bool
    ) -> Erased | None:
        """Have a person forgotten, who has no name from now on; None when nothing is theirs.

        ``files`` lie in their folder.
        """

    async def claim(self) -> Erasure | None:
        """Take up who has been due longest; None when nobody is."""

    async def give_back(self, erasure: Erasure, due_in: int, stage: Stage | None = None) -> None:
        """Let anybody go on in so many ms, in the stage if one is named."""

    async def images(self, erasure: Erasure) -> Sequence[int]:
        """Return some images with a face of theirs."""

    async def strike_out(self, erasure: Erasure) -> bool:
        """Forget some faces of theirs, which keep their places; False when there was none."""

    async def remove_known(self, erasure: Erasure, files: Sequence[ObjectInfo]) -> None:
        """Have these known pictures of theirs removed, with and without a row."""

    async def remove_lost(self, erasure: Erasure) -> bool:
        """Remove some known pictures of which there is no file; False when there was none."""

    async def remove_denials(self, erasure: Erasure) -> bool:
        """Forget of some faces that they are not theirs; False when there was none."""

    async def remove_questions(self, erasure: Erasure) -> Erasure | None:
        """Leave them out where some more faces ask whether they are theirs; None: nowhere more."""

    async def is_leaving(self, erasure: Erasure) -> bool:
        """Tell whether a known picture of theirs is still to be removed."""

    async def move(self, erasure: Erasure) -> bool:
        """Give some faces to whom they were said to be; False when there are no more."""

    async def end(self, erasure: Erasure) -> bool:
        """Forget the person, and have faces that were not told from theirs decided again.

        False when they are not forgotten yet: faces of theirs were left, of which some lose the
        name.
        """


class PersonalData(Protocol):
    """What is kept about a person.

    Lists are read in parts, so that none is in memory as a whole.
    """

    async def person(self, person: Somebody) -> KeptPerson:
        """Return the person."""

    def known(self, person: Somebody) -> AsyncIterator[KeptKnown]:
        """Yield known pictures with a row."""

    def pictures(self, person: Somebody) -> AsyncIterator[KeptPicture]:
        """Yield pictures with a face of theirs."""

    def denials(self, person: Somebody) -> AsyncIterator[KeptDenial]:
        """Yield what a person has said is not theirs."""

    def merges(self, person: Somebody) -> AsyncIterator[Merge]:
        """Yield who was said to be them."""


class FaceDetector(Protocol):
    """face_recog; raises ``RecogniserError``."""

    async def detect(self, content: bytes) -> DetectedFaces:
        """Return a picture's faces, or raise ``InvalidError`` when it cannot be read."""

    async def strangers(self) -> tuple[str, PairsOfStrangers]:
        """Return the engine in use, and how alike strangers are to it."""


class NearestFaces(Protocol):
    """All stored faces; raises ``StoredFacesError``."""

    async def find(
        self, engine: str, encoding: bytes, limit: int
    ) -> Sequence[tuple[FaceKey, float]]:
        """Return so many faces at most, those nearest to an encoding, with their distances."""


class SearchableFaces(Protocol):
    """Faces in the database that are looked for, or found."""

    async def encoding(self, key: FaceKey, engine: str) -> tuple[bool, bytes | None]:
        """Tell whether there is such a face, and return its encoding by an engine."""

    async def faces(self, keys: Sequence[FaceKey]) -> Mapping[FaceKey, FaceNow]:
        """Return those that are there, and that nobody has struck out."""
