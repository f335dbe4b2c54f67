"""Running a graph: nodes in order, each as launches on the device, on the host where the device has no kernel.

Flows in: a graph and the values of its inputs. Flows out: the values of its outputs. A value is dropped after the last
node that needs it, and its device memory with it. Not here: what an operator is on the device (`operators`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from supernode.emulator.client import Array, Device
from supernode.emulator.kernels import TABLE
from supernode.emulator.onnx_backend import host
from supernode.emulator.onnx_backend.call import Call
from supernode.emulator.onnx_backend.graph import Graph, Node, graphs_of
from supernode.emulator.onnx_backend.operators import OPERATORS
from supernode.emulator.onnx_backend.profile import Profile
from supernode.emulator.onnx_backend.values import STRING, Tensor, Value
from supernode.errors import EmulatorError, InputError, ModelError, SupernodeError

#: Nodes whose calls are remembered, to say which one failed.
_REMEMBERED: Final = 1 << 16
#: Results that are shapes by nature.
_SHAPES: Final = frozenset(("Shape", "Size"))


class Scope:
    """The values of a graph that runs, and those around it."""

    __slots__ = ("around", "values")

    def __init__(self, values: dict[str, Value], around: Scope | None) -> None:
        self.values = values
        self.around = around

    def find(self, name: str) -> Value:
        """A value by name.

        Raises:
            ModelError: no node has made it.
        """
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.around
        raise ModelError(f"nothing makes the value {name!r}")


class Executor:
    """Runs one model on one device.

    Args:
        graph: of the model.
        device: where its kernels run.
    """

    def __init__(self, graph: Graph, device: Device) -> None:
        self.graph = graph
        self.device = device
        self.profile: Profile | None = None
        self._constants: dict[int, dict[str, Tensor]] = {}
        self._evaluators: dict[int, Any] = {}
        self._started: deque[tuple[int, Node]] = deque(maxlen=_REMEMBERED)
        self._prepare(graph)

    def _prepare(self, graph: Graph) -> None:
        """Put constants on the device and find each node's way."""
        constants = self._constants[id(graph)] = {}
        for name, data in graph.constants.items():
            shapely = host.constant_is_shape(data)
            tensor = constants[name] = Tensor(data.dtype, data.shape, None, data, shapely)
            if not shapely and data.dtype != STRING:
                tensor.on(self.device)
                if data.size > host.SHAPE_ELEMENTS:
                    tensor.host = None  # the device has it
        graph.constants = {}
        for node in graph.nodes:
            if node.body is None:
                node.lower = OPERATORS.get((node.domain, node.op_type))
                if node.lower is None:
                    self._evaluator(node)
            for inner in graphs_of(node):
                self._prepare(inner)

    def _evaluator(self, node: Node) -> Any:
        found = self._evaluators.get(id(node))
        if found is None:
            found = self._evaluators[id(node)] = host.make_evaluator(node)
        return found

    def run(self, feeds: dict[str, Value]) -> list[Value]:
        """Run the model on the values of its inputs.

        Raises:
            ModelError: a node cannot be run; names it.
            EmulatorError: the device refused.
        """
        self._started.clear()
        return self._run_graph(self.graph, feeds, None)

    def blame(self, exc: SupernodeError) -> SupernodeError:
        """A failure that the device tells of later, with the name of the node whose call it was."""
        call = getattr(exc, "call", 0)
        for before, node in reversed(self._started):
            if call and before < call:
                return _named(exc, node)
        return exc

    def _run_graph(self, graph: Graph, feeds: Mapping[str, Value], around: Scope | None) -> list[Value]:
        scope = Scope({**self._constants[id(graph)], **feeds}, around)
        values = scope.values
        started, connection = self._started, self.device.emulator.connection
        for node in graph.nodes:
            started.append((connection.calls, node))
            inputs = [scope.find(name) if name else None for name in node.inputs]
            try:
                results = self._run_node(node, inputs, scope)
            except (InputError, EmulatorError) as exc:
                # The device may tell only now of a call that an earlier node made.
                raise (self.blame(exc) if getattr(exc, "call", 0) else _named(exc, node)) from exc
            for name, result in zip(node.outputs, results, strict=False):
                if name:
                    values[name] = result
            del inputs, results
            for name in node.releases:
                values.pop(name, None)
        return [scope.find(name) for name in graph.outputs]

    def _run_node(self, node: Node, inputs: Sequence[Value], scope: Scope) -> Sequence[Value]:
        shapes = _on_shapes(node, inputs)
        profile = self.profile
        if profile is None:
            return self._compute(node, inputs, scope, shapes)
        where = "shapes" if shapes or node.op_type in _SHAPES else "device"
        row = profile.enter(node, "graph" if graphs_of(node) else where)
        try:
            return self._compute(node, inputs, scope, shapes)
        finally:
            if self._on_host:
                row.where, self._on_host = "host", False
            profile.leave()

    _on_host = False

    def _compute(self, node: Node, inputs: Sequence[Value], scope: Scope, shapes: bool) -> Sequence[Value]:
        if node.body is not None:
            given = [*inputs, *[None] * (len(node.body.inputs) - len(inputs))]
            return self._run_graph(node.body, dict(zip(node.body.inputs, given, strict=True)), None)
        if shapes:
            results = host.compute(node, self._evaluator(node), inputs)
            for result in results:
                if isinstance(result, Tensor):
                    result.shapely = True
            return results
        if node.lower is not None:

            def inside(graph: Graph, given: Sequence[Value]) -> list[Value]:
                return self._run_graph(graph, dict(zip(graph.inputs, given, strict=False)), scope)

            results = node.lower(Call(node, inputs, self.device, self._launch, inside))
            if results is not NotImplemented:
                return results if isinstance(results, tuple | list) else (results,)
        return self._reference(node, inputs)

    def _reference(self, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
        """The host computes; the results go to the device, and the launch that stands for it costs device time."""
        self._on_host = True
        results = host.compute(node, self._evaluator(node), inputs)
        arrays = [value.on(self.device) for value in (*results, *inputs) if _on_device(value)]
        if arrays:
            self._launch("host_operator", tuple(arrays), {})
        return results

    def _launch(self, kernel: str, arrays: tuple[Array, ...], attributes: dict[str, Any]) -> Any:
        if self.profile is not None:
            self.profile.launched(TABLE.plan(kernel, tuple(array.spec for array in arrays), attributes).cost)
        return self.device.launch(kernel, *arrays, **attributes)


def _on_device(value: Value) -> bool:
    return isinstance(value, Tensor) and value.dtype != STRING


def _on_shapes(node: Node, inputs: Sequence[Value]) -> bool:
    """Whether a node is arithmetic on shapes: everything it is given is a shape or a small constant."""
    if node.op_type not in host.SHAPE_ARITHMETIC or node.domain or not inputs:
        return False
    if not all(value is None or host.is_shape(value) for value in inputs):
        return False
    if node.op_type == "Cast":
        return node.attributes.get("to") in (6, 7, 9)
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return fill is not None and fill.dtype.kind in "iub" and int(inputs[0].value().prod()) <= host.SHAPE_ELEMENTS
    if node.op_type in ("Expand", "Tile", "Range"):
        return _small(node, inputs)
    return True


def _small(node: Node, inputs: Sequence[Value]) -> bool:
    if node.op_type == "Range":
        start, limit, step = (int(value.value().reshape(-1)[0]) for value in inputs)
        return step != 0 and (limit - start) / step <= host.SHAPE_ELEMENTS
    return bool(abs(int(inputs[1].value().prod())) * max(inputs[0].size, 1) <= host.SHAPE_ELEMENTS)


def _named(exc: SupernodeError, node: Node) -> SupernodeError:
    """The error with the node's name, the innermost node only."""
    if getattr(exc, "node_is_named", False):
        return exc
    if isinstance(exc, InputError):
        named: SupernodeError = type(exc)(exc.message, obj=exc.obj or str(node), field=exc.field)
    else:
        named = type(exc)(f"{node}: {exc}")
    named.node_is_named = True  # type: ignore[attr-defined]
    return named
