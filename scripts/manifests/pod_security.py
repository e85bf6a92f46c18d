"""Pod Security Standards, as the admission controller of Kubernetes evaluates them.

One function per control of the upstream list. A control that came, or changed, with a minor version
of Kubernetes says so, because a namespace may pin the version by which its pods are judged.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from scripts.manifests.model import Document, at, items, mapping

BASELINE: Final = "baseline"
RESTRICTED: Final = "restricted"

_DEFAULT_CAPABILITIES: Final = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
_VOLUMES: Final = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)
# The minor version since which each is safe.
_SYSCTLS: Final = {
    "kernel.shm_rmid_forced": 0,
    "net.ipv4.ip_local_port_range": 0,
    "net.ipv4.tcp_syncookies": 0,
    "net.ipv4.ping_group_range": 0,
    "net.ipv4.ip_unprivileged_port_start": 0,
    "net.ipv4.ip_local_reserved_ports": 27,
    "net.ipv4.tcp_keepalive_time": 29,
    "net.ipv4.tcp_fin_timeout": 29,
    "net.ipv4.tcp_keepalive_intvl": 29,
    "net.ipv4.tcp_keepalive_probes": 29,
    "net.ipv4.tcp_rmem": 32,
    "net.ipv4.tcp_wmem": 32,
}
_SELINUX_TYPES: Final = {
    "container_t": 0,
    "container_init_t": 0,
    "container_kvm_t": 0,
    "container_engine_t": 31,
}
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP_POD: Final = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP_CONTAINER: Final = "container.seccomp.security.alpha.kubernetes.io/"
_PROFILES: Final = ("RuntimeDefault", "Localhost")


@dataclass(frozen=True)
class Pod:
    """A pod or pod template, and the minor version of Kubernetes by which it is judged."""

    metadata: Any
    spec: Any
    minor: int

    def containers(self) -> Iterator[tuple[str, Document]]:
        """Yield every container with where it stands."""
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for container in items(self.spec, kind):
                yield f"{kind}[{container.get('name')}]", container

    def contexts(self) -> Iterator[tuple[str, Any]]:
        """Yield the pod's and every container's security context with where it stands."""
        yield "securityContext", at(self.spec, "securityContext")
        for field, container in self.containers():
            yield f"{field}.securityContext", at(container, "securityContext")

    @property
    def is_windows(self) -> bool:
        """Tell whether the controls that mean nothing on Windows are waived."""
        return self.minor >= 25 and at(self.spec, "os.name") == "windows"  # noqa: PLR2004


Problems = Iterator[tuple[str, str]]


def _host_namespaces(pod: Pod) -> Problems:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if at(pod.spec, field):
            yield field, "take it away: a pod may not share the node's namespaces"


def _host_path_volumes(pod: Pod) -> Problems:
    for volume in items(pod.spec, "volumes"):
        if volume.get("hostPath") is not None:
            yield f"volumes[{volume.get('name')}].hostPath", "use another kind of volume"


def _restricted_volumes(pod: Pod) -> Problems:
    for volume in items(pod.spec, "volumes"):
        # One without a kind becomes an emptyDir.
        kinds = volume.keys() - {"name"}
        if kinds and not kinds & _VOLUMES:
            advice = f"use one of {', '.join(sorted(_VOLUMES))}"
            yield f"volumes[{volume.get('name')}]", advice


def _host_ports(pod: Pod) -> Problems:
    for field, container in pod.containers():
        for port in items(container, "ports"):
            if port.get("hostPort"):
                yield f"{field}.ports[{port.get('name')}].hostPort", "take it away: use a Service"


def _handler_hosts(pod: Pod) -> Problems:
    probes = ("livenessProbe", "readinessProbe", "startupProbe")
    hooks = (*probes, "lifecycle.postStart", "lifecycle.preStop")
    for field, container in pod.containers():
        for hook in hooks:
            for how in ("httpGet", "tcpSocket"):
                if at(container, f"{hook}.{how}.host"):
                    yield f"{field}.{hook}.{how}.host", "take it away: the pod itself is asked"


def _privileged(pod: Pod) -> Problems:
    for field, container in pod.containers():
        if at(container, "securityContext.privileged"):
            yield f"{field}.securityContext.privileged", "take it away"


def _proc_mount(pod: Pod) -> Problems:
    for field, container in pod.containers():
        if at(container, "securityContext.procMount") not in (None, "Default"):
            yield f"{field}.securityContext.procMount", "take it away"


def _selinux(pod: Pod) -> Problems:
    for field, context in pod.contexts():
        options = mapping(context, "seLinuxOptions")
        kind = options.get("type")
        if kind and _SELINUX_TYPES.get(kind, pod.minor + 1) > pod.minor:
            yield f"{field}.seLinuxOptions.type", f"{kind} is not allowed"
        for name in ("user", "role"):
            if options.get(name):
                yield f"{field}.seLinuxOptions.{name}", "take it away"


def _sysctls(pod: Pod) -> Problems:
    for sysctl in items(pod.spec, "securityContext.sysctls"):
        if _SYSCTLS.get(str(sysctl.get("name")), pod.minor + 1) > pod.minor:
            yield "securityContext.sysctls", f"{sysctl.get('name')} is not a safe one"


def _host_process(pod: Pod) -> Problems:
    for field, context in pod.contexts():
        if at(context, "windowsOptions.hostProcess"):
            yield f"{field}.windowsOptions.hostProcess", "take it away"


def _apparmor(pod: Pod) -> Problems:
    for field, context in pod.contexts():
        profile = at(context, "appArmorProfile")
        if profile is not None and at(profile, "type") not in _PROFILES:
            yield f"{field}.appArmorProfile.type", f"set one of {', '.join(_PROFILES)}"
    for name, value in mapping(pod.metadata, "annotations").items():
        fits = value in ("", "runtime/default") or value.startswith("localhost/")
        if name.startswith(_APPARMOR) and not fits:
            yield f"metadata.annotations.{name}", "set runtime/default"


def _seccomp_annotations(pod: Pod) -> Problems:
    names = [_SECCOMP_POD]
    names += [_SECCOMP_CONTAINER + str(container.get("name")) for _, container in pod.containers()]
    annotations = mapping(pod.metadata, "annotations")
    for name in names:
        value = annotations.get(name, "runtime/default")
        if value not in ("runtime/default", "docker/default") and value[:10] != "localhost/":
            yield f"metadata.annotations.{name}", "set runtime/default"


def _seccomp_baseline(pod: Pod) -> Problems:
    if pod.minor < 19:  # noqa: PLR2004 - before, there were only annotations
        yield from _seccomp_annotations(pod)
        return
    for field, context in pod.contexts():
        profile = at(context, "seccompProfile")
        if profile is not None and at(profile, "type") not in _PROFILES:
            yield f"{field}.seccompProfile.type", f"set one of {', '.join(_PROFILES)}"


def _seccomp_restricted(pod: Pod) -> Problems:
    if pod.is_windows or at(pod.spec, "securityContext.seccompProfile.type") in _PROFILES:
        return
    for field, container in pod.containers():
        if at(container, "securityContext.seccompProfile") is None:
            yield f"{field}.securityContext.seccompProfile.type", "set RuntimeDefault in the pod"


def _capabilities_baseline(pod: Pod) -> Problems:
    yield from _added_capabilities(pod, _DEFAULT_CAPABILITIES)


def _capabilities_restricted(pod: Pod) -> Problems:
    if pod.is_windows:
        return
    yield from _added_capabilities(pod, frozenset({"NET_BIND_SERVICE"}))
    for field, container in pod.containers():
        if "ALL" not in (at(container, "securityContext.capabilities.drop") or []):
            yield f"{field}.securityContext.capabilities.drop", "set [ALL]"


def _added_capabilities(pod: Pod, allowed: frozenset[str]) -> Problems:
    for field, container in pod.containers():
        added = at(container, "securityContext.capabilities.add") or []
        if bad := sorted(set(added) - allowed):
            yield f"{field}.securityContext.capabilities.add", f"take {', '.join(bad)} away"


def _privilege_escalation(pod: Pod) -> Problems:
    if pod.is_windows:
        return
    for field, container in pod.containers():
        if at(container, "securityContext.allowPrivilegeEscalation") is not False:
            yield f"{field}.securityContext.allowPrivilegeEscalation", "set false"


def _run_as_non_root(pod: Pod) -> Problems:
    field = "securityContext.runAsNonRoot"
    of_pod = at(pod.spec, field)
    if of_pod is False:
        yield field, "set true"
    for place, container in pod.containers():
        own = at(container, field)
        if not (of_pod if own is None else own):
            yield f"{place}.{field}", "set true in the pod"


def _run_as_user(pod: Pod) -> Problems:
    for field, context in pod.contexts():
        if at(context, "runAsUser") == 0:
            yield f"{field}.runAsUser", "set a user that is not root"


@dataclass(frozen=True)
class _Control:
    name: str
    level: str
    check: Callable[[Pod], Problems]
    since: int = 0


_CONTROLS: Final = (
    _Control("hostNamespaces", BASELINE, _host_namespaces),
    _Control("hostPathVolumes", BASELINE, _host_path_volumes),
    _Control("hostPorts", BASELINE, _host_ports),
    _Control("hostProbesAndHostLifecycle", BASELINE, _handler_hosts, since=34),
    _Control("privileged", BASELINE, _privileged),
    _Control("procMount", BASELINE, _proc_mount),
    _Control("seLinuxOptions", BASELINE, _selinux),
    _Control("sysctls", BASELINE, _sysctls),
    _Control("windowsHostProcess", BASELINE, _host_process),
    _Control("appArmorProfile", BASELINE, _apparmor),
    _Control("seccompProfile_baseline", BASELINE, _seccomp_baseline),
    _Control("capabilities_baseline", BASELINE, _capabilities_baseline),
    _Control("restrictedVolumes", RESTRICTED, _restricted_volumes),
    _Control("allowPrivilegeEscalation", RESTRICTED, _privilege_escalation, since=8),
    _Control("runAsNonRoot", RESTRICTED, _run_as_non_root),
    _Control("runAsUser", RESTRICTED, _run_as_user, since=23),
    _Control("seccompProfile_restricted", RESTRICTED, _seccomp_restricted, since=19),
    _Control("capabilities_restricted", RESTRICTED, _capabilities_restricted, since=22),
)


def violations(pod: Pod, level: str) -> Iterator[tuple[str, str, str]]:
    """Yield control, field and what to do for all that the level forbids."""
    for control in _CONTROLS:
        if control.since <= pod.minor and control.level in (BASELINE, level):
            for field, advice in control.check(pod):
                yield control.name, field, advice
