"""What the server serves: one `Resource` per plural name, group and version, as discovery, OpenAPI and routing need
it."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from supernode.local.machinery import kinds, schemas
from supernode.local.machinery.kinds import Kind

ALL_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
# In the order in which the real server lists them for custom resources.
_CUSTOM_VERBS: Final = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
_STATUS_VERBS: Final = ("get", "patch", "update")


@dataclass(frozen=True)
class Subresource:
    """A subresource and the kind it speaks; `verbs` empty: never served."""

    name: str
    group: str
    version: str
    kind: str
    verbs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Resource:
    """A resource in one version.

    Attributes:
        list_kind: kind of a list of it.
        storage_hash: tells clients whether the storage version has changed; empty where nothing is stored.
        definition: the compiled kind.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    list_kind: str
    namespaced: bool
    verbs: tuple[str, ...]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    storage_hash: str = ""
    definition: Kind | None = None

    @property
    def api_version(self) -> str:
        """`group/version`, or the version alone for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def subresource(self, name: str) -> Subresource | None:
        """The subresource of that name."""
        return next((sub for sub in self.subresources if sub.name == name), None)


# Kinds that a real server stores in another group or version than the served one.
_STORED_AS: Final = {
    ("events.k8s.io", "Event"): ("", "v1"),
    ("autoscaling", "HorizontalPodAutoscaler"): ("autoscaling", "v2"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): ("apiextensions.k8s.io", "v1beta1"),
}


def storage_hash(group: str, version: str, kind: str) -> str:
    """The storage version's hash, as a real server forms it."""
    group, version = _STORED_AS.get((group, kind), (group, version))
    return base64.b64encode(hashlib.sha256(f"{group}/{version}/{kind}".encode()).digest()[:8]).decode()


@functools.cache
def builtin() -> tuple[Resource, ...]:
    """Every built-in resource of the served groups, in the real server's order."""
    found = []
    for entry in schemas.builtin().resources:
        group, _, version = entry["groupVersion"].rpartition("/")
        for facts in entry["resources"]:
            kind = facts["responseKind"]["kind"]
            verbs = tuple(facts["verbs"])
            subresources = []
            for sub in facts.get("subresources", ()):
                answer = sub["responseKind"]
                same = answer["kind"] == kind and not answer["version"]
                subresources.append(
                    Subresource(
                        sub["subresource"],
                        answer["group"] or (group if same or not answer["version"] else ""),
                        answer["version"] or version,
                        answer["kind"],
                        tuple(sub["verbs"]),
                    )
                )
            found.append(
                Resource(
                    group,
                    version,
                    kind,
                    facts["resource"],
                    facts["singularResource"],
                    f"{kind}List",
                    facts["scope"] == "Namespaced",
                    verbs,
                    tuple(facts.get("shortNames", ())),
                    tuple(facts.get("categories", ())),
                    tuple(subresources),
                    storage_hash(group, version, kind) if "watch" in verbs else "",
                    kinds.builtin(group, version, kind),
                )
            )
    return tuple(found)


def custom(crd: dict[str, Any], compiled: Mapping[str, Kind]) -> tuple[Resource, ...]:
    """The resources of a CRD, one per served version."""
    spec = crd["spec"]
    names, group = spec["names"], spec["group"]
    storage = next((version["name"] for version in spec["versions"] if version.get("storage")), "")
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        declared = version.get("subresources") or {}
        subresources = []
        if "status" in declared:
            subresources.append(Subresource("status", group, version["name"], names["kind"], _STATUS_VERBS))
        if "scale" in declared:
            subresources.append(Subresource("scale", "autoscaling", "v1", "Scale", _STATUS_VERBS))
        found.append(
            Resource(
                group,
                version["name"],
                names["kind"],
                names["plural"],
                names.get("singular") or names["kind"].lower(),
                names.get("listKind") or f"{names['kind']}List",
                spec["scope"] == "Namespaced",
                _CUSTOM_VERBS,
                tuple(names.get("shortNames") or ()),
                tuple(names.get("categories") or ()),
                tuple(subresources),
                storage_hash(group, storage, names["kind"]),
                compiled[version["name"]],
            )
        )
    return tuple(found)
