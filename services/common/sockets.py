"""The listening socket, and how many open files a process may have."""

import resource
import socket
from typing import Final

_OTHER_FILES: Final = 256
_FEWEST_FILES: Final = 32


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket, or end the process with one line when it cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SystemExit(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def allow_open_files(wanted: int) -> int:
    """Raise the process's own limit on open files; return how many of those wanted it may have.

    Many systems set 1024 where they allow more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        wanted
        if soft == resource.RLIM_INFINITY
        else min(wanted, max(soft - _OTHER_FILES, _FEWEST_FILES))
    )
