"""How many workers a gang may have. Pure.

Flows in: a job's spec and the demand of its gang. Flows out: other sizes that it can run with, and the demand at one
of them. A gang whose data-parallel degree is fixed (`parallelism.data`) has one size; otherwise replicas are added or
taken away whole, and slices too.
"""

from __future__ import annotations

from dataclasses import replace

from supernode.api.job import TrainingJob, TrainingJobSpec
from supernode.errors import InputError
from supernode.scheduling.demand import GangDemand


def sized(demand: GangDemand, workers: int) -> GangDemand:
    """The demand with exactly so many workers; its data-parallel degree follows.

    Raises:
        InputError: the gang can't have that size.
    """
    if workers == demand.workers:
        return demand
    cut = demand.parallelism
    if cut is not None:
        ranks = cut.tensor * cut.pipeline * cut.context
        if workers * demand.devices % ranks:
            raise InputError(f"{workers} workers x {demand.devices} can't be cut by {ranks}", field="spec.workers")
        data = workers * demand.devices // ranks
        batch = cut.global_batch_size
        if batch is not None and batch % (data * cut.micro_batch_size):
            raise InputError(f"globalBatchSize {batch} can't be cut over data {data}", field="spec.workers")
        cut = replace(cut, data=data)
    fewest = None if demand.min_count is None else min(demand.min_count, workers)
    other = replace(demand, workers=workers, min_count=fewest, parallelism=cut)
    # Masks keep their identity, by which the scheduler knows gangs of one kind.
    return other.with_eligible(demand.eligible)


def model_at(job: TrainingJob, workers: int) -> TrainingJob:
    """The job as a gang of so many workers trains it: its data-parallel degree, and with it the batch, may follow."""
    if workers == job.spec.workers:
        return job
    return job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers})})


def sizes_of(spec: TrainingJobSpec) -> tuple[int, ...]:
    """Every number of workers that the gang may run with, the largest (all of them) first."""
    fewest, cut, devices = spec.min_count, spec.parallelism, spec.accelerators_per_worker
    if fewest >= spec.workers or cut.data is not None:
        return (spec.workers,)
    slices = spec.scheduling.constraints.slices
    step = slices[0].size if slices else 1
    ranks = cut.tensor * cut.pipeline * cut.context
    batch = cut.global_batch_size

    def possible(workers: int) -> bool:
        data, rest = divmod(workers * devices, ranks)
        whole = workers % step == 0 and rest == 0 and data * cut.context % cut.expert == 0
        return whole and (batch is None or batch % (data * cut.micro_batch_size) == 0)

    return (spec.workers, *(n for n in range(spec.workers - 1, fewest - 1, -1) if possible(n)))
