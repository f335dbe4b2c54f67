"""Fixtures: running one kernel, as the sidecar does it."""

from tests.builders.kernels import kernel

__all__ = ["kernel"]
