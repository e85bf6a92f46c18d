"""The kind cluster that this repository makes for itself."""

import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from typing import Final

from pytest_kind import KindCluster

from e2e.cluster import NO_REGISTRY, ROOT, STATE, Cluster, ClusterError, output, phase, run, tool
from e2e.waiting import wait_until

NAME: Final = "facestack"
KUBECONFIG: Final = STATE / "kubeconfig"
_NODES_SECONDS: Final = 180


def exists() -> bool:
    """Is there a cluster of this name?"""
    listed = subprocess.run(
        [tool("kind"), "get", "clusters"], capture_output=True, text=True, check=True
    )
    return NAME in listed.stdout.split()


def prepare() -> None:
    """Start the engine and make every image that the pipeline and its nodes run."""
    with phase("Docker engine"):
        run(NO_REGISTRY / "engine")
    # Both wait for downloads for much of their time, so they share it.
    with phase("images"), ThreadPoolExecutor() as pool:
        making: list[Future[object]] = [pool.submit(_images)]
        if not exists():
            making.append(pool.submit(node_image))
    for each in making:
        each.result()


def create() -> Cluster:
    """Make the cluster, or use the one of this name that is there."""
    if exists():
        wanted = (f"--name={NAME}", f"--kubeconfig={KUBECONFIG}")
        run(tool("kind"), "export", "kubeconfig", "--quiet", *wanted)
        try:
            cluster = Cluster(KUBECONFIG)
        except AssertionError as error:
            raise ClusterError(
                f"the cluster {NAME} is there and does not answer; "
                f"'make cluster-down' deletes it, then try again ({error})"
            ) from None
    else:
        image = node_image()
        with phase("cluster of 3 nodes"):
            kind_cluster(image).create(ROOT / "e2e" / "kind.yaml")
            cluster = Cluster(KUBECONFIG)
    wait_until(cluster.nodes_ready, _NODES_SECONDS, "every node to be ready")
    return cluster


def delete() -> None:
    """Delete the cluster; the engine and the images stay."""
    with phase("deleting the cluster"):
        kind_cluster().delete()


def node_image() -> str:
    """Return the name of an image for nodes, built if no registry has one."""
    return output(NO_REGISTRY / "node-image")


def _images() -> None:
    run(NO_REGISTRY / "images" / "build")
    run(ROOT / "scripts" / "images")


def kind_cluster(
    image: str | None = None, name: str = NAME, kubeconfig: Path = KUBECONFIG
) -> KindCluster:
    """Return a cluster to create or delete."""
    STATE.mkdir(parents=True, exist_ok=True)
    # It makes a folder in the current one, and downloads what it is not given.
    with chdir(STATE):
        return KindCluster(
            name,
            kubeconfig,
            image=image,
            kind_path=Path(tool("kind")),
            kubectl_path=Path(tool("kubectl")),
        )
