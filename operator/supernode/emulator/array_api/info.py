"""What the namespace says about itself: capabilities, default dtypes, devices.

Flows in: the connection to the sidecar. Flows out: plain values. Not here: the dtypes themselves (`types`).
"""

from __future__ import annotations

from supernode.emulator.array_api import session
from supernode.emulator.array_api.types import DEFAULT_COMPLEX, DEFAULT_INTEGER, DEFAULT_REAL, STANDARD, DType, isdtype
from supernode.emulator.client import Device
from supernode.emulator.kernels.table import MAX_AXES


class Info:
    """Answers of `__array_namespace_info__()`."""

    def capabilities(self) -> dict[str, bool | int | None]:
        """What the namespace can do."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": MAX_AXES}

    def default_device(self) -> Device:
        """The first visible device."""
        return session.device()

    def devices(self) -> list[Device]:
        """The visible devices of the pod."""
        return list(session.emulator().devices)

    def default_dtypes(self, *, device: Device | None = None) -> dict[str, DType]:
        """The dtypes that Python numbers become."""
        return {
            "real floating": DEFAULT_REAL,
            "complex floating": DEFAULT_COMPLEX,
            "integral": DEFAULT_INTEGER,
            "indexing": DEFAULT_INTEGER,
        }

    def dtypes(self, *, device: Device | None = None, kind: str | tuple[str, ...] | None = None) -> dict[str, DType]:
        """The standard's dtypes of a kind (default: all); floats of 16 and 8 bits are there beside them."""
        return {dtype.name: dtype for dtype in STANDARD if kind is None or isdtype(dtype, kind)}


def __array_namespace_info__() -> Info:  # noqa: N807 - the standard's name
    """What the namespace can do, and on what."""
    return Info()
