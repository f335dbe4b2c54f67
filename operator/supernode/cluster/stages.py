"""Pipeline stages of a gang that is placed by stages, as JSON: in the job's status and for its program.

Flows in and out: `StageShare` values and their JSON. Not here: the rest of a placement (`translate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from supernode.cluster.kinds import Json
from supernode.scheduling.placement import StageShare

#: How device ranks count in such a gang, the fastest first; in others data comes last, behind pipeline.
RANK_ORDER: Final = ("tensor", "context", "data", "pipeline")


def stages_json(stages: Sequence[StageShare]) -> list[Json]:
    """Pool and layers of each stage, first to last; with an interleaved schedule also the layers of each chunk."""
    result: list[Json] = []
    for stage in stages:
        chunks = {"chunks": list(stage.chunks)} if len(stage.chunks) > 1 else {}
        result.append({"pool": stage.pool, "layers": stage.layers, **chunks})
    return result


def stages_of(status: Json) -> list[StageShare]:
    """The stages in a job's `status.placement`.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: a status that nobody can have written.
    """
    return [
        StageShare(str(stage.get("pool") or ""), tuple(int(n) for n in stage.get("chunks") or [stage["layers"]]))
        for stage in status.get("stages") or []
    ]
