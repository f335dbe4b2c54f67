"""Where a gang goes: a frozen value that `place` returns, `State.claim` takes, and `cluster` writes into the status.

The columns (`node_of`, `devices`) are the truth; `workers` is the same as objects, made when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from supernode.errors import InputError
from supernode.scheduling.demand import MOST_DEVICES
from supernode.steptime.predict import StepTime

_BITS: Final = np.uint64(1) << np.arange(MOST_DEVICES, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class WorkerPlacement:
    """One worker: its rank, node, pool, and the indices of its devices on that node, ascending."""

    rank: int
    node: str
    pool: str
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StageShare:
    """One pipeline stage of a gang over several pools: its pool, and how many layers each of its chunks has."""

    pool: str
    chunks: tuple[int, ...]

    @property
    def layers(self) -> int:
        """All its layers."""
        return sum(self.chunks)


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A place that was not taken.

    Attributes:
        pool: name.
        level: level of the domain; empty = not one domain of a group.
        domain: path of the domain, outermost first; empty when `level` is.
        seconds: predicted step time there; None = the model is not known.
    """

    pool: str
    level: str
    domain: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Placement:
    """A whole gang, placed.

    Attributes:
        key: ``namespace/name`` of the job.
        pool: that it runs in; several (`mix: Stages`) are joined by commas, in the order of the pipeline.
        group: SuperNodeGroup of the domain; empty = the nodes are not inside one domain of a group.
        level: name of the innermost level whose one domain holds the whole gang (``node`` for a single node);
            empty = none.
        domain: path of that domain, outermost first.
        nodes: names of the nodes used, each once, in rank order.
        node_of: int32 (workers,) index into `nodes` by rank; non-decreasing, so ranks are contiguous on a node.
        devices: uint8 (workers, devices per worker) device indices on the node, ascending in each row.
        predicted: step time on these links; None = the model is not known.
        runners_up: the next best places, best first.
        note: why there is no prediction although the model is known; empty otherwise.
        rows: int64 (nodes,) rows of `nodes` in the snapshot that it was made on; None = made elsewhere.
        names: node names of that snapshot.
        node_pools: pool of each of `nodes`, of a gang over several pools; empty = all in `pool`.
        stages: of a gang over several pools, what each pipeline stage got, first to last; empty otherwise. The ranks of
            a stage are neighbours then.
        promised: (pool, MFLOP/s) of effective compute, what it counts with in quotas; empty = with the peak of its
            devices (`promise`).
        taken: `loads`, where whoever made the placement knows them already.
    """

    key: str
    pool: str
    group: str
    level: str
    domain: tuple[str, ...]
    nodes: tuple[str, ...]
    node_of: NDArray[np.int32]
    devices: NDArray[np.uint8]
    predicted: StepTime | None = None
    runners_up: tuple[RunnerUp, ...] = ()
    note: str = ""
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    node_pools: tuple[str, ...] = ()
    stages: tuple[StageShare, ...] = ()
    promised: tuple[tuple[str, int], ...] = ()
    taken: tuple[NDArray[np.int64], NDArray[np.uint64]] | None = field(default=None, repr=False)

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of its pools, each once, in the order of the ranks."""
        return tuple(dict.fromkeys(self.node_pools)) or (self.pool,)

    @cached_property
    def workers(self) -> tuple[WorkerPlacement, ...]:
        """The workers in rank order."""
        pools = self.node_pools or (self.pool,) * len(self.nodes)
        return tuple(
            WorkerPlacement(rank, self.nodes[node], pools[node], tuple(devices))
            for rank, (node, devices) in enumerate(zip(self.node_of.tolist(), self.devices.tolist(), strict=True))
        )

    def masks(self) -> NDArray[np.uint64]:
        """uint64 (nodes,): the devices taken on each of `nodes`, bit i = device i."""
        return self.loads()[1]

    def loads(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """int64 (nodes,) workers and uint64 (nodes,) devices taken on each of `nodes`."""
        if self.taken is not None:
            return self.taken
        counts = np.bincount(self.node_of, minlength=len(self.nodes))
        bits = np.bitwise_or.reduce(_BITS[self.devices], axis=1)
        if self.rows is not None:  # ranks of a node are neighbours
            return counts, np.bitwise_or.reduceat(bits, np.cumsum(counts) - counts)
        result = np.zeros(len(self.nodes), dtype=np.uint64)
        np.bitwise_or.at(result, self.node_of, bits)
        return counts, result

    @classmethod
    def of(
        cls,
        key: str,
        workers: Sequence[WorkerPlacement],
        *,
        group: str = "",
        level: str = "",
        domain: Sequence[str] = (),
        predicted: StepTime | None = None,
        stages: Sequence[StageShare] = (),
        promised: Sequence[tuple[str, int]] = (),
    ) -> Placement:
        """A placement from its workers, as the job's status keeps them.

        Raises:
            InputError: no workers, ranks that are not 0, 1, ..., unequal numbers of devices, several pools on one
                node, or a device index that no node can have; names the job.
        """
        obj = f"TrainingJob {key}"
        for worker in workers:
            if any(type(number) is not int for number in (worker.rank, *worker.devices)):
                raise InputError(
                    f"ranks and devices are whole numbers, found {worker.rank!r} and {list(worker.devices)!r}",
                    field="status.placement.assignment",
                    obj=obj,
                )
        ordered = sorted(workers, key=lambda worker: worker.rank)
        if not ordered or [worker.rank for worker in ordered] != list(range(len(ordered))):
            raise InputError("ranks must be 0, 1, 2, ... without gaps", field="status.placement.assignment", obj=obj)
        width = len(ordered[0].devices)
        nodes: dict[str, int] = {}
        pools: dict[str, str] = {}
        for worker in ordered:
            pool = pools.setdefault(worker.node, worker.pool)
            if len(worker.devices) != width or worker.pool != pool or len(set(worker.devices)) != width:
                raise InputError(
                    f"worker {worker.rank}: all workers of a node need the same pool, and all the same number of "
                    "different devices",
                    field="status.placement.assignment",
                    obj=obj,
                )
            if not all(0 <= device < MOST_DEVICES for device in worker.devices):
                raise InputError(
                    f"worker {worker.rank}: device indices go from 0 to {MOST_DEVICES - 1}, "
                    f"found {list(worker.devices)}",
                    field="status.placement.assignment",
                    obj=obj,
                )
            nodes.setdefault(worker.node, len(nodes))
        devices = np.asarray([sorted(worker.devices) for worker in ordered], dtype=np.uint8)
        node_of = np.asarray([nodes[worker.node] for worker in ordered], dtype=np.int32)
        return cls(
            key=key,
            pool=",".join(dict.fromkeys(pools.values())),
            group=group,
            level=level,
            domain=tuple(domain),
            nodes=tuple(nodes),
            node_of=node_of,
            devices=devices.reshape(len(ordered), width),
            predicted=predicted,
            node_pools=tuple(pools.values()) if len(set(pools.values())) > 1 else (),
            stages=tuple(stages),
            promised=tuple(promised),
        )
