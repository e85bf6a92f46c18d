"""Run one service as a child of the local runner: ``python -m services.local.child receiver``.

Standard input is a pipe that only the runner can write to. It ends when the runner does, however
it ends, and then this process is told to drain: no service outlives its runner.
"""

import os
import runpy
import signal
import sys
import threading


def _drain_with_the_runner() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Become the service that the argument names."""
    name = sys.argv.pop(1)
    threading.Thread(target=_drain_with_the_runner, daemon=True).start()
    runpy.run_module(f"services.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
