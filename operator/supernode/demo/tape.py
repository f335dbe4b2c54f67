"""What a forward pass keeps for its backward pass: a stack per micro batch, as autograd has it."""

from __future__ import annotations

from typing import Any


class Tape:
    """Values in the order of the forward pass; the backward pass takes them in the opposite order."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def keep(self, *values: Any) -> None:
        """Keep what one layer needs."""
        self._kept.append(values)

    def take(self) -> Any:
        """The values that were kept last."""
        return self._kept.pop()
