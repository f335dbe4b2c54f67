"""The answer of `supernode place`: as an object for programs, and as tables for people.

Flows in: a placement and its sentence. Flows out: the fields of `--json`; from these, text. Not here: deciding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from supernode.commands.chips import table
from supernode.scheduling.placement import Placement
from supernode.steptime.mixed import MixedStepTime
from supernode.steptime.predict import StepTime

Object = dict[str, Any]

#: Every field of an answer, as it is where nothing was decided.
EMPTY: Mapping[str, Any] = {
    "placed": False,
    "reason": "",
    "message": "",
    "pool": None,
    "level": None,
    "domain": None,
    "workers": [],
    "stages": [],
    "predicted_step_s": None,
    "prediction": None,
    "runners_up": [],
    "alternatives": [],
}


def placed(placement: Placement, message: str) -> Object:
    """The answer about a gang that has a place."""
    step = placement.predicted
    return {
        "placed": True,
        "message": message,
        "pool": placement.pool,
        "level": placement.level or None,
        "domain": "/".join(placement.domain) or None,
        "workers": [
            {
                "rank": worker.rank,
                "node": worker.node,
                "devices": list(worker.devices),
                **({"pool": worker.pool} if placement.node_pools else {}),
            }
            for worker in placement.workers
        ],
        "stages": _stages(placement),
        "predicted_step_s": None if step is None else step.seconds,
        "prediction": None if step is None else _prediction(step),
        "runners_up": [
            {
                "pool": rival.pool,
                "level": rival.level or None,
                "domain": "/".join(rival.domain) or None,
                "predicted_step_s": rival.seconds,
            }
            for rival in placement.runners_up
        ],
    }


def _stages(placement: Placement) -> list[Object]:
    """Per pipeline stage its pool, layers, device ranks, seconds and memory; empty if it is not placed by stages."""
    step = placement.predicted
    if not placement.stages or not isinstance(step, MixedStepTime):
        return []
    each = int(placement.devices.size) // len(placement.stages)
    return [
        {
            "pool": share.pool,
            "layers": share.layers,
            **({"chunks": list(share.chunks)} if len(share.chunks) > 1 else {}),
            "device_ranks": [index * each, (index + 1) * each - 1],
            "micro_batch_s": one.seconds,
            "memory_gib": one.memory_bytes / 2**30,
        }
        for index, (share, one) in enumerate(zip(placement.stages, step.stages, strict=True))
    ]


def _prediction(step: StepTime) -> Object:
    return {
        "parts": asdict(step.parts),
        "mfu": step.mfu,
        "memory_gib": step.memory_bytes / 2**30,
        "fits": step.fits,
        "calibrated": step.calibrated,
        "notes": list(step.notes),
    }


def human(answer: Object) -> str:
    """The answer as a person reads it."""
    if not answer["placed"]:
        lines = [f"not placed ({answer['reason']}): {answer['message']}"]
        return "\n".join([*lines, *(f"- {words}" for words in answer["alternatives"])])
    mixed = "," in (answer["pool"] or "")
    rows: list[tuple[str, ...]] = [("RANKS", "NODE", *(("POOL",) if mixed else ()), "DEVICES")]
    pools = {worker["node"]: worker.get("pool", "") for worker in answer["workers"]}
    for first, last, node, devices in _runs(answer["workers"]):
        pool = (pools[node],) if mixed else ()
        each = "; ".join(",".join(map(str, mine)) for mine in devices)
        rows.append((_span(first, last), node, *pool, each))
    lines = [answer["message"], "", table(rows)]
    if answer["stages"]:
        cut: list[tuple[str, ...]] = [("STAGE", "POOL", "LAYERS", "DEVICE RANKS", "MICRO BATCH", "MEMORY")]
        for index, stage in enumerate(answer["stages"]):
            layers = "+".join(map(str, stage.get("chunks") or [stage["layers"]]))
            needed = f"{stage['memory_gib']:.1f} GiB"
            cut.append(
                (
                    str(index),
                    stage["pool"],
                    layers,
                    _span(*stage["device_ranks"]),
                    _time(stage["micro_batch_s"]),
                    needed,
                )
            )
        lines += ["", table(cut)]
    prediction = answer["prediction"]
    if prediction is not None:
        parts = ", ".join(f"{name} {_time(seconds)}" for name, seconds in prediction["parts"].items() if seconds)
        lines += ["", f"step {_time(answer['predicted_step_s'])}: {parts}"]
        lines.append(f"memory {prediction['memory_gib']:.1f} GiB a device; MFU {prediction['mfu']:.1%}")
        lines += [f"note: {note}" for note in prediction["notes"]]
    if answer["runners_up"]:
        rivals = [("NEXT BEST", "LEVEL", "POOL", "STEP")]
        for rival in answer["runners_up"]:
            step = rival["predicted_step_s"]
            shown = "-" if step is None else _time(step)
            rivals.append((rival["domain"] or "-", rival["level"] or "-", rival["pool"], shown))
        lines += ["", table(rivals)]
    return "\n".join(lines)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _time(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"


def _runs(workers: list[Object]) -> list[tuple[int, int, str, list[list[int]]]]:
    """Ranks of one node together: (first, last, node, devices of each)."""
    result: list[tuple[int, int, str, list[list[int]]]] = []
    for worker in workers:
        if result and result[-1][2] == worker["node"]:
            first, _, node, devices = result[-1]
            result[-1] = (first, worker["rank"], node, [*devices, worker["devices"]])
        else:
            result.append((worker["rank"], worker["rank"], worker["node"], [list(worker["devices"])]))
    return result
