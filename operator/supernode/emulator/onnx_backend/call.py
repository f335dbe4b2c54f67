"""One node while it runs: its inputs, its attributes, and the device to launch kernels on.

Flows in: values. Flows out: launches, and the values they make. What an operator's entry (`operators`) is written
with. Not here: the order of nodes (`execute`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from supernode.emulator.client import Array, Device
from supernode.emulator.dtypes import DTYPES
from supernode.emulator.onnx_backend.graph import Graph, Node
from supernode.emulator.onnx_backend.values import AnyArray, DType, Tensor, Value, describe, storage
from supernode.errors import ModelError

#: An operator on the device: gives its results, or `NotImplemented` where it has no kernel for these inputs.
Lowering: TypeAlias = Callable[["Call"], Any]


class Call:
    """A node with the values of its inputs.

    Attributes:
        node: what is run.
        inputs: values; None where one is left out.
        device: where kernels run.
        version: of the operator set.
        run_graph: runs a graph inside the node on inputs, seeing the values around it.
    """

    __slots__ = ("_launch", "device", "inputs", "node", "run_graph", "version")

    def __init__(
        self,
        node: Node,
        inputs: Sequence[Value],
        device: Device,
        launch: Callable[..., Any],
        run_graph: Callable[[Graph, Sequence[Value]], list[Value]],
    ) -> None:
        self.node = node
        self.inputs = inputs
        self.device = device
        self.version = node.version
        self.run_graph = run_graph
        self._launch = launch

    # --- what it is given -----------------------------------------------------------------------------------------

    @property
    def attributes(self) -> Mapping[str, Any]:
        """As the model says them."""
        return self.node.attributes

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.node.attributes.get(name, default)

    def has(self, place: int) -> bool:
        """Whether an input is given."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def tensor(self, place: int) -> Tensor:
        """An input.

        Raises:
            ModelError: it is left out, or not a tensor.
        """
        value = self.inputs[place] if place < len(self.inputs) else None
        if not isinstance(value, Tensor):
            found = "left out" if value is None else describe(value)
            raise ModelError(f"input {place} must be a tensor, but is {found}")
        return value

    def array(self, place: int) -> Array:
        """An input on the device."""
        return self.tensor(place).on(self.device)

    def value(self, place: int) -> AnyArray:
        """An input on the host; waits for the device if only it knows."""
        return self.tensor(place).value()

    def ints(self, place: int, name: str = "", default: Sequence[int] | None = None) -> list[int] | None:
        """Whole numbers that are an input in newer operator sets and an attribute in older ones."""
        if self.has(place):
            return [int(n) for n in self.value(place).reshape(-1)]
        found = self.node.attributes.get(name, default)
        return None if found is None else [int(n) for n in found]

    def scalar(self, place: int, default: Any = None) -> Any:
        """The one element of an input as a Python number."""
        return self.value(place).reshape(-1)[0].item() if self.has(place) else default

    @property
    def dtype(self) -> DType:
        """Of the first input."""
        return self.tensor(0).dtype

    def computes(self, *dtypes: str) -> bool:
        """Whether every tensor given has one of these device dtypes."""
        allowed = {DTYPES[name] for name in dtypes}
        return all(value.dtype in allowed for value in self.inputs if isinstance(value, Tensor))

    # --- what it does ---------------------------------------------------------------------------------------------

    def launch(self, kernel: str, *arrays: Array, **attributes: Any) -> Any:
        """Launch a kernel of the table; gives the device's arrays."""
        return self._launch(kernel, arrays, attributes)

    def constant(self, value: Any, dtype: DType) -> Array:
        """A small array of the host on the device."""
        return self.device.array(np.asarray(value, dtype))

    def cast(self, array: Array, dtype: str) -> Array:
        """An array in another dtype of the device (itself if it has it)."""
        if array.dtype == dtype:
            return array
        out: Array = self.launch("cast", array, dtype=dtype)
        return out

    def out(self, array: Array, dtype: DType | None = None) -> Tensor:
        """A result of a launch as a value; `dtype` where the device's is not the model's."""
        return Tensor(DTYPES[array.dtype] if dtype is None else dtype, array.shape, array, None)


def known(value: Any, *, shapely: bool = False) -> Tensor:
    """A value that the host made."""
    array = np.asarray(value)
    return Tensor(array.dtype, array.shape, None, array, shapely)


def store(dtype: DType) -> str:
    """The device's dtype for elements of a NumPy type."""
    return storage(dtype)
