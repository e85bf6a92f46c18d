"""The rules that rendered manifests keep. Each is a function from manifests to findings.

What kube-score, Pod Security's evaluator and kubeconform ask for is no rule here.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

from scripts.manifests.model import Finding, Manifests
from scripts.manifests.rules import fields, network, secrets, settings, workloads

GENERAL: Final = (partial(fields.check, "everywhere"), workloads.mounts, workloads.selectors)
"""What all is held to."""

# The quick ones come first, because whoever wants only to know whether there is a finding stops
# at the first.
PIPELINE: Final = (
    partial(fields.check, "fields"),
    workloads.images,
    workloads.probes,
    workloads.together,
    secrets.secrets,
    secrets.database_users,
    settings.settings,
    network.policies,
    network.hosts,
)
"""What the pipeline is held to besides: all that is in its namespace, whoever brings it."""


def check(manifests: Manifests) -> Iterator[Finding]:
    """Yield whatever breaks a rule, in all that is applied to a cluster."""
    about = ((GENERAL, manifests), (PIPELINE, manifests.pipeline))
    found = (finding for rules, of in about for rule in rules for finding in rule(of))
    # A Job and a CronJob share their faults.
    yield from dict.fromkeys(found)
