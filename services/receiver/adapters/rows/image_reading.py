"""Images with their faces as the rows have them, without people who are being forgotten."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

import sqlalchemy as sa

from services.common.database import Database
from services.common.faces import DecidedBy
from services.common.images import folder_of
from services.common.names import known_name
from services.common.people import BY_HAND, WHOSE, WHOSE_ID, box_in, measured_in, whose_pictures
from services.common.tables import erasures, face_denials, faces, images, persons, same_face
from services.receiver.domain.erasing import Stage
from services.receiver.domain.faces import Candidate, Face, StruckOut
from services.receiver.domain.images import Image
from services.receiver.domain.people import Somebody

_OF_ROW: Final = [field.name for field in fields(Image) if field.name in images.c]
"""What an image has as its row does."""


async def load_images(database: Database, ids: Sequence[int]) -> list[Image]:
    """Return the images that still exist, newest first.

    Images and faces come by one statement, so that nobody sees an image of before a change with
    faces of after it.
    """
    if not ids:
        return []
    denied = persons.alias()
    query = (
        sa.select(
            images,
            faces,
            BY_HAND.label("by_hand"),
            WHOSE.label("whose"),
            WHOSE_ID.label("whose_id"),
            denied.c.name.label("denied"),
            denied.c.id.label("denied_id"),
        )
        .select_from(
            images.outerjoin(faces)
            .outerjoin(persons, persons.c.id == faces.c.person_id)
            .outerjoin(face_denials, same_face(face_denials, faces))
            .outerjoin(denied, denied.c.id == face_denials.c.person_id)
        )
        .where(images.c.id.in_(ids))
        .order_by(images.c.id.desc(), faces.c.face_index, denied.c.name, denied.c.id)
    )
    async with database.reading() as connection:
        rows = (await connection.execute(query)).all()
        whose = await whose_pictures(
            connection, (guess["image_name"] for row in rows for guess in row.candidates)
        )
        leaving = (await connection.execute(sa.select(erasures))).all()
    found = [
        _image(first, [row for row in (first, *others) if row.face_index is not None], whose)
        for _, (first, *others) in itertools.groupby(rows, key=lambda row: row.id)
    ]
    merged = {row.person_id for row in leaving if row.stage == Stage.MERGED}
    gone = {row.person_id for row in leaving} - merged
    folders = {folder for row in leaving for folder in row.folders if row.person_id in gone}
    return [
        replace(image, faces=tuple(_without(face, gone, folders, merged) for face in image.faces))
        for image in found
    ]


def page_query(
    *, status: str | None, person: Somebody | None, before: int | None, limit: int
) -> sa.Select[int]:
    """Return the query for the first ids of a page; each form walks indexes backwards.

    A person's images are all processed, so their status need not be looked at.
    """
    if person is not None:
        # Each limited by itself, so that of neither more is read than a page.
        parts = [
            _first(part, part.selected_columns[0], before, limit) for part in images_of(person)
        ]
        found = sa.union(*(sa.select(part.subquery()) for part in parts)).subquery()
        return sa.select(found.c.image_id).order_by(found.c.image_id.desc()).limit(limit)
    query = sa.select(images.c.id)
    if status is not None:
        # Told, because MariaDB walks all rows when it believes most of them to match.
        query = query.where(images.c.status == status).with_hint(
            images, "FORCE INDEX (ix_images_status_id)", "mysql"
        )
    return _first(query, images.c.id, before, limit)


def _first(
    query: sa.Select[int], column: sa.ColumnElement[int], before: int | None, limit: int
) -> sa.Select[int]:
    if before is not None:
        query = query.where(column < before)
    return query.order_by(column.desc()).limit(limit)


def images_of(person: Somebody) -> list[sa.Select[int]]:
    """Return the queries for the images with a face of a person, by id and by name alone."""
    query = sa.select(faces.c.image_id).distinct()
    parts = []
    if person.id is not None:
        parts.append(query.where(faces.c.person_id == person.id))
    if person.has_name_alone:
        # Told, because MariaDB walks all faces of nobody when it believes them to be fewer.
        parts.append(
            query.where(faces.c.person == person.name, faces.c.person_id.is_(None)).with_hint(
                faces, "FORCE INDEX (ix_faces_person)", "mysql"
            )
        )
    return parts


def tag_of_result(row: Any) -> str | None:
    """Return the tag of the picture that a result is about; None of an upload."""
    # Nobody replaces what was uploaded.
    tag: str | None = row.object_tag if row.content_digest is None else None
    return tag


def _image(row: Any, its_faces: Sequence[Any], whose: Mapping[str, int]) -> Image:
    return Image(
        **{name: getattr(row, name) for name in _OF_ROW},
        tag=tag_of_result(row),
        faces=tuple(_faces((face for face in its_faces if not face.struck_out), whose)),
        struck_out=tuple(
            # A face that has denials has a row for each.
            {
                face.face_index: StruckOut(face.face_index, box_in(face), bool(face.forgotten))
                for face in its_faces
                if face.struck_out
            }.values()
        ),
    )


def _faces(rows: Iterable[Any], whose: Mapping[str, int]) -> list[Face]:
    """Return the faces of rows, of which a face has one for each denial, and one without any."""
    found = []
    for _, (first, *others) in itertools.groupby(rows, key=lambda row: row.face_index):
        denials = [row for row in (first, *others) if row.denied is not None]
        found.append(_face(first, denials, whose))
    return found


def _face(row: Any, denials: Sequence[Any], whose: Mapping[str, int]) -> Face:
    return Face(
        index=row.face_index,
        **measured_in(row),
        ambiguous=row.ambiguous,
        person=row.whose,
        person_id=row.whose_id,
        distance=row.distance,
        decided_by=DecidedBy.HAND if row.by_hand else DecidedBy.MACHINE,
        candidates=tuple(
            Candidate(
                candidate["person"],
                candidate["image_name"],
                candidate["distance"],
                whose.get(candidate["image_name"]),
            )
            for candidate in row.candidates
        ),
        denials=tuple(denial.denied for denial in denials),
        denial_ids=tuple(denial.denied_id for denial in denials),
        drawn=bool(row.drawn),
    )


def _without(
    face: Face, ids: Collection[int], folders: Collection[str], merged: Collection[int]
) -> Face:
    """Return a face without people who are being forgotten, with these ids and folders.

    Who they are is gone for all others, though it is still to be removed from the rows. Of those
    who are ``merged`` it shows the name that it is to have, and no id any more.
    """
    denied = [
        (name, person_id)
        for name, person_id in zip(face.denials, face.denial_ids, strict=True)
        if known_name(name) is not None
    ]
    left = [
        candidate
        for candidate in face.candidates
        if candidate.person_id not in ids
        and not (candidate.person_id is None and folder_of(candidate.image_name) in folders)
    ]
    changed: dict[str, Any] = {}
    if face.person is not None and known_name(face.person) is None:
        changed = {
            "person": None,
            "person_id": None,
            "distance": None,
            "decided_by": DecidedBy.MACHINE,
            "ambiguous": False,
            "candidates": (),
        }
    elif len(left) < len(face.candidates):
        changed = {"ambiguous": face.ambiguous and bool(left), "candidates": tuple(left)}
    if face.person_id in merged:
        changed["person_id"] = None
    if len(denied) < len(face.denials):
        changed["denials"] = tuple(name for name, _ in denied)
        changed["denial_ids"] = tuple(person_id for _, person_id in denied)
    return replace(face, **changed) if changed else face
