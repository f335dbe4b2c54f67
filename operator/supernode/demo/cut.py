"""How model and batch are cut over the devices of a job, and which part each device has.

Flows in: the words of SUPERNODE_PARALLELISM (the job's `spec.parallelism`, as the operator hands it on) or a plain
number of devices. Flows out: a `Cut`, the `Place` of every device rank, and the ranks it works with. Ranks count
through tensor, pipeline and data, the fastest first, as the operator places them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supernode.errors import ModelError
from supernode.names import ENV_PARALLELISM

#: Words of `spec.parallelism` whose value this program takes as it is.
_DEGREES = {"tensor": "tensor", "pipeline": "pipeline", "data": "data"}


@dataclass(frozen=True)
class Place:
    """Where a device stands on each axis of the cut, counted from 0."""

    tensor: int
    pipeline: int
    data: int


@dataclass(frozen=True)
class Cut:
    """Degrees of parallelism.

    Attributes:
        tensor: devices that share each matrix.
        pipeline: stages, each a run of blocks.
        data: replicas.
        micro_batch: sequences that go through the stages together; 0: all of a replica's.
        batch: sequences of one replica and step; 0: the program's own default.
        sequence_parallel: tensor ranks share the rows of what they do not share the columns of.
        recompute: blocks keep only their input and run forward again in the backward pass.
        shard_optimizer: each replica keeps and updates its share of the optimizer's state (ZeRO 1).
        layers: of each stage, where the operator has shared them out over chips of different speed; empty: even.
        stages_last: ranks count through the replicas before the stages, as in a gang over several pools.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    micro_batch: int = 0
    batch: int = 0
    sequence_parallel: bool = False
    recompute: bool = False
    shard_optimizer: bool = False
    layers: tuple[int, ...] = ()
    stages_last: bool = False

    @property
    def devices(self) -> int:
        """Devices of the job."""
        return self.tensor * self.pipeline * self.data

    def place(self, rank: int) -> Place:
        """The place of a device rank."""
        rest, tensor = divmod(rank, self.tensor)
        if self.stages_last:
            pipeline, data = divmod(rest, self.data)
        else:
            data, pipeline = divmod(rest, self.pipeline)
        return Place(tensor, pipeline, data)

    def rank(self, place: Place) -> int:
        """The device rank at a place."""
        if self.stages_last:
            replica = place.pipeline * self.data + place.data
        else:
            replica = place.data * self.pipeline + place.pipeline
        return replica * self.tensor + place.tensor

    def tensor_ranks(self, place: Place) -> tuple[int, ...]:
        """The ranks that share this place's matrices, in order."""
        return tuple(self.rank(Place(t, place.pipeline, place.data)) for t in range(self.tensor))

    def data_ranks(self, place: Place) -> tuple[int, ...]:
        """The ranks that hold the same weights, in order."""
        return tuple(self.rank(Place(place.tensor, place.pipeline, d)) for d in range(self.data))

    def stage_rank(self, place: Place, stage: int) -> int:
        """The rank at the same place in another stage."""
        return self.rank(Place(place.tensor, stage, place.data))


def cut_of(words: Mapping[str, Any], devices: int) -> Cut:
    """The cut that a job's parallelism asks for.

    Args:
        words: of `spec.parallelism`; empty: one replica on each device.
        devices: of the job.

    Raises:
        ModelError: a degree that this program does not have, or degrees that are not as many as the devices.
    """
    for field in ("context", "expert", "interleave"):
        if int(words.get(field, 1)) != 1:
            raise ModelError(f"{field} is {words[field]}; this program cuts by tensor, pipeline and data", field=field)
    if int(words.get("zeroStage", 0)) > 1:
        raise ModelError(
            f"zeroStage is {words['zeroStage']}; this program shards the optimizer's state (1) only", field="zeroStage"
        )
    degrees = {name: int(words.get(field, 1)) for field, name in _DEGREES.items()}
    if not words:
        degrees["data"] = devices
    replicas = degrees["data"]
    whole = int(words.get("globalBatchSize") or 0)
    if whole % replicas:
        raise ModelError(f"globalBatchSize {whole} does not divide into {replicas} replicas", field="globalBatchSize")
    cut = Cut(
        **degrees,
        micro_batch=int(words.get("microBatchSize") or 0),
        batch=whole // replicas,
        sequence_parallel=bool(words.get("sequenceParallel", False)) and degrees["tensor"] > 1,
        recompute=words.get("recompute") == "Full",
        shard_optimizer=int(words.get("zeroStage", 0)) == 1 and replicas > 1,
        layers=tuple(int(stage["layers"]) for stage in words.get("stages") or ()),
        stages_last=_stages_last(words.get("rankOrder")),
    )
    if cut.devices != devices:
        raise ModelError(
            f"tensor {cut.tensor} x pipeline {cut.pipeline} x data {cut.data} = {cut.devices}, but the job has "
            f"{devices} devices",
            field="parallelism",
        )
    return cut


def _stages_last(order: Sequence[str] | None) -> bool:
    """Whether `rankOrder` is that of a gang over several pools.

    Raises:
        ModelError: an order that this program does not know.
    """
    usual = ["tensor", "context", "pipeline", "data"]
    if order is not None and list(order) not in (usual, [*usual[:2], "data", "pipeline"]):
        raise ModelError(
            f"rankOrder is {order}; this program counts through {usual}, or stages last", field="rankOrder"
        )
    return order is not None and list(order)[-1] == "pipeline"


def cut_from_environment(environment: Mapping[str, str], devices: int) -> Cut:
    """The cut that the operator hands to every worker; one replica on each device where it says nothing.

    Raises:
        ModelError: see `cut_of`; or the variable is not a JSON object.
    """
    text = environment.get(ENV_PARALLELISM, "")
    try:
        words = json.loads(text) if text else {}
    except ValueError as exc:
        raise ModelError(f"{ENV_PARALLELISM} is not JSON: {text[:80]!r}", field="parallelism") from exc
    if not isinstance(words, dict):
        raise ModelError(f"{ENV_PARALLELISM} is not a JSON object: {text[:80]!r}", field="parallelism")
    return cut_of(words, devices)
