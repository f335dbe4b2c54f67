"""How urgent a job is: the PriorityClasses of the cluster.

Flows in: a store of PriorityClass objects. Flows out: a `Priority` for a class name, by Kubernetes' own rules: no name
means the class that is the global default, and without one 0.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

from supernode.api.rules import Problem
from supernode.cluster.cache import Store
from supernode.cluster.kinds import Json

FIELD: Final = "spec.scheduling.priorityClassName"


@dataclass(frozen=True, slots=True)
class Priority:
    """`value`: higher goes first. `preempts`: it may make others give way (`preemptionPolicy`)."""

    value: int = 0
    preempts: bool = True
    name: str = ""


def priority_of(name: str | None, classes: Store) -> Priority | Problem:
    """The priority behind a class name, or what is wrong with the name."""
    known = {obj["metadata"]["name"]: obj for obj in classes.objects().values()}
    if name is None:
        defaults = [_priority(obj) for obj in known.values() if obj.get("globalDefault") is True]
        # Kubernetes takes the lowest of several.
        return min(defaults, key=lambda each: (each.value, each.name), default=Priority())
    if name in known:
        return _priority(known[name])
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known)[:10]) or 'none'}"
    return Problem(FIELD, f"no PriorityClass is called {name!r}; {advice}")


def _priority(obj: Json) -> Priority:
    value = obj.get("value")
    number = value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else 0
    return Priority(number, obj.get("preemptionPolicy") != "Never", obj["metadata"]["name"])
