"""The environment of a container: literal values, references to fields, resources, secrets and config maps.

In: the container and its pod, plus a `Lookup` for objects of the pod's namespace. Out: an ordered dict of variables, as
the container would see them (mount paths are replaced later, by `substitute`). `ConfigError` when something that is
needed is missing, with the message a kubelet gives.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from supernode.errors import LocalError
from supernode.local.agent.substitute import expand_references
from supernode.quantity import parse_quantity

Object = dict[str, Any]
# (kind "Secret" or "ConfigMap", name) -> object, or None when it is not there.
Lookup = Callable[[str, str], Awaitable[Object | None]]

_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class ConfigError(LocalError):
    """A container cannot be configured yet: a secret, a config map or a key is missing, or a field is unknown."""


def field_value(pod: Object, path: str) -> str:
    """The value at a `fieldRef` path; ConfigError for one that Kubernetes does not offer either."""
    if match := _SUBSCRIPT.fullmatch(path):
        return str((pod["metadata"].get(match.group(1)) or {}).get(match.group(2), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = pod["metadata"].get(path.split(".")[1]) or {}
        return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(entries.items()))
    if path in ("status.podIPs", "status.hostIPs"):
        return ",".join(entry["ip"] for entry in pod.get("status", {}).get(path.split(".")[1]) or [])
    allowed = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName")
    if path not in (*allowed, "status.podIP", "status.hostIP"):
        raise ConfigError(f"unsupported fieldPath {path!r}")
    section, name = path.split(".")
    return str(pod.get(section, {}).get(name) or "")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(pod: Object, reference: Object, default_container: str, allocatable: Mapping[str, str]) -> str:
    """A `resourceFieldRef`'s value, divided and rounded up; a missing limit is the node's allocatable amount."""
    wanted = reference.get("containerName") or default_container
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    container = next((entry for entry in containers if entry["name"] == wanted), None)
    if container is None:
        raise ConfigError(f"resourceFieldRef names container {wanted!r}, which the pod does not have")
    section, _, name = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    amount = (resources.get(section) or {}).get(name)
    if amount is None and section == "limits":
        amount = allocatable.get(name)
    divisor = parse_quantity(reference.get("divisor") or "1") or Fraction(1)
    number = parse_quantity(amount if amount is not None else "0") / divisor
    return str(-(-number.numerator // number.denominator))


async def container_environment(
    pod: Object, container: Object, lookup: Lookup, allocatable: Mapping[str, str]
) -> dict[str, str]:
    """All variables of the container's `envFrom` and `env`, in Kubernetes' order of precedence."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix") or ""
        for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            reference = source.get(key)
            if reference is None:
                continue
            obj = await lookup(kind, reference["name"])
            if obj is None:
                if reference.get("optional"):
                    continue
                raise ConfigError(_missing(kind, reference["name"]))
            variables.update({f"{prefix}{name}": value.decode() for name, value in data_of(obj).items()})
    for entry in container.get("env") or []:
        name = entry["name"]
        if (source := entry.get("valueFrom")) is not None:
            value = await _from_source(pod, container["name"], source, lookup, allocatable)
            if value is not None:
                variables[name] = value
        else:
            variables[name] = expand_references(str(entry.get("value") or ""), variables)
    return variables


async def _from_source(
    pod: Object, container: str, source: Object, lookup: Lookup, allocatable: Mapping[str, str]
) -> str | None:
    if reference := source.get("fieldRef"):
        return field_value(pod, reference["fieldPath"])
    if reference := source.get("resourceFieldRef"):
        return resource_value(pod, reference, container, allocatable)
    for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
        if reference := source.get(key):
            obj = await lookup(kind, reference["name"])
            found = data_of(obj).get(reference["key"]) if obj is not None else None
            if found is not None:
                return found.decode()
            if reference.get("optional"):
                return None
            if obj is None:
                raise ConfigError(_missing(kind, reference["name"]))
            namespace = pod["metadata"]["namespace"]
            raise ConfigError(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")
    raise ConfigError(f"unsupported valueFrom: {', '.join(source) or 'empty'}")


def _missing(kind: str, name: str) -> str:
    return f'{kind.lower()} "{name}" not found'


def data_of(obj: Object) -> dict[str, bytes]:
    """Entries of a Secret or ConfigMap as bytes."""
    entries = {name: base64.b64decode(value) for name, value in (obj.get("binaryData") or {}).items()}
    if obj.get("kind") == "Secret":
        return entries | {name: base64.b64decode(value or "") for name, value in (obj.get("data") or {}).items()}
    return entries | {name: (value or "").encode() for name, value in (obj.get("data") or {}).items()}
