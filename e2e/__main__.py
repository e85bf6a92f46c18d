"""``python -m e2e up``: a cluster with the pipeline to play with; ``down`` deletes it."""

import argparse
import subprocess
import sys

from e2e import kind
from e2e.cluster import ROOT, ClusterError


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(prog="python -m e2e", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    try:
        if parser.parse_args().command == "down":
            kind.delete()
        else:
            up()
    except (ClusterError, AssertionError, subprocess.CalledProcessError) as error:
        sys.exit(f"make: {error}")
    except KeyboardInterrupt:
        sys.exit("make: stopped; call it again to go on, or make cluster-down")


def up() -> None:
    """Make the cluster if need be, deploy what has changed, and say how to use it."""
    kind.prepare()
    cluster = kind.create()
    cluster.deploy()
    print(f"""
Page     {cluster.page_url}
API      {cluster.api_url}
Its key  {cluster.administrator_key()}
Its docs http://127.0.0.1:9106/docs with kubectl port-forward -n face deployment/receiver 9106
kubectl  export KUBECONFIG={kind.KUBECONFIG.relative_to(ROOT)}
make cluster-down deletes it all.""")


main()
