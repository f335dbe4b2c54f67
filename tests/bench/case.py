"""One measured figure, as every benchmark reports it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """A figure with its goal.

    Attributes:
        case: what was measured.
        value: the figure.
        unit: of value and goal.
        goal: the figure to reach, or None where none is set.
        better: `higher` or `lower`.
    """

    case: str
    value: float
    unit: str
    goal: float | None
    better: str
