"""Loads the models of the engine in the settings when it is imported; only the fork server does.

Every worker is then a fork that shares them: it starts in milliseconds and adds little memory.
"""

import contextlib
import ctypes
import os
import signal

# A signal to the whole process group is the parent's to answer: it finishes what is in flight and
# then closes the workers' sockets. They inherit this.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

# One process per CPU; BLAS reads these once, when it is loaded below.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from services.common.settings import load  # noqa: E402
from services.face_recog.adapters.models import load_models  # noqa: E402
from services.face_recog.settings import EngineSettings  # noqa: E402

# What is missing is for each worker to say; from here nobody would hear it.
with contextlib.suppress(OSError):
    load_models(load(EngineSettings).choice)
# Reading the models took as much again, which would stay with each fork.
ctypes.CDLL(None).malloc_trim(0)
