"""A client's calls that fail: their words, and where they are kept until the client asks.

Flows in: exceptions of work items. Flows out: errors of `supernode.errors` that name the call's number, kernel and
arguments. Not here: work items (`work`, `launch`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from supernode.emulator.kernels import Spec, describe
from supernode.emulator.runtime.buffer import Buffer
from supernode.errors import (
    KernelError,
    KernelIndexError,
    KernelTypeError,
    KernelValueError,
    OutOfDeviceMemoryError,
    SupernodeError,
)

#: Failures that are kept for the client; later ones are only counted.
_KEPT: Final = 16
# What a kernel's code raises, and the error of ours that is one of those too.
_OURS: Final = ((IndexError, KernelIndexError), (TypeError, KernelTypeError), (ValueError, KernelValueError))


class Failures:
    """What went wrong in a session's asynchronous calls, in the order of the calls' numbers when it is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: list[tuple[int, SupernodeError]] = []
        self._more = 0

    def add(self, number: int, error: SupernodeError) -> None:
        """Keep a failure."""
        with self._lock:
            if len(self._errors) < _KEPT:
                self._errors.append((number, error))
            else:
                self._more += 1

    def take(self) -> SupernodeError | None:
        """The failure of the earliest call, once; None when all went well."""
        with self._lock:
            if not self._errors:
                return None
            errors = sorted(self._errors, key=lambda pair: pair[0])
            more = len(errors) - 1 + self._more
            self._errors.clear()
            self._more = 0
        first = errors[0][1]
        if not more:
            return first
        error = type(first)(f"{first} (and {more} later calls failed)")
        error.call = first.call
        return error


class Call:
    """A call of the client, for messages: made for every command, put into words only when it fails."""

    __slots__ = ("attributes", "failures", "name", "number", "specs")

    def __init__(
        self, number: int, name: str, specs: Sequence[Spec], attributes: Mapping[str, Any], failures: Failures
    ) -> None:
        self.number = number
        self.name = name
        self.specs = specs
        self.attributes = attributes
        self.failures = failures

    def failed(self, exc: BaseException, where: str) -> SupernodeError:
        """Translate an exception into ours, with the call in its message, and keep it for the client."""
        kind: type[SupernodeError] = next((ours for foreign, ours in _OURS if isinstance(exc, foreign)), KernelError)
        text = str(exc) or type(exc).__name__
        if isinstance(exc, SupernodeError):
            kind = type(exc)
        elif isinstance(exc, MemoryError):
            kind, text = OutOfDeviceMemoryError, f"the sidecar's host memory is exhausted ({text})"
        words = describe(self.name, self.specs, self.attributes)
        # A kernel's own refusal already begins with the call, and a refusal of memory with the device.
        text = text.removeprefix(f"{words}: ").removeprefix(f"{where}: ")
        error = kind(f"call {self.number}, {words} on {where}: {text}")
        error.__cause__ = exc
        error.call = self.number
        self.failures.add(self.number, error)
        return error


def poison(buffers: Sequence[Buffer], error: SupernodeError) -> None:
    """Mark buffers as unusable."""
    for buffer in buffers:
        buffer.error = error
        buffer.data = None


def first_error(buffers: Sequence[Buffer]) -> SupernodeError | None:
    """Why one of the buffers cannot be used, if so."""
    for buffer in buffers:
        if buffer.error is not None:
            return buffer.error
    return None
