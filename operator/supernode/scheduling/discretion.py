"""Which gangs a sentence may name: those of the namespace that reads it. Pure.

What a job's status and events say is read by everybody who may read the job. Names of jobs in other namespaces are
nobody's business there: of those only how many there are and what they hold is told. Whoever may see all jobs finds
the names in the operator's log and by `kubectl supernode why`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# Key of what a single pod holds, which no gang's place covers: `pod namespace/name`.
_POD = "pod "


def is_own(namespace: str, key: str) -> bool:
    """Whether a gang (`namespace/name`) is of that namespace."""
    return key.removeprefix(_POD).partition("/")[0] == namespace


def named(namespace: str, key: str) -> str:
    """A gang in a sentence for that namespace."""
    return key if is_own(namespace, key) else "a gang of another namespace"


def listed(namespace: str, keys: Sequence[str], most: int) -> str:
    """Several gangs: the first of its own by name, the others by their number."""
    own = [key for key in keys if is_own(namespace, key)]
    parts = own[:most]
    if len(own) > most:
        parts.append(f"{len(own) - most} more")
    if len(keys) > len(own):
        parts.append(others(len(keys) - len(own)))
    return joined(parts)


def holders(namespace: str, held: Mapping[str, int], most: int, *, own: bool = False) -> str:
    """`default/gpt holds 4, 2 gangs of other namespaces hold 12`; empty if nobody holds anything.

    Args:
        namespace: that reads it.
        held: devices by gang.
        most: gangs that are named.
        own: of its own namespace alone.
    """
    mine = [(key, count) for key, count in held.items() if is_own(namespace, key)]
    rest = [] if own else [count for key, count in held.items() if not is_own(namespace, key)]
    parts = [f"{key} holds {count}" for key, count in mine[:most]]
    if len(mine) > most:
        parts.append(f"{len(mine) - most} more of its namespace hold {sum(count for _, count in mine[most:])}")
    if rest:
        parts.append(f"{others(len(rest))} {'holds' if len(rest) == 1 else 'hold'} {sum(rest)}")
    return ", ".join(parts)


def joined(parts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = [*parts] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def others(count: int) -> str:
    """Gangs whose names are not told."""
    return "a gang of another namespace" if count == 1 else f"{count} gangs of other namespaces"
