"""Namespaces, nodes, secrets and services."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from supernode.local.machinery.refusals import Cause
from supernode.local.server import statuses
from supernode.local.server.rules.plain import Cluster, Rules
from supernode.local.server.statuses import Object

# Addresses that services get; the first is the API server's own.
SERVICE_NETWORK: Final = ipaddress.ip_network("10.96.0.0/16")
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]+")
_LARGEST_SECRET: Final = 1024 * 1024  # bytes


class NamespaceRules(Rules):
    """Namespaces start active, with the finalizer that has them emptied, and a label with their name."""

    def default(self, new: Object) -> None:
        """The label with the name."""
        meta = new["metadata"]
        if meta.get("name"):
            meta["labels"] = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta["name"]}

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """Finalizer and phase."""
        if old is None:
            new["spec"] = {"finalizers": ["kubernetes"]}
            new["status"] = {"phase": "Active"}
        else:
            new["spec"] = old["spec"]


class NodeRules(Rules):
    """Nodes: what the kubelet says about itself comes with the create."""

    keeps_status = True

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """Cordoned nodes carry the taint that says so."""
        spec = new.setdefault("spec", {})
        key = "node.kubernetes.io/unschedulable"
        taints = [each for each in spec.get("taints") or () if each.get("key") != key]
        if spec.get("unschedulable"):
            taints.append({"key": key, "effect": "NoSchedule"})
        if taints:
            spec["taints"] = taints
        else:
            spec.pop("taints", None)

    def default(self, new: Object) -> None:
        """Allocatable follows capacity; times are always written, even empty."""
        _allocatable(new)
        for condition in new["status"].get("conditions") or ():
            condition.setdefault("lastHeartbeatTime", None)
            condition.setdefault("lastTransitionTime", None)


def _allocatable(node: Object) -> None:
    status = node.setdefault("status", {})
    status.setdefault("daemonEndpoints", {}).setdefault("kubeletEndpoint", {}).setdefault("Port", 0)
    if status.get("capacity") and "allocatable" not in status:
        status["allocatable"] = dict(status["capacity"])


def check_keys(data: Object | None, field: str) -> list[Cause]:
    """What is wrong with the keys of a secret or config map."""
    why = (
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME', "
        f" or 'key-name', regex used for validation is '{_KEY.pattern}')"
    )
    return [
        statuses.invalid_value(f"{field}[{key}]", key, why)
        for key in data or ()
        if not _KEY.fullmatch(key) or len(key) > 253
    ]


class SecretRules(Rules):
    """Secrets: plain text is written into `data`, in base64."""

    def default(self, new: Object) -> None:
        """Move `stringData` over, default the type."""
        new.setdefault("type", "Opaque")
        plain = new.pop("stringData", None)
        if plain:
            data = new.setdefault("data", {}) or {}
            new["data"] = {**data, **{key: base64.b64encode(str(plain[key]).encode()).decode() for key in plain}}

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Keys, base64, size, and immutable ones."""
        causes, size = check_keys(new.get("data"), "data"), 0
        for key, value in (new.get("data") or {}).items():
            try:
                size += len(base64.b64decode(value or "", validate=True))
            except (binascii.Error, ValueError):
                causes.append(statuses.invalid_value(f"data[{key}]", "<secret>", "must be base64"))
        if size > _LARGEST_SECRET:
            causes.append(Cause("FieldValueTooLong", f"Too long: may not be more than {_LARGEST_SECRET} bytes", "data"))
        if old is not None:
            if new.get("type") != old.get("type"):
                causes.append(statuses.invalid_value("type", new.get("type"), "field is immutable"))
            if old.get("immutable") and new.get("data") != old.get("data"):
                causes.append(statuses.forbidden_value("data", "field is immutable when `immutable` is set"))
            if old.get("immutable") and not new.get("immutable"):
                causes.append(statuses.forbidden_value("immutable", "field is immutable when `immutable` is set"))
        return causes


class ServiceRules(Rules):
    """Services: defaults and cluster addresses."""

    def default(self, new: Object) -> None:
        """Type, ports and policies."""
        spec = new.setdefault("spec", {})
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port.get("port"))
        if spec["type"] != "ExternalName":
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if spec["type"] in ("NodePort", "LoadBalancer"):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if spec["type"] == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """An address from the service network."""
        spec = new["spec"]
        if old is None:
            new["status"] = {"loadBalancer": {}}
        if spec["type"] == "ExternalName":
            return
        if spec["type"] in ("NodePort", "LoadBalancer"):
            _node_ports(spec, cluster)
        if old is not None and not spec.get("clusterIP"):
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if name in old["spec"]:
                    spec[name] = old["spec"][name]
        if not spec.get("clusterIP"):
            spec["clusterIP"] = _free_address(cluster)
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Ports, and the address that stays."""
        spec = new["spec"]
        causes: list[Cause] = []
        headless = spec.get("clusterIP") == "None"
        if not spec.get("ports") and not headless and spec["type"] != "ExternalName":
            causes.append(statuses.required("spec.ports"))
        ports = spec.get("ports") or []
        for index, port in enumerate(ports):
            if not isinstance(port.get("port"), int) or not 0 < port["port"] < 65536:
                why = "must be between 1 and 65535, inclusive"
                causes.append(statuses.invalid_value(f"spec.ports[{index}].port", port.get("port"), why))
            target = port.get("targetPort")
            if isinstance(target, int) and not 0 < target < 65536:
                why = "must be between 1 and 65535, inclusive"
                causes.append(statuses.invalid_value(f"spec.ports[{index}].targetPort", target, why))
            if len(ports) > 1 and not port.get("name"):
                causes.append(statuses.required(f"spec.ports[{index}].name"))
        if old is not None and spec["type"] != "ExternalName" and old["spec"].get("type") != "ExternalName":
            was = old["spec"].get("clusterIP")
            if was and spec.get("clusterIP") != was:
                why = "may not change once set"
                causes.append(statuses.invalid_value("spec.clusterIPs[0]", [spec.get("clusterIP")], why))
        return causes


def _free_address(cluster: Cluster) -> str:
    taken = {each["spec"].get("clusterIP") for each in cluster.all("", "services")}
    hosts = SERVICE_NETWORK.hosts()
    next(hosts)
    return next(str(host) for host in hosts if str(host) not in taken)


def _node_ports(spec: Object, cluster: Cluster) -> None:
    taken = {port.get("nodePort") for each in cluster.all("", "services") for port in each["spec"].get("ports") or ()}
    for port in spec.get("ports") or ():
        if not port.get("nodePort"):
            port["nodePort"] = next(number for number in range(30000, 32768) if number not in taken)
        taken.add(port["nodePort"])
