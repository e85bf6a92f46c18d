"""The names by which services still import what is in the modules below."""

from services.common.orientation import SIDEWAYS, TURNS, Edges, to_stored, to_upright
from services.common.picture_decoding import MAX_PIXELS, Picture, PictureError, Pixels, open_picture

__all__ = [
    "MAX_PIXELS",
    "SIDEWAYS",
    "TURNS",
    "Edges",
    "Picture",
    "PictureError",
    "Pixels",
    "open_picture",
    "to_stored",
    "to_upright",
]
