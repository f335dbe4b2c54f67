"""Discovery documents, from the resources that are served: what groups, versions and resources there are.

Flows in: `Resource` values in the order in which they shall be listed. Flows out: the old documents (APIGroupList,
APIResourceList) and the aggregated one (APIGroupDiscoveryList v2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from supernode.local.machinery.resources import Resource


def core_versions(address: str) -> dict[str, Any]:
    """/api for a server that is reached at `address` (host:port)."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_versions(resources: Iterable[Resource]) -> dict[str, list[str]]:
    """Versions by group, both in order of appearance; the core group is the empty text."""
    found: dict[str, list[str]] = {}
    for resource in resources:
        versions = found.setdefault(resource.group, [])
        if resource.version not in versions:
            versions.append(resource.version)
    return found


def group_list(resources: Sequence[Resource]) -> dict[str, Any]:
    """/apis"""
    groups = [_group(group, versions) for group, versions in group_versions(resources).items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(resources: Sequence[Resource], name: str) -> dict[str, Any] | None:
    """/apis/GROUP; None when nothing of it is served."""
    versions = group_versions(resources).get(name)
    if not name or versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions)


def _group(name: str, versions: Sequence[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(resources: Iterable[Resource], group_name: str, version: str) -> dict[str, Any] | None:
    """/api/v1 (group "") or /apis/GROUP/VERSION; None when nothing of it is served."""
    found = [r for r in resources if r.group == group_name and r.version == version]
    if not found:
        return None
    entries = []
    for resource in found:
        entry: dict[str, Any] = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        if resource.storage_hash:
            entry["storageVersionHash"] = resource.storage_hash
        entries.append(entry)
        for sub in resource.subresources:
            below: dict[str, Any] = {
                "name": f"{resource.plural}/{sub.name}",
                "singularName": "",
                "namespaced": resource.namespaced,
            }
            if (sub.group, sub.version) != (resource.group, resource.version):
                below |= {"group": sub.group, "version": sub.version}
            entries.append(below | {"kind": sub.kind, "verbs": list(sub.verbs)})
    full = f"{group_name}/{version}" if group_name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": full, "resources": entries}


def aggregated(resources: Sequence[Resource], *, core: bool, version: str = "v2") -> dict[str, Any]:
    """/api (core) or /apis as one APIGroupDiscoveryList, in version v2 or v2beta1 of apidiscovery.k8s.io."""
    items = []
    for name, versions in group_versions(resources).items():
        if bool(name) == core:
            continue
        described = []
        for label in versions:
            members = [r for r in resources if (r.group, r.version) == (name, label)]
            described.append({"version": label, "resources": [_described(r) for r in members], "freshness": "Current"})
        items.append({"metadata": {"name": name} if name else {}, "versions": described})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _described(resource: Resource) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": list(sub.verbs),
            }
            for sub in resource.subresources
        ]
    return entry
