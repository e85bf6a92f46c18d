"""What a pod can open connections to, found out by trying all targets at once."""

import json
from collections.abc import Sequence
from typing import Final

from e2e.cluster import Cluster

Target = tuple[str, int, str]
"""An address, a port, and what it is."""

_CONNECT: Final = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
socket.gethostbyname("receiver.face.svc.cluster.local")
def reached(target):
    try:
        socket.create_connection(target[:2], timeout=4).close()
    except OSError:
        return False
    return True
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps([one for one, ok in zip(targets, pool.map(reached, targets)) if ok]))
"""


def reached(cluster: Cluster, pod: str, namespace: str, targets: Sequence[Target]) -> list[Target]:
    """Return the targets that a pod reaches; a pod that cannot look up names fails."""
    connect = ("python", "-c", _CONNECT, json.dumps(targets))
    done = cluster.kubectl("exec", pod, f"--namespace={namespace}", "--", *connect)
    return [(address, port, what) for address, port, what in json.loads(done.stdout)]
