"""What NetworkPolicies allow is computed as Kubernetes does it."""

import pytest
import yaml

from scripts.manifests.model import Manifests
from scripts.manifests.rules.network import ANYWHERE, OUTSIDE, PRIVATE, allowed, named

PODS = """
- kind: Deployment
  metadata: {name: a}
  spec:
    template:
      metadata: {labels: {name: a}}
      spec:
        containers: [{ports: [{name: http, containerPort: 80}]}]
- kind: Deployment
  metadata: {name: b}
  spec:
    template:
      metadata: {labels: {name: b}}
      spec: {containers: []}
"""


def into_a(policies: str) -> set[tuple[str, int]]:
    """Return who may enter pod a, and at which port; 0 is any."""
    manifests = Manifests([*yaml.safe_load(PODS), *(yaml.safe_load(policies) or [])])
    return {(edge[0], edge[2]) for edge in allowed(manifests, "Ingress") if edge[1] == "a"}


def policy(spec: str) -> str:
    types = "" if "policyTypes" in spec else "policyTypes: [Ingress], "
    return f"- {{kind: NetworkPolicy, spec: {{{types}{spec[1:]}}}\n"


DENY = policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")


def test_without_a_policy_everybody_may_enter_everywhere() -> None:
    assert into_a("") == {(ANYWHERE, 0)}


def test_a_policy_without_rules_lets_nobody_in() -> None:
    assert into_a(DENY) == set()


def test_policies_add_up() -> None:
    first = policy(
        "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {name: b}}}]}]}"
    )
    assert into_a(DENY + first) == {("b", 0)}


def test_a_rule_without_peers_lets_all_in_at_its_ports() -> None:
    assert into_a(policy("{podSelector: {}, ingress: [{ports: [{port: 80}]}]}")) == {(ANYWHERE, 80)}


def test_a_pod_selector_alone_means_the_same_namespace() -> None:
    assert "another namespace" not in {
        s for s, _ in into_a(policy("{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"))
    }
    everywhere = policy("{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}")
    assert {"another namespace", "b"} <= {source for source, _ in into_a(everywhere)}


def test_an_address_block_leaves_out_its_exceptions() -> None:
    spec = (
        "{podSelector: {}, ingress: [{from: [{ipBlock:"
        " {cidr: 0.0.0.0/0, except: [10.244.0.0/16, 172.16.0.0/12, 192.168.0.0/16]}}]}]}"
    )
    assert into_a(policy(spec)) == {(OUTSIDE, 0)}
    assert PRIVATE in {source for source, _ in into_a(policy(spec.replace(", 172.16.0.0/12", "")))}


def test_a_policy_for_other_pods_or_the_other_direction_restricts_nothing() -> None:
    assert (ANYWHERE, 0) in into_a(policy("{podSelector: {matchLabels: {name: b}}, ingress: []}"))
    assert (ANYWHERE, 0) in into_a(policy("{podSelector: {}, policyTypes: [Egress]}"))


@pytest.mark.parametrize(
    ("env", "asked"),
    [
        ("{name: A_URL, value: 'http://b:80'}", {("b", 80)}),
        (
            '{name: A_URLS, value: \'["http://b:80", "http://c.face.svc:81"]\'}',
            {("b", 80), ("c", 81)},
        ),
        ("{name: A_TARGET, value: 'dns:///b:80'}", {("b", 80)}),
        ("{name: ISSUER, value: 'https://id.example.org'}", {("id.example.org", 443)}),
        (
            "{name: DATABASE_URL, value: 'mysql+x://u@b.example.org:3306/d'}",
            {("b.example.org", 3306)},
        ),
        ("{name: STORE, value: 's3://bucket'}", {(OUTSIDE, 443), ("agent of pod identities", 80)}),
        ("{name: NOTE, value: 'ratio 3:4, 10.0.0.1:80'}", set()),
    ],
)
def test_a_setting_names_whom_it_asks(env: str, asked: set[tuple[str, int]]) -> None:
    pod = f"{{containers: [{{name: a, env: [{env}]}}]}}"
    manifests = Manifests(
        [yaml.safe_load(f"{{kind: Deployment, spec: {{template: {{spec: {pod}}}}}}}")]
    )
    assert named(manifests, manifests.workloads[0]) == asked
