"""The cluster file: ordinary Kubernetes YAML that says what nodes a local cluster has, and what to apply to it.

In: text with Node, NodeSet and any other objects. Out: a `ClusterFile` with plain Node objects and the rest, in order.
A NodeSet is shorthand for many equal nodes; docs/local-cluster.md describes it:

    apiVersion: supernode.dev/v1alpha1
    kind: NodeSet
    metadata: {name: dcu}                 # nodes are dcu-0, dcu-1, ... unless the name holds {index} itself
    spec:
      count: 4
      start: 0                            # index of the first node
      template:                           # a Node without a name; {index}, {index//2} and {index%2} in any text
        metadata: {labels: {supernode.dev/supernode: "sn-{index//2}"}}
        status: {capacity: {cpu: "64"}}
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import yaml

from supernode.errors import InputError
from supernode.names import API_VERSION
from supernode.quantity import parse_resource

Object = dict[str, Any]

# More nodes than fit in one block of addresses (see agent/addresses.py) are surely a slip of the finger.
MAXIMUM_NODES: Final = 20_000
_INDEX: Final = re.compile(r"\{index(?:\s*(//|%)\s*([1-9][0-9]*))?\}")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file says.

    Attributes:
        nodes: Node objects, NodeSets expanded.
        objects: all others, to be applied.
    """

    nodes: tuple[Object, ...]
    objects: tuple[Object, ...]


def parse_cluster_file(text: str, source: str = "cluster file") -> ClusterFile:
    """Read a cluster file; InputError names the object and field that is wrong."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as exc:
        raise InputError(f"not YAML: {' '.join(str(exc).split())}", obj=source) from exc
    nodes: list[Object] = []
    objects: list[Object] = []
    for position, document in enumerate(_flatten(documents)):
        where = f"{source}, object {position + 1}"
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise InputError("must be a Kubernetes object with apiVersion and kind", obj=where)
        name = (document.get("metadata") or {}).get("name")
        if not isinstance(name, str) or not name:
            raise InputError("must be set", field="metadata.name", obj=f"{where}, a {document['kind']}")
        if document["kind"] == "NodeSet":
            nodes += expand_node_set(document)
        elif document["kind"] == "Node":
            nodes.append(document)
        else:
            objects.append(document)
    _check(nodes, source)
    return ClusterFile(tuple(nodes), tuple(objects))


def expand_node_set(node_set: Object) -> list[Object]:
    """The nodes that a NodeSet stands for."""
    name = node_set["metadata"]["name"]
    where = f"NodeSet {name}"
    if node_set.get("apiVersion") != API_VERSION:
        raise InputError(f"must be {API_VERSION}, found {node_set.get('apiVersion')!r}", field="apiVersion", obj=where)
    spec = node_set.get("spec") or {}
    unknown = sorted(set(spec) - {"count", "start", "template"})
    if unknown:
        raise InputError("unknown field; known are count, start and template", field=f"spec.{unknown[0]}", obj=where)
    count, start = spec.get("count"), spec.get("start", 0)
    for field, value, least in (("count", count, 1), ("start", start, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAXIMUM_NODES:
            message = f"must be a whole number from {least} to {MAXIMUM_NODES}, found {value!r}"
            raise InputError(message, field=f"spec.{field}", obj=where)
    pattern = name if _INDEX.search(name) else f"{name}-{{index}}"
    nodes = []
    for index in range(start, start + count):
        node = _substitute(copy.deepcopy(spec.get("template") or {}), index)
        node |= {"apiVersion": "v1", "kind": "Node"}
        node["metadata"] = {**(node.get("metadata") or {}), "name": _substitute(pattern, index)}
        nodes.append(node)
    return nodes


def _flatten(documents: Iterable[Any]) -> Iterable[Any]:
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "List":
            yield from document.get("items") or []
        else:
            yield document


def _substitute(value: Any, index: int) -> Any:
    if isinstance(value, str):
        return _INDEX.sub(lambda match: str(_number(match, index)), value)
    if isinstance(value, dict):
        return {_substitute(key, index): _substitute(entry, index) for key, entry in value.items()}
    if isinstance(value, list):
        return [_substitute(entry, index) for entry in value]
    return value


def _number(match: re.Match[str], index: int) -> int:
    operator, operand = match.groups()
    if operator is None:
        return index
    return index // int(operand) if operator == "//" else index % int(operand)


def _check(nodes: list[Object], source: str) -> None:
    if len(nodes) > MAXIMUM_NODES:
        raise InputError(f"{len(nodes)} nodes; at most {MAXIMUM_NODES}", obj=source)
    seen: set[str] = set()
    for node in nodes:
        name = node["metadata"]["name"]
        where = f"Node {name}"
        if not _NAME.fullmatch(name):
            raise InputError("must be lower-case letters, digits, '-' and '.'", field="metadata.name", obj=where)
        if name in seen:
            raise InputError("there is another node of this name", field="metadata.name", obj=where)
        seen.add(name)
        for section in ("capacity", "allocatable"):
            for resource, amount in ((node.get("status") or {}).get(section) or {}).items():
                try:
                    parse_resource(resource, amount)
                except InputError as exc:
                    raise InputError(exc.message, field=f"status.{section}[{resource}]", obj=where) from exc
