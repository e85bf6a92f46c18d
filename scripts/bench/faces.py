"""Answers each picture file named on standard input: what dlib finds in it, and in what time.

It runs here and in the image of face_recog, so that one dlib can be compared with the other.
"""

import json
import sys
import time

import numpy as np
from PIL import Image

from services.face_recog.adapters.recognition import load_models


def main() -> None:
    """Answer until the input ends."""
    models = load_models()
    for line in sys.stdin:
        with Image.open(line.rstrip("\n")) as image:
            pixels = np.array(image.convert("RGB"))
        started = time.perf_counter()
        boxes = models.detector(pixels, 1)
        found = time.perf_counter()
        encodings = [
            models.encoder.compute_face_descriptor(pixels, models.landmarks(pixels, box), 1)
            for box in boxes
        ]
        answer = {
            "boxes": [[box.left(), box.top(), box.right(), box.bottom()] for box in boxes],
            "encodings": [list(encoding) for encoding in encodings],
            "detection": found - started,
            "encoding": time.perf_counter() - found,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
