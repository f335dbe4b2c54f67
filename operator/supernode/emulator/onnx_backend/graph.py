"""A model taken apart once: nodes with their attributes, constants, and when each value is used for the last time.

Flows in: the protobuf messages of a model. Flows out: `Graph`s of `Node`s. Calls of functions become graphs of their
own, with the attributes of the call filled in. Not here: operators (`operators`), running (`execute`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from supernode.emulator.onnx_backend.values import AnyArray
from supernode.errors import ModelError

#: Names of the standard's own domain.
STANDARD: Final = ("", "ai.onnx")


@dataclass
class Node:
    """One node.

    Attributes:
        name: its own, or one made of its operator and place.
        op_type, domain, version: the operator; the version is that of the operator set the model asks for.
        inputs, outputs: names of values; empty: left out.
        attributes: by name; tensors as arrays, graphs as `Graph`s.
        proto: the message, with the attributes of a function's call filled in.
        body: of a function's call.
        captured: names that its graphs take from around it.
        releases: names whose last use is here.
        lower: the operator's way onto the device, found by `execute` when the model is prepared.
    """

    name: str
    op_type: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: Any
    body: Graph | None = None
    captured: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    lower: Any = None

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op_type})"


@dataclass
class Graph:
    """A graph.

    Attributes:
        name: of the graph or function.
        inputs, outputs: names, in order.
        types: name -> TypeProto of inputs and outputs, where the model says it.
        constants: initial values by name.
        nodes: in the order they run.
        opsets: domain -> version.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, AnyArray] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    opsets: Mapping[str, int] = field(default_factory=dict)

    def all_nodes(self) -> Iterable[Node]:
        """Its nodes and those of every graph inside."""
        for node in self.nodes:
            yield node
            for inner in graphs_of(node):
                yield from inner.all_nodes()


def graphs_of(node: Node) -> list[Graph]:
    """The graphs inside a node."""
    found = [value for value in node.attributes.values() if isinstance(value, Graph)]
    return found if node.body is None else [*found, node.body]


@dataclass
class _Scope:
    """What holds for the nodes of one graph: operator sets, functions by (domain, name), a call's attributes."""

    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str], Any]
    given: Mapping[str, Any]
    calls: tuple[tuple[str, str], ...] = ()


def read_model(model: Any, directory: str = "") -> Graph:
    """Take a model apart.

    Args:
        model: a ModelProto.
        directory: where large constants lie that the model keeps outside; empty: nowhere.

    Raises:
        ModelError: it cannot be read.
    """
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    functions = {(_domain(f.domain), f.name): f for f in model.functions}
    graph = _read_graph(model.graph, _Scope(opsets, functions, {}), directory)
    _release(graph)
    return graph


def _domain(domain: str) -> str:
    return "" if domain in STANDARD else domain


def _read_graph(proto: Any, scope: _Scope, directory: str = "") -> Graph:
    constants = {tensor.name: _constant(tensor, directory) for tensor in proto.initializer}
    for sparse in proto.sparse_initializer:
        constants[sparse.values.name] = dense(sparse)
    types = {info.name: info.type for info in (*proto.input, *proto.output)}
    graph = Graph(
        proto.name,
        tuple(info.name for info in proto.input),
        tuple(info.name for info in proto.output),
        types,
        constants,
        opsets=scope.opsets,
    )
    graph.nodes = [_read_node(node, scope, f"{node.op_type}_{i}") for i, node in enumerate(proto.node)]
    return graph


def _constant(tensor: Any, directory: str) -> AnyArray:
    try:
        return np.asarray(numpy_helper.to_array(tensor, directory))
    except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as exc:
        raise ModelError(f"the constant {tensor.name!r} cannot be read: {exc}") from exc


def dense(sparse: Any) -> AnyArray:
    """A sparse tensor with its zeros."""
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    out = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        out.reshape(-1)[places] = values
    else:
        out[tuple(places.T)] = values
    return out


def _read_node(proto: Any, scope: _Scope, fallback: str) -> Node:
    proto = _filled(proto, scope.given)
    domain = _domain(proto.domain)
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        attributes[attribute.name] = _attribute(attribute, scope)
    node = Node(
        proto.name or fallback,
        proto.op_type,
        domain,
        scope.opsets.get(domain, 1),
        tuple(proto.input),
        tuple(proto.output),
        attributes,
        proto,
    )
    function = scope.functions.get((domain, proto.op_type))
    if function is not None:
        node.body = read_function(function, attributes_of(proto), scope)
    return node


def attributes_of(proto: Any) -> dict[str, Any]:
    """The attribute messages of a node by name."""
    return {attribute.name: attribute for attribute in proto.attribute}


def read_function(function: Any, given: Mapping[str, Any], scope: _Scope | None = None) -> Graph:
    """The body of a function for one call.

    Args:
        function: a FunctionProto.
        given: attribute messages of the call by name.
        scope: the functions that it may call; None: none.

    Raises:
        ModelError: it calls itself.
    """
    key = (_domain(function.domain), function.name)
    calls = () if scope is None else scope.calls
    if key in calls:
        raise ModelError(f"the function {function.name} calls itself: {' > '.join(name for _, name in (*calls, key))}")
    opsets = {_domain(entry.domain): entry.version for entry in function.opset_import}
    inner = {a.name: a for a in function.attribute_proto} | {
        name: value
        for name, value in given.items()
        if name in {*function.attribute} | set(attributes_of_function(function))
    }
    functions = {} if scope is None else scope.functions
    body = _Scope(opsets, functions, _Given(inner), (*calls, key))
    graph = Graph(function.name, tuple(function.input), tuple(function.output), opsets=opsets)
    graph.nodes = [_read_node(node, body, f"{node.op_type}_{i}") for i, node in enumerate(function.node)]
    return graph


def attributes_of_function(function: Any) -> list[str]:
    """Names of the attributes that have a default."""
    return [attribute.name for attribute in function.attribute_proto]


class _Given(dict[str, Any]):
    """Attributes of a function's call; a dictionary of its own, so that an empty one still means a call."""


def _filled(proto: Any, given: Mapping[str, Any]) -> Any:
    """The node with references to a function's attributes replaced; what the call leaves out is left out."""
    if not isinstance(given, _Given) or not _refers(proto):
        return proto
    out = onnx.NodeProto()
    out.CopyFrom(proto)
    del out.attribute[:]
    for attribute in proto.attribute:
        if attribute.ref_attr_name:
            value = given.get(attribute.ref_attr_name)
            if value is None:
                continue
            copy = onnx.AttributeProto()
            copy.CopyFrom(value)
            copy.name = attribute.name
            out.attribute.append(copy)
        elif attribute.type == onnx.AttributeProto.GRAPH:
            copy = onnx.AttributeProto()
            copy.CopyFrom(attribute)
            del copy.g.node[:]
            copy.g.node.extend(_filled(node, given) for node in attribute.g.node)
            out.attribute.append(copy)
        else:
            out.attribute.append(attribute)
    return out


def _refers(proto: Any) -> bool:
    return any(
        attribute.ref_attr_name
        or (attribute.type == onnx.AttributeProto.GRAPH and any(_refers(node) for node in attribute.g.node))
        for attribute in proto.attribute
    )


def _attribute(attribute: Any, scope: _Scope) -> Any:
    kind = attribute.type
    if kind == onnx.AttributeProto.GRAPH:
        return _read_graph(attribute.g, scope)
    if kind == onnx.AttributeProto.TENSOR:
        return np.asarray(numpy_helper.to_array(attribute.t))
    if kind == onnx.AttributeProto.SPARSE_TENSOR:
        return dense(attribute.sparse_tensor)
    value = helper.get_attribute_value(attribute)
    if kind == onnx.AttributeProto.STRING:
        return value.decode(errors="replace")
    if kind == onnx.AttributeProto.STRINGS:
        return [item.decode(errors="replace") for item in value]
    if kind in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return list(value)
    return value


def _release(graph: Graph) -> set[str]:
    """Say at each node which values nobody needs after it; gives the names that the graph takes from around it."""
    own = {*graph.inputs, *graph.constants}
    taken: set[str] = set()
    for node in graph.nodes:
        captured: set[str] = set()
        for value in node.attributes.values():
            if isinstance(value, Graph):
                captured |= _release(value)
        if node.body is not None:
            _release(node.body)
        node.captured = tuple(sorted(captured))
        taken |= {name for name in (*node.inputs, *captured) if name and name not in own}
        own |= set(node.outputs)
    taken |= {name for name in graph.outputs if name and name not in own}
    later = set(graph.outputs)
    for node in reversed(graph.nodes):
        used = {name for name in (*node.inputs, *node.captured, *node.outputs) if name}
        node.releases = tuple(sorted(name for name in used - later if name in own and name not in graph.constants))
        later |= used
    return taken


def release(graph: Graph) -> None:
    """Say at each node of a graph that was read on its own which values nobody needs after it."""
    _release(graph)
