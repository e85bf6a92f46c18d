"""Loads the models when it is imported; only the fork server does.

Every worker is then a fork that shares them: it starts in milliseconds and adds little memory.
"""

import os
import signal

# A signal to the whole process group is the parent's to answer: it finishes what is in flight and
# then closes the workers' sockets. They inherit this.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# One process per CPU; BLAS reads these once, when it is loaded below.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from services.face_recog.adapters.recognition import load_models  # noqa: E402

load_models()
