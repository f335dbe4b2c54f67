"""How long a step takes when a gang's pipeline stages run in several pools.

Flows in: a snapshot, a demand, and which nodes take how many workers of each run of stages. Flows out: predictions.
Not here: which runs are worth timing (`mix`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from supernode.errors import ChipError, InputError, ModelError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.placement import StageShare, WorkerPlacement
from supernode.scheduling.score import innermost, link_levels
from supernode.scheduling.snapshot import Int64, PoolInfo, Snapshot
from supernode.scheduling.stores import NO_STORAGE, StorageUse, far_from, storage_at
from supernode.scheduling.topology import Level, Topology
from supernode.scheduling.work import positions_of
from supernode.steptime.calibration import ASSUMED_NETWORK_BANDWIDTH, ASSUMED_NETWORK_LATENCY
from supernode.steptime.collectives import LinkLevel, Links
from supernode.steptime.cuts import cuts_of
from supernode.steptime.mixed import MixedStepTime, Shortage, Stage, pace, predict_mixed
from supernode.steptime.stage import send_seconds
from supernode.steptime.storage import Storage
from supernode.steptime.wiring import Wiring, wiring_of


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """Neighbouring pipeline stages in one pool.

    Attributes:
        pool: that they run in.
        stages: how many.
        rows: int64 (k,) rows of its nodes, in rank order.
        takes: int64 (k,) workers on each.
    """

    pool: PoolInfo
    stages: int
    rows: Int64
    takes: Int64


class Clock:
    """Times runs of one gang's stages on one snapshot.

    Raises:
        InputError: a demand without model or parallelism.
    """

    def __init__(self, snapshot: Snapshot, demand: GangDemand) -> None:
        if demand.model is None or demand.parallelism is None:
            raise InputError("needs a model and a parallelism", field="spec.mix", obj=f"TrainingJob {demand.key}")
        self._snapshot = snapshot
        #: The gang.
        self.demand = demand
        self._model, self._cut = demand.model, demand.parallelism
        #: One stage as a job of its own: its ranks count as they do in any job.
        self._alone = replace(self._cut, pipeline=1, interleave=1, global_batch_size=None)
        self._known: dict[object, MixedStepTime | Shortage] = {}
        self._alike: dict[tuple[str, int], Stage] = {}

    @property
    def stages(self) -> int:
        """Pipeline stages of the gang."""
        return self._cut.pipeline

    def workers_of(self, first: int, stages: int) -> int:
        """Workers of a run of stages; runs begin and end where workers do."""
        each = self._cut.devices // self._cut.pipeline
        return ((first + stages) * each) // self.demand.devices - (first * each) // self.demand.devices

    def stage_pace(self, pool: PoolInfo, share: int) -> float:
        """Seconds of one layer on a pool's chip, its nodes side by side with `share` workers each.

        Raises:
            ChipError: a figure of the chip is missing.
            ModelError: the model can't be cut like that.
        """
        return float(pace(pool.chip, self._model, self._cut, self._compact(pool, share).wiring).layer.seconds)

    def side_by_side(self, split: Sequence[tuple[PoolInfo, int, int]]) -> MixedStepTime | Shortage:
        """The step if each pool's nodes stood side by side; (pool, stages, workers of a node) along the pipeline."""
        key = tuple((pool.name, stages, share) for pool, stages, share in split)
        if key not in self._known:
            stages: list[Stage] = []
            for pool, count, share in split:
                stages += [self._compact(pool, share)] * count
            levels = self._near(split[0][0])
            one_node = len(split) == 1 and split[0][2] >= self.demand.workers
            borders = _border(levels, 1 if one_node else 0)
            self._known[key] = predict_mixed(stages, self._model, self._cut, borders)
        return self._known[key]

    def step(self, runs: Sequence[Run], layers: Sequence[Sequence[int]] | None = None) -> MixedStepTime | Shortage:
        """The step on the links between exactly these nodes; `layers`: of each stage's chunks, if they are settled."""
        rows = np.concatenate([np.repeat(run.rows, run.takes) for run in runs])
        ranks = np.repeat(rows, self.demand.devices)
        each = self._cut.devices // self._cut.pipeline
        pools = [run.pool for run in runs for _ in range(run.stages)]
        parts = [ranks[stage * each : (stage + 1) * each] for stage in range(self._cut.pipeline)]
        stages = [Stage(pool.chip, self._wiring(pool, part)) for pool, part in zip(pools, parts, strict=True)]
        storage = NO_STORAGE if self.demand.storage is None else self._storage(self.demand.storage, pools, rows)[0]
        return predict_mixed(stages, self._model, self._cut, self._borders(pools, parts), storage, layers)

    def far(self, runs: Sequence[Run]) -> int:
        """Stores of the gang that these nodes are not all close to."""
        use = self.demand.storage
        rows = np.concatenate([run.rows for run in runs])
        return 0 if use is None else self._storage(use, [run.pool for run in runs], rows)[1]

    def _storage(self, use: StorageUse, pools: Sequence[PoolInfo], rows: Int64) -> tuple[Storage, int]:
        """What the gang gets of its stores on these rows, and how many of them are far."""
        network = min((pool.chip.scale_out_bandwidth or ASSUMED_NETWORK_BANDWIDTH for pool in pools), default=None)
        for topology in self._snapshot.topologies:
            positions = self._positions(topology, rows)
            if (positions >= 0).all():
                domains = topology.node_domain[positions].T
                return storage_at(use, topology, domains, network), far_from(use, topology, domains)
        domains = rows.reshape(1, -1).astype(np.int32)
        return storage_at(use, None, domains, network), far_from(use, None, domains)

    def common(self, rows: Int64) -> tuple[str, int, tuple[str, ...], Topology | None]:
        """Group, index of the innermost level of which one domain holds all rows (-1: none), its path, the tree."""
        for topology in self._snapshot.topologies:
            positions = self._positions(topology, rows)
            if (positions < 0).any():
                continue
            level = innermost(topology.node_domain[positions].T)
            path = topology.path(level, int(topology.node_domain[positions[0], level])) if level >= 0 else ()
            return topology.name, level, path, topology
        return "", -1, (), None

    def grouped(self, rows: Int64) -> Int64:
        """int64 (k,): the order in which every domain's nodes stand side by side, domains by their first node."""
        _, domains = self._domains((), rows)
        first: list[Int64] = []
        for level in range(domains.shape[0]):
            _, begins, inverse = np.unique(domains[level], return_index=True, return_inverse=True)
            first.append(begins[inverse])
        return np.lexsort(tuple(reversed(first)))

    # --- links ------------------------------------------------------------------------------------------------------
    def _positions(self, topology: Topology, rows: Int64) -> Int64:
        return positions_of(topology, len(self._snapshot.node_names))[rows]

    def _domains(self, pools: Sequence[PoolInfo], rows: Int64) -> tuple[tuple[Level, ...], Int64]:
        """Levels without the node, and int64 (levels + 1, rows): domains per level, the node itself last."""
        for topology in self._snapshot.topologies:
            positions = self._positions(topology, rows)
            if (positions >= 0).all():
                return topology.levels, np.vstack((topology.node_domain[positions].T.astype(np.int64), rows))
        rates = [pool.chip.scale_out_bandwidth or ASSUMED_NETWORK_BANDWIDTH for pool in pools]
        bandwidth = min(rates, default=ASSUMED_NETWORK_BANDWIDTH)
        network = Level("network", bandwidth, ASSUMED_NETWORK_LATENCY)
        return (network,), np.vstack((np.zeros_like(rows), rows))

    def _wiring(self, pool: PoolInfo, ranks: Int64) -> Wiring:
        """Links of one stage's own groups; `ranks`: rows of its devices."""
        levels, domains = self._domains((pool,), ranks)
        return wiring_of(link_levels(pool, levels), domains, self._alone)

    def _borders(self, pools: Sequence[PoolInfo], parts: Sequence[Int64]) -> Links:
        """The slowest pair of neighbouring ranks of two neighbouring stages."""
        cuts = cuts_of(self._cut)
        slowest: tuple[float, Links] | None = None
        pairs = [(index, index + 1) for index in range(len(parts) - 1)]
        if self._cut.interleave > 1:
            pairs.append((len(parts) - 1, 0))  # from the last stage's chunk to the first stage's next one
        seen: set[tuple[object, ...]] = set()
        for one, two in pairs:
            both = np.concatenate((parts[one], parts[two]))
            levels, domains = self._domains((pools[one], pools[two]), both)
            apart = domains[:, : parts[one].size] != domains[:, parts[one].size :]
            # On no level apart: the same node. Else the links of the level around the outermost border are used.
            outermost = int(np.where(apart.any(axis=0), apart.argmax(axis=0), len(levels) + 1).min()) - 1
            for pool in (pools[one], pools[two]):
                key = (pool.name, levels, outermost)
                if key in seen:
                    continue
                seen.add(key)
                links = _border(link_levels(pool, levels), max(outermost, 0))
                seconds = float(send_seconds(self._model, cuts, _only_pipeline(links)))
                if slowest is None or seconds > slowest[0]:
                    slowest = (seconds, links)
        if slowest is None:
            raise InputError("a mix needs at least 2 stages", field="spec.parallelism.pipeline")
        return slowest[1]

    def _near(self, pool: PoolInfo) -> tuple[LinkLevel, ...]:
        """The fastest level between nodes that there is, and the pool's nodes."""
        levels = [level for topology in self._snapshot.topologies for level in topology.levels]
        network = Level("network", pool.chip.scale_out_bandwidth or ASSUMED_NETWORK_BANDWIDTH, ASSUMED_NETWORK_LATENCY)
        fastest = max([network, *levels], key=lambda level: level.bandwidth)
        return link_levels(pool, (fastest,))

    def _compact(self, pool: PoolInfo, share: int) -> Stage:
        known = self._alike.get((pool.name, share))
        if known is None:
            known = self._alike[pool.name, share] = self._side_by_side(pool, share)
        return known

    def _side_by_side(self, pool: PoolInfo, share: int) -> Stage:
        devices = self._alone.devices
        nodes = np.arange(devices, dtype=np.int64) // max(1, share * self.demand.devices)
        return Stage(pool.chip, wiring_of(self._near(pool), np.vstack((np.zeros_like(nodes), nodes)), self._alone))


def settled_step(
    snapshot: Snapshot, demand: GangDemand, workers: Sequence[WorkerPlacement], stages: Sequence[StageShare]
) -> MixedStepTime | None:
    """The step of a gang that is placed by stages, wherever its workers are now; None = it can't be predicted."""
    row = {name: index for index, name in enumerate(snapshot.node_names)}
    pools = {name: snapshot.pool(name) for name in dict.fromkeys(worker.pool for worker in workers)}
    runs: list[Run] = []
    try:
        for name, pool in pools.items():
            if pool is None:
                return None
            rows = np.asarray([row[worker.node] for worker in workers if worker.pool == name], dtype=np.int64)
            count = sum(stage.pool == name for stage in stages)
            runs.append(Run(pool, count, rows, np.ones_like(rows)))
        step = Clock(snapshot, demand).step(runs, [stage.chunks for stage in stages])
    except (KeyError, InputError, ChipError, ModelError):
        return None
    return step if isinstance(step, MixedStepTime) else None


def _border(levels: tuple[LinkLevel, ...], at: int) -> Links:
    """A pair of ranks whose traffic uses the links of one level."""
    sizes = tuple(2 if index == at else 1 for index in range(len(levels)))
    return Links(levels, sizes, (1,) * len(levels))


def _only_pipeline(links: Links) -> Wiring:
    return Wiring(links, links, links, links, links)
