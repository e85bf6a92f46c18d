"""gRPC over TLS: each side shows a certificate, and takes only one of the same CA.

The folder is a Secret of type kubernetes.io/tls, which is renewed while processes run.
"""

from pathlib import Path

import grpc


def server_credentials(folder: Path) -> grpc.ServerCredentials:
    """Return credentials that are read anew for each connection."""

    def current() -> grpc.ServerCertificateConfiguration:
        authority, certificate, key = _read(folder)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    return grpc.dynamic_ssl_server_credentials(
        current(), current, require_client_authentication=True
    )


def channel_credentials(folder: Path) -> grpc.ChannelCredentials:
    """Return credentials as they are now; see :func:`version`."""
    authority, certificate, key = _read(folder)
    return grpc.ssl_channel_credentials(authority, key, certificate)


def version(folder: Path) -> tuple[int, int]:
    """Return what changes with each renewal."""
    found = (folder / "tls.crt").stat()
    return found.st_ino, found.st_mtime_ns


def _read(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Return the CA's certificate, the own one and its key."""
    # Kubernetes replaces all files at once, by one link: behind it they belong together.
    behind = (folder / "tls.crt").resolve().parent
    authority, certificate, key = (
        (behind / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key")
    )
    return authority, certificate, key
