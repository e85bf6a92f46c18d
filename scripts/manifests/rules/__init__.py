"""The rules that rendered manifests keep. Each is a function from manifests to findings."""

from collections.abc import Iterator
from typing import Final

from scripts.manifests.model import Finding, Manifests, Rule
from scripts.manifests.rules import (
    access,
    cloud,
    config_maps,
    flux,
    images,
    network,
    pods,
    rollout,
    secrets,
    services,
    settings,
    tls,
)

# The quick ones come first, because whoever wants only to know whether there is a finding stops
# at the first.
RULES: Final[tuple[Rule, ...]] = (
    access.identity,
    access.namespace,
    access.rights,
    access.cluster_rights,
    access.service_accounts,
    access.admission,
    pods.pod_security,
    pods.hardening,
    pods.resources,
    pods.probes,
    pods.volumes,
    pods.folders,
    pods.claims,
    images.images,
    rollout.deployments,
    rollout.stateful_sets,
    rollout.jobs,
    rollout.cron_jobs,
    rollout.replicas,
    rollout.spread,
    rollout.lost_nodes,
    rollout.stores_together,
    rollout.grace,
    rollout.disruption_budgets,
    services.selectors,
    services.ports,
    services.kinds,
    services.ways_in,
    config_maps.config_maps,
    flux.kept,
    flux.replaceable,
    secrets.secrets,
    secrets.optional_keys,
    secrets.files,
    secrets.mounts,
    secrets.tokens,
    secrets.database_users,
    secrets.database_names,
    settings.settings,
    settings.one_for_all,
    settings.deadlines,
    settings.secret_values,
    settings.variables,
    tls.encrypted,
    tls.keys,
    cloud.load_balancer,
    cloud.external_secrets,
    cloud.storage,
    network.addresses,
    network.names,
    network.policies,
    network.edges,
)


def check(manifests: Manifests) -> Iterator[Finding]:
    """Yield whatever breaks a rule."""
    for rule in RULES:
        yield from rule(manifests)
