"""A rule that crosses fields, held once and said twice: in CEL for the API server, in Python for everyone else.

The API server refuses an object by the CEL form at `kubectl apply`; `read` applies the Python form to files that never
saw a server. A test draws random objects and compares the two. A rule about what may not change has only the CEL form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """Something wrong with an object.

    Attributes:
        field: path in the object, such as `spec.pools[0]`.
        message: what was asked, what was found, and what would help.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(frozen=True)
class Rule(Generic[T]):
    """One rule on values of the model T.

    Attributes:
        field: path below the model that the message is about, such as `.parallelism`; empty for the model itself.
        cel: the rule in CEL; `self` is the model's value with its defaults. Empty where the schema says it otherwise.
        message: what is wrong and what would help, one line, without numbers.
        numbers: CEL expression that gives a message with the numbers; `message` is used where it fails.
        holds: the rule in Python; None for a rule about a change (`oldSelf`).
        explain: the message with numbers, in Python.
    """

    field: str
    cel: str
    message: str
    numbers: str = ""
    holds: Callable[[T], bool] | None = None
    explain: Callable[[T], str] | None = None

    def validation(self) -> dict[str, Any]:
        """The entry of `x-kubernetes-validations`."""
        entry: dict[str, Any] = {"rule": self.cel, "message": self.message}
        if self.numbers:
            entry["messageExpression"] = self.numbers
        if self.field:
            entry["fieldPath"] = self.field
        return entry

    def problem(self, value: T, path: str) -> Problem | None:
        """What is wrong with `value`, which stands at `path`; None if nothing is."""
        if self.holds is None or self.holds(value):
            return None
        return Problem(f"{path}{self.field}", self.explain(value) if self.explain else self.message)
