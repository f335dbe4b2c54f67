"""ONNX models on the emulated device, as a backend of the `onnx` package.

Flows in: ONNX models and NumPy arrays. Flows out: NumPy arrays, and the device time of each node (`Profile`). Needs the
extra `onnx`. Operators are launches of kernels of the device's table; those without a kernel are computed by the host
(`onnx.reference`) under the device's rules of memory, clock and dtypes. Not here: the kernels.

    from supernode.emulator import onnx_backend

    prepared = onnx_backend.prepare(onnx.load("model.onnx"))       # chip="nvidia-a100-80g", memory_bytes=...
    (y,) = prepared.run([x])
    tests = onnx.backend.test.BackendTest(onnx_backend, __name__)  # the package's own tests
"""

from typing import Final

from supernode.emulator.onnx_backend.backend import EmulatorBackend, Prepared
from supernode.emulator.onnx_backend.profile import Profile, Row, by_operator
from supernode.emulator.onnx_backend.sidecar import find_device

prepare: Final = EmulatorBackend.prepare
run_model: Final = EmulatorBackend.run_model
run_node: Final = EmulatorBackend.run_node
supports_device: Final = EmulatorBackend.supports_device
is_compatible: Final = EmulatorBackend.is_compatible

__all__ = [
    "EmulatorBackend",
    "Prepared",
    "Profile",
    "Row",
    "by_operator",
    "find_device",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]
