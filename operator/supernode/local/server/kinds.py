"""Which resources the server serves right now: the built-in ones, and those that CRDs have added.

In: CRD objects as they come and go. Out: `Served` by group, version and plural; lists for discovery and OpenAPI.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from supernode.local.machinery import crd, resources
from supernode.local.machinery.kinds import Kind
from supernode.local.machinery.resources import Resource
from supernode.local.machinery.table import Column, builtin_columns, columns
from supernode.local.server.selection import Selectable
from supernode.local.server.statuses import Object
from supernode.local.server.store import ResourceKey
from supernode.local.server.traits import ALIASES, CUSTOM, PLAIN, TRAITS, Traits

# Reviews are answered, never stored.
_VIRTUAL = frozenset({"authentication.k8s.io", "authorization.k8s.io"})


@dataclass(frozen=True)
class Served:
    """One resource in one version."""

    resource: Resource
    traits: Traits
    store: ResourceKey
    columns: tuple[Column, ...]
    custom: Object | None = None  # the CRD's entry of spec.versions

    @property
    def group(self) -> str:
        """API group, empty for core."""
        return self.resource.group

    @property
    def plural(self) -> str:
        """Name in the path."""
        return self.resource.plural

    @property
    def kind(self) -> str:
        """Kind of the objects."""
        return self.resource.kind

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`."""
        return f"{self.resource.group}/{self.resource.version}" if self.resource.group else self.resource.version

    @property
    def namespaced(self) -> bool:
        """Whether objects live in namespaces."""
        return self.resource.namespaced

    @property
    def definition(self) -> Kind:
        """Schema and rules.

        Raises:
            LookupError: the resource has no objects of its own (reviews).
        """
        if self.resource.definition is None:
            raise LookupError(f"{self.kind} has no schema")
        return self.resource.definition

    def has(self, subresource: str) -> bool:
        """Whether a subresource is served."""
        return any(each.name == subresource for each in self.resource.subresources)

    @property
    def selectable(self) -> Selectable:
        """What field selectors may name."""
        return Selectable(self.traits.fields, self.traits.readers)


def _builtin(resource: Resource) -> Served:
    key = (resource.group, resource.plural)
    traits = TRAITS.get(key, PLAIN)
    return Served(resource, traits, ALIASES.get(key, key), builtin_columns(resource.group, resource.kind))


def _custom(resource: Resource, version: Object) -> Served:
    selectable = {each["jsonPath"].lstrip(".") for each in version.get("selectableFields") or ()}
    traits = replace(CUSTOM, fields=CUSTOM.fields | selectable)
    return Served(
        resource,
        traits,
        (resource.group, resource.plural),
        columns(version.get("additionalPrinterColumns") or ()),
        version,
    )


class Kinds:
    """Every served resource; changed only by `define` and `forget`."""

    def __init__(self) -> None:
        self._served = {(each.group, each.version, each.plural): _builtin(each) for each in resources.builtin()}
        self._order: list[tuple[str, str, str]] = list(self._served)
        self._definitions: dict[str, list[tuple[str, str, str]]] = {}

    def find(self, group: str, version: str, plural: str) -> Served | None:
        """The resource, or None."""
        return self._served.get((group, version, plural))

    def has_version(self, group: str, version: str) -> bool:
        """Whether anything is served in a version of a custom group, or in any version of a built-in one."""
        found = [key for key in self._order if key[0] == group]
        custom = found and all(self._served[key].custom is not None for key in found)
        return any(key[1] == version for key in found) if custom else bool(found)

    def resources(self) -> tuple[Resource, ...]:
        """For discovery and OpenAPI documents, in order."""
        return tuple(self._served[key].resource for key in self._order)

    def stored(self) -> list[Served]:
        """One entry per stored resource (one version, no aliases, no reviews)."""
        seen: dict[ResourceKey, Served] = {}
        for key in self._order:
            served = self._served[key]
            if (key[0], key[2]) == served.store and "list" in served.resource.verbs:
                seen.setdefault(served.store, served)
        return list(seen.values())

    def of_kind(self, api_version: str, kind: str) -> Served | None:
        """The resource that an owner reference names."""
        group, _, version = api_version.rpartition("/")
        for key in self._order:
            if key[0] == group and key[1] == version and self._served[key].kind == kind:
                return self._served[key]
        return None

    def define(self, definition: Object) -> None:
        """Serve what a CRD says, in place of what it said before."""
        name = definition["metadata"]["name"]
        self.forget(name)
        served = resources.custom(definition, crd.compile(definition))
        versions = {each["name"]: each for each in definition["spec"]["versions"]}
        keys = []
        for resource in served:
            key = (resource.group, resource.version, resource.plural)
            self._served[key] = _custom(resource, versions[resource.version])
            keys.append(key)
        self._order += keys
        self._definitions[name] = keys

    def forget(self, name: str) -> None:
        """Stop serving a CRD's resources."""
        for key in self._definitions.pop(name, ()):
            del self._served[key]
            self._order.remove(key)

    def custom_stores(self, names: Iterable[str]) -> list[ResourceKey]:
        """The stores of the named CRDs."""
        return sorted({(key[0], key[2]) for name in names for key in self._definitions.get(name, ())})
