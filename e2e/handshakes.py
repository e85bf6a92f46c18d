"""What servers say to a pod that speaks TLS with them, found out from inside the pod."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from e2e.cluster import Cluster
from services.credentials.certificates import KeyPair

_SHAKE: Final = """
import json, os, socket, ssl, sys
def file(text):
    number = os.memfd_create("pem")  # nothing else can be written to
    os.write(number, text.encode())
    return f"/proc/self/fd/{number}"
def shake(call, authority, certificate, key):
    context = ssl.create_default_context(cadata=authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if certificate:
        context.load_cert_chain(file(certificate), file(key))
    try:
        with socket.create_connection((call["address"], call["port"]), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=call["name"]) as encrypted:
                serial = encrypted.getpeercert()["serialNumber"]
                # A client is refused only after its own handshake, when it reads.
                if call["port"] != 7070 and not encrypted.recv(1):
                    return "", "closed"
                return serial, ""
    except OSError as error:
        return "", str(error)
calls, *rest = json.load(sys.stdin)
print(json.dumps([shake(call, *rest) for call in calls]))
"""


@dataclass(frozen=True)
class Call:
    """An address and port, and the name that the server there must have a certificate for."""

    address: str
    port: int
    name: str


def shake(
    cluster: Cluster, pod: str, calls: Sequence[Call], authority: bytes, own: KeyPair | None
) -> list[tuple[str, str]]:
    """Return for each call the serial number of the server's certificate, or what went wrong."""
    pair = (own.certificate.decode(), own.key.decode()) if own else (None, None)
    given = [[asdict(call) for call in calls], authority.decode(), *pair]
    command = ("exec", "-i", pod, "--", "python", "-c", _SHAKE)
    done = cluster.kubectl(*command, input=json.dumps(given))
    return [(serial, problem) for serial, problem in json.loads(done.stdout)]
