"""Run the face recogniser: ``python -m services.face_recog``."""

import os

# Matching against the known people must not take the workers' CPUs; BLAS reads this once, when
# numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from services.face_recog.app import main

if __name__ == "__main__":
    main()
