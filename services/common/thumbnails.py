"""The names by which services still import what is in the modules below."""

from services.common.thumbnail_keys import (
    OF_FACES,
    OF_IMAGES,
    OF_KNOWN,
    FacePlace,
    face_thumbnail_key,
    picture_of,
    place_of,
    thumbnail_key,
)

__all__ = [
    "OF_FACES",
    "OF_IMAGES",
    "OF_KNOWN",
    "FacePlace",
    "face_thumbnail_key",
    "picture_of",
    "place_of",
    "thumbnail_key",
]
