"""The backend as the `onnx` package defines one: a model is prepared once and run as often as wanted.

Flows in: ONNX messages and NumPy arrays. Flows out: NumPy arrays. Not here: the work itself (`execute`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from supernode.chips import Chip
from supernode.emulator.client import Device
from supernode.emulator.onnx_backend.execute import Executor
from supernode.emulator.onnx_backend.graph import Graph, read_model
from supernode.emulator.onnx_backend.host import make_evaluator
from supernode.emulator.onnx_backend.operators import OPERATORS
from supernode.emulator.onnx_backend.profile import Profile
from supernode.emulator.onnx_backend.sidecar import find_device
from supernode.emulator.onnx_backend.values import STRING, Tensor, from_host, to_host
from supernode.errors import InputError, ModelError, SupernodeError

#: Kinds of device that `supports_device` knows: the standard's tests run on `CPU`, where the emulator runs too.
KINDS = ("CPU", "HCU", "DCU")


class Prepared(BackendRep):  # type: ignore[misc]
    """A model on a device: its constants are in device memory until it is forgotten. Runs are one after the other.

    Attributes:
        device: where it runs.
        input_names: those that `run` must be given, in order; constants need not be.
        output_names: of what `run` gives.
    """

    def __init__(self, graph: Graph, device: Device) -> None:
        self.device = device
        self._graph = graph
        constants = set(graph.constants)
        self._executor = Executor(graph, device)
        self._one_at_a_time = threading.Lock()
        self.input_names = tuple(name for name in graph.inputs if name not in constants)
        self.output_names = graph.outputs
        self._result = namedtupledict("Outputs", self.output_names)

    def run(self, inputs: Any, *, profile: Profile | None = None, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            inputs: arrays in the order of `input_names` (or of all inputs, constants included), one array, or a
                mapping by name.
            profile: where the device time of each node is noted.
            kwargs: of other backends; ignored.

        Returns:
            The outputs, in order and by name (`out[0]`, `out["y"]`): arrays, lists (sequences), None (optionals).

        Raises:
            InputError: an input is missing or unknown.
            ModelError: a node cannot be run; names it.
            EmulatorError: the device refused, for instance because its memory is too small; says with which numbers.
        """
        feeds = {name: from_host(value) for name, value in self._named(inputs).items()}
        for name, value in feeds.items():
            if isinstance(value, Tensor):
                _check_type(name, value, self._graph.types.get(name))
        given = {id(value.host) for value in feeds.values() if isinstance(value, Tensor)}
        try:
            with self._one_at_a_time:
                found = self._run(feeds) if profile is None else self._profiled(feeds, profile)
        except SupernodeError as exc:
            blamed = self._executor.blame(exc)
            if blamed is exc:
                raise
            raise blamed from exc
        # What came in and goes out unchanged is the caller's own array: he gets a copy.
        own = [value.copy() if id(value) in given else value for value in found]
        return self._result(*own)

    def _run(self, feeds: dict[str, Any]) -> list[Any]:
        return [to_host(value) for value in self._executor.run(feeds)]

    def _profiled(self, feeds: dict[str, Any], profile: Profile) -> list[Any]:
        """Run with the time of each node noted, and those of the copies apart from them."""
        self._executor.profile = profile
        try:
            with profile.copying("inputs"):
                for value in feeds.values():
                    if isinstance(value, Tensor) and value.dtype != STRING:
                        value.on(self.device)
            results = self._executor.run(feeds)
            with profile.copying("outputs of the model"):
                found = [to_host(value) for value in results]
        finally:
            self._executor.profile = None
        profile.settle()
        return found

    def _named(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, Mapping):
            unknown = set(inputs) - set(self._graph.inputs)
            missing = [name for name in self.input_names if name not in inputs]
            if unknown or missing:
                words = [f"no value for {', '.join(missing)}"] * bool(missing)
                words += [f"no input is called {', '.join(sorted(unknown))}"] * bool(unknown)
                raise InputError(f"{'; '.join(words)}; the model has {', '.join(self.input_names)}")
            return dict(inputs)
        values = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        for names in (self.input_names, self._graph.inputs):
            if len(values) == len(names):
                return dict(zip(names, values, strict=True))
        raise InputError(
            f"{len(values)} inputs came; the model has {len(self.input_names)}: {', '.join(self.input_names)}"
        )


def _check_type(name: str, value: Tensor, declared: Any) -> None:
    """Refuse a tensor that is not what the model says of its input.

    Raises:
        InputError: says what is wanted and what came.
    """
    if declared is None or not declared.HasField("tensor_type") or not declared.tensor_type.elem_type:
        return
    kind = declared.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    fits = not kind.HasField("shape") or (
        len(sizes) == len(value.shape)
        and all(size in (None, own) for size, own in zip(sizes, value.shape, strict=True))
    )
    if value.dtype != dtype or not fits:
        words = ",".join("?" if size is None else str(size) for size in sizes)
        wanted = f"{dtype.name}[{words}]" if kind.HasField("shape") else dtype.name
        raise InputError(f"input {name} is {wanted}, but {value} came")


class EmulatorBackend(Backend):  # type: ignore[misc]
    """Runs models on an emulated device; all methods are class methods, as the `onnx` package wants it."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of a model can be run."""
        try:
            graph = read_model(model)
            for node in graph.all_nodes():
                if node.body is None and (node.domain, node.op_type) not in OPERATORS:
                    make_evaluator(node)
        except ModelError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Prepared:
        """Put a model on a device.

        Args:
            model: a ModelProto.
            device: `CPU`, `HCU` or `DCU` (all mean the emulated device), with `:1` and so on for another one.
            kwargs: `chip` (catalogue name or `Chip`) and `memory_bytes` ask for a device of this process (see
                `sidecar`); `directory`: where constants lie that the model keeps outside. Others are ignored.

        Raises:
            InputError: there is no such device.
            ModelError: the model cannot be read, or has an operator that nothing can run.
        """
        kind, _, index = device.partition(":")
        if kind not in KINDS or not (index or "0").isdecimal():
            raise InputError(
                f"device {device!r} is none of {', '.join(KINDS)}, with :NUMBER for another than the first"
            )
        chip: str | Chip | None = kwargs.get("chip")
        place = find_device(int(index or 0), chip=chip, memory_bytes=kwargs.get("memory_bytes"))
        return Prepared(read_model(model, kwargs.get("directory", "")), place)

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """Put a model on a device and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: Any,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run one node on arrays.

        Args:
            node: a NodeProto.
            inputs: one array per input that the node names.
            device: as for `prepare`.
            outputs_info: not needed.
            kwargs: as for `prepare`, and `opset_version` of the node's domain.
        """
        names = [name for name in dict.fromkeys(node.input) if name]
        infos = [helper.make_value_info(name, onnx.TypeProto()) for name in names]
        outputs = [helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name]
        version = kwargs.pop("opset_version", None)
        if version is None:
            version = onnx.defs.onnx_opset_version() if not node.domain else 1
        graph = helper.make_graph([node], node.name or node.op_type, infos, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, version)])
        values = [inputs] if isinstance(inputs, np.ndarray) else inputs
        return cls.prepare(model, device, **kwargs).run(values)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run on a kind of device."""
        return device.partition(":")[0] in KINDS
