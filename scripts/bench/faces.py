"""Answers each picture file named on standard input: what dlib finds in it, and in what time.

It runs here and in the image of face_recog, so that one dlib can be compared with the other.
"""

import json
import sys
import time

import numpy as np
from PIL import Image

from services.face_recog.adapters.classic import Classic


def main() -> None:
    """Answer until the input ends."""
    classic = Classic()
    for line in sys.stdin:
        with Image.open(line.rstrip("\n")) as image:
            pixels = np.array(image.convert("RGB"))
        started = time.perf_counter()
        faces = classic.search(pixels, upsample=1)
        found = time.perf_counter()
        encodings = [classic.encode(classic.chip(pixels, face.place)) for face in faces]
        answer = {
            "boxes": [face.rectangle for face in faces],
            "encodings": [encoding.tolist() for encoding in encodings],
            "detection": found - started,
            "encoding": time.perf_counter() - found,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
