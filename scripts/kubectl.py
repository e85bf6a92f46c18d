"""kubectl, as everything in scripts/ calls it."""

import subprocess
from dataclasses import dataclass

from scripts.manifests.tools import binary


class KubectlError(Exception):
    """Kubectl refuses; the message is its own."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl, with the context that the user chose or, without one, the current."""

    context: str | None = None

    def get(self, *arguments: str, given: str | None = None) -> str:
        """Run it and return what it printed."""
        context = [f"--context={self.context}"] if self.context else []
        command = [binary("kubectl"), *context, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    def where(self) -> str:
        """Return the name of the context and the address of its cluster."""
        form = "jsonpath={.contexts[0].name} at {.clusters[0].cluster.server}"
        return self.get("config", "view", "--minify", f"--output={form}")

    def follows(self, cluster: str) -> bool:
        """Tell whether the cluster follows its folder of git; KubectlError: it follows another."""
        form = "--output=jsonpath={.data.cluster}"
        how = ("--namespace=flux-system", "--ignore-not-found", "--request-timeout=10s", form)
        found = self.get("get", "configmap", "cluster", *how)
        if found not in {"", cluster}:
            folders = f"flux/clusters/{found}, not flux/clusters/{cluster}"
            raise KubectlError(f"{self.where()} follows {folders}: choose its CONTEXT=")
        return bool(found)
