"""For a model that is too large as it is cut: the fastest cut over the same devices that their memory holds.

Flows in: a snapshot, a demand and its refusal. Flows out: a sentence for `supernode place`. Not here: the search itself
(`steptime.search`), and changing the job.
"""

from __future__ import annotations

from supernode.errors import ChipError, ModelError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.score import link_levels
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.topology import Level
from supernode.scheduling.unplaceable import Unplaceable
from supernode.steptime.calibration import ASSUMED_NETWORK_BANDWIDTH, ASSUMED_NETWORK_LATENCY
from supernode.steptime.model import Parallelism
from supernode.steptime.search import Found, search


def cut_that_fits(result: Unplaceable, snapshot: Snapshot, demand: GangDemand) -> str:
    """`fits the memory of pool dcu with tensor 8, zeroStage 1: 41.2 GiB a device`, or what the smallest cut needs.

    Workers are taken to be joined by the pool's scale-out network. Empty if nothing is known that would help.
    """
    pool, model = snapshot.pool(result.nearest.pool), demand.model
    if pool is None or model is None:
        return ""
    cut = demand.parallelism or Parallelism(data=demand.workers * demand.devices)
    bandwidth = pool.chip.scale_out_bandwidth or ASSUMED_NETWORK_BANDWIDTH
    levels = link_levels(pool, (Level("network", bandwidth, ASSUMED_NETWORK_LATENCY),))
    tree = (levels, (demand.workers, demand.devices))
    try:
        best = search(pool.chip, model, demand.workers * demand.devices, cut.batch, tree)[0]
    except (ChipError, ModelError):
        return ""
    gib = f"{best.memory_bytes / 2**30:.1f} GiB"
    if not best.fits:
        return (
            f"no cut over {demand.workers * demand.devices} devices of pool {pool.name} fits: the smallest needs {gib}"
        )
    return f"fits the memory of pool {pool.name} with {_words(best)}: {gib} a device"


def _words(found: Found) -> str:
    """The fields of `spec.parallelism` that are not as usual."""
    cut = found.parallelism
    fields = {
        "tensor": cut.tensor,
        "pipeline": cut.pipeline,
        "data": cut.data,
        "context": cut.context,
        "expert": cut.expert,
        "interleave": cut.interleave,
        "microBatchSize": cut.micro_batch_size,
    }
    words = [f"{name} {count}" for name, count in fields.items() if count > 1]
    words += ["sequenceParallel"] if cut.sequence_parallel else []
    words += [f"zeroStage {cut.zero_stage}"] if cut.zero_stage else []
    words += [f"recompute {cut.recompute}"] if cut.recompute != "None" else []
    return ", ".join(words) or "no split"
