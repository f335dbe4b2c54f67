"""The wiring of one SuperNodeGroup: an immutable tree of domains, as arrays.

Flows in: levels from the outside in and each member node's label values. Flows out: a `Topology`. Not here: what is
free (that is the `Snapshot`), and choosing.

Nodes stand in wiring order (by domain path, then by row, which is by name), so that every domain of every level is one
contiguous run: rolling up is `np.add.reduceat`, and taking a domain is a slice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from supernode.errors import InputError

Int32 = NDArray[np.int32]
#: Name of the implied innermost level: the node itself.
NODE_LEVEL: Final = "node"
_MOST_LEVELS: Final = 16


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the wiring.

    Attributes:
        name: such as ``spine``; unique in its group; ``node`` is taken.
        bandwidth: bytes/s of one accelerator, one way, inside a domain of this level.
        latency: seconds per hop.
    """

    name: str
    bandwidth: float
    latency: float


@dataclass(frozen=True, eq=False, slots=True)
class Topology:
    """The tree of one group. All arrays are read-only.

    Attributes:
        name: of the SuperNodeGroup.
        levels: outermost first, without the node; L levels.
        node_rows: int32 (n,) rows of the member nodes in the snapshot, in wiring order.
        node_domain: int32 (n, L) the domain of each of these nodes on each level. Domains are numbered per level from
            0 in wiring order, so every column is non-decreasing.
        domain_names: per level, the label value of each domain.
        parents: per level, int32 (domains,) the domain one level further out; -1 on level 0.
        starts: per level, int32 (domains + 1,) run of each domain in `node_rows`.
        unlabelled: int32 (m,) rows of nodes that the group selects but that lack a label; they are in no domain.
        generation: of the state that built it.
    """

    name: str
    levels: tuple[Level, ...]
    node_rows: Int32
    node_domain: Int32
    domain_names: tuple[tuple[str, ...], ...]
    parents: tuple[Int32, ...]
    starts: tuple[Int32, ...]
    unlabelled: Int32
    generation: int = 0

    def level_index(self, name: str) -> int:
        """Index of a level; L for the node level; -1 if there is none of that name."""
        if name == NODE_LEVEL:
            return len(self.levels)
        return next((i for i, level in enumerate(self.levels) if level.name == name), -1)

    @lru_cache(maxsize=65536)  # noqa: B019 - immutable, and few: what it keeps alive is small
    def path(self, level: int, domain: int) -> tuple[str, ...]:
        """Names of a domain and the domains around it, outermost first."""
        names: list[str] = []
        while level >= 0:
            names.append(self.domain_names[level][domain])
            domain = int(self.parents[level][domain])
            level -= 1
        return tuple(reversed(names))


def check_levels(group: str, levels: Sequence[Level]) -> None:
    """Refuse levels that no wiring can have.

    Raises:
        InputError: none or too many, a name twice, or figures that are not positive numbers; names group and field.
    """
    obj = f"SuperNodeGroup {group}"
    if not 1 <= len(levels) <= _MOST_LEVELS:
        raise InputError(f"needs 1 to {_MOST_LEVELS} levels, found {len(levels)}", field="spec.levels", obj=obj)
    seen: set[str] = set()
    for index, level in enumerate(levels):
        where = f"spec.levels[{index}]"
        if not isinstance(level.name, str) or not level.name or level.name == NODE_LEVEL or level.name in seen:
            raise InputError(
                f"{level.name!r} is empty, taken twice or the name of the implied innermost level {NODE_LEVEL!r}",
                field=f"{where}.name",
                obj=obj,
            )
        seen.add(level.name)
        check_figure(level.bandwidth, f"{where}.bandwidthGBps", obj, zero=False)
        check_figure(level.latency, f"{where}.latencyMicroseconds", obj)


def check_figure(value: object, field: str, obj: str, *, zero: bool = True) -> None:
    """Refuse what is no finite number of 0 or more (`zero`: False = above 0).

    Raises:
        InputError: names object and field.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf or (value == 0 and not zero):  # type: ignore[operator]
        least = "0 or more" if zero else "above 0"
        raise InputError(f"must be {least} and finite, found {value!r}", field=field, obj=obj)


def build_topology(
    name: str,
    levels: Sequence[Level],
    labels_by_row: Mapping[int, Sequence[str | None]],
    generation: int = 0,
) -> Topology:
    """The tree of a group from its nodes' labels.

    Two domains of the same name under different parents are different domains.

    Args:
        name: of the group.
        levels: outermost first.
        labels_by_row: row of each selected node -> its label value per level, outermost first; a node with a missing
            (None or empty) value ends in `Topology.unlabelled`.
        generation: stamp to carry.

    Raises:
        InputError: levels that can't be (see `check_levels`), or a node whose values are not one per level.
    """
    check_levels(name, levels)
    depth = len(levels)
    labelled: list[tuple[tuple[str, ...], int]] = []
    unlabelled: list[int] = []
    for row, values in labels_by_row.items():
        if len(values) != depth:
            raise InputError(f"a node has {len(values)} label values for {depth} levels", obj=f"SuperNodeGroup {name}")
        path = tuple(value for value in values if value)
        if len(path) == depth:
            labelled.append((path, row))
        else:
            unlabelled.append(row)
    labelled.sort()
    domain = np.zeros((len(labelled), depth), dtype=np.int32)
    names: list[list[str]] = [[] for _ in levels]
    parents: list[list[int]] = [[] for _ in levels]
    starts: list[list[int]] = [[] for _ in levels]
    previous: tuple[str, ...] | None = None
    for index, (path, _) in enumerate(labelled):
        for level in range(depth):
            if previous is None or path[: level + 1] != previous[: level + 1]:
                parents[level].append(len(names[level - 1]) - 1 if level else -1)
                names[level].append(path[level])
                starts[level].append(index)
            domain[index, level] = len(names[level]) - 1
        previous = path
    return Topology(
        name=name,
        levels=tuple(levels),
        node_rows=_read_only([row for _, row in labelled]),
        node_domain=_frozen(domain),
        domain_names=tuple(tuple(column) for column in names),
        parents=tuple(_read_only(column) for column in parents),
        starts=tuple(_read_only([*column, len(labelled)]) for column in starts),
        unlabelled=_read_only(sorted(unlabelled)),
        generation=generation,
    )


def _read_only(values: Sequence[int]) -> Int32:
    return _frozen(np.asarray(values, dtype=np.int32))


def _frozen(array: Int32) -> Int32:
    array.setflags(write=False)
    return array
