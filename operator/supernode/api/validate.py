"""What only the cluster as a whole can say about an object: names that lead nowhere, figures that nobody knows.

In: models, and the other models that they refer to. Out: problems, each with its field, which the operator puts into
the condition `Accepted=False`; an empty list means accepted. What one object says about itself is checked by the
custom resource definition and by `read`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping

from supernode.api.group import NODE_LEVEL, SuperNodeGroup
from supernode.api.job import TrainingJob
from supernode.api.pool import AcceleratorPool, AcceleratorPoolSpec
from supernode.api.rules import Problem
from supernode.chips import Chip, chip_from_mapping, find_chip
from supernode.errors import ChipError

# Figures without which neither the emulator's clock nor the prediction works.
_NEEDED = ("memory_bytes", "memory_bandwidth")


def pool_chip(spec: AcceleratorPoolSpec) -> Chip:
    """The chip of a pool: from the catalogue or its `chipSpec`, with the pool's own resource names and link rate.

    Raises:
        ChipError: not in the catalogue, or no resource name; names the field.
    """
    try:
        if spec.chip_spec is not None:
            given = spec.chip_spec.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
            chip = chip_from_mapping(given, field="spec.chipSpec")
        else:
            chip = find_chip(spec.chip or "")
    except ChipError as exc:
        raise ChipError(exc.message, field=exc.field or "spec.chip") from exc
    if spec.resource_names:
        chip = dataclasses.replace(chip, resource_names=tuple(spec.resource_names))
    if not chip.resource_names:
        raise ChipError(
            f"no resource name is known for chip {chip.name}; write which extended resource counts it",
            field="spec.resourceNames",
        )
    if spec.interconnect is not None and spec.interconnect.bandwidth_gbps is not None:
        chip = dataclasses.replace(chip, link_bandwidth=spec.interconnect.bandwidth_gbps * 1e9)
    return chip


def validate_pool(pool: AcceleratorPool) -> list[Problem]:
    """Unknown chip, missing resource name, or a figure that an emulated pool can't do without."""
    field = "spec.chipSpec" if pool.spec.chip_spec is not None else "spec.chip"
    try:
        chip = pool_chip(pool.spec)
    except ChipError as exc:
        return [Problem(exc.field, exc.message)]
    if pool.spec.mode == "Hardware":
        return []
    needed = [*_NEEDED]
    if (pool.spec.devices_per_node or 1) > 1:
        needed.append("link_bandwidth")
    problems = [problem for name in needed if (problem := _missing(chip, name, field)) is not None]
    if not any(chip.tflops.values()):
        problems.append(Problem(field, _refusal(lambda: chip.peak_flops("f32")) or ""))
    return problems


def validate_group(group: SuperNodeGroup) -> list[Problem]:
    """Nothing yet: all that a group says is about itself, or about nodes (whose labels `Ready` tells about)."""
    del group
    return []


def validate_job(
    job: TrainingJob, pools: Mapping[str, AcceleratorPool], groups: Iterable[SuperNodeGroup]
) -> list[Problem]:
    """Unknown pools, levels and storage; workers larger than any node; figures that the chips lack for the model.

    Args:
        job: the job.
        pools: every AcceleratorPool of the cluster by name.
        groups: every SuperNodeGroup of the cluster.
    """
    spec = job.spec
    groups = list(groups)
    levels = {NODE_LEVEL} | {level.name for group in groups for level in group.spec.levels}
    stores = {store.name for group in groups for store in group.spec.storage}
    constraints = spec.scheduling.constraints
    found = [_unknown(name, pools, f"spec.pools[{i}]", "AcceleratorPool") for i, name in enumerate(spec.pools)]
    where = "spec.scheduling.constraints"
    for index, wish in enumerate(constraints.topology):
        found.append(_unknown(wish.level, levels, f"{where}.topology[{index}].level", "level in any SuperNodeGroup"))
    for index, cut in enumerate(constraints.slices):
        found.append(_unknown(cut.level, levels, f"{where}.slices[{index}].level", "level in any SuperNodeGroup"))
    if spec.storage is not None:
        what = "storage in any SuperNodeGroup"
        if spec.storage.dataset is not None:
            found.append(_unknown(spec.storage.dataset, stores, "spec.storage.dataset", what))
        if spec.storage.checkpoint is not None:
            found.append(_unknown(spec.storage.checkpoint.store, stores, "spec.storage.checkpoint.store", what))
    problems = [problem for problem in found if problem is not None]
    for index, name in enumerate(spec.pools):
        if name in pools:
            problems += _pool_problems(job, pools[name], f"spec.pools[{index}]")
    return problems


def _pool_problems(job: TrainingJob, pool: AcceleratorPool, field: str) -> list[Problem]:
    """Why a job can never run in a pool that exists."""
    spec, name = job.spec, pool.metadata.name
    problems = []
    size = pool.spec.devices_per_node
    if size is not None and spec.accelerators_per_worker > size:
        problems.append(
            Problem(
                "spec.acceleratorsPerWorker",
                f"{spec.accelerators_per_worker} accelerators are asked for each worker, but a node of pool {name} "
                f"has {size}; use more workers with at most {size} each",
            )
        )
    broken = validate_pool(pool)
    if broken:
        problems.append(Problem(field, f"AcceleratorPool {name} is not accepted: {broken[0]}"))
    elif spec.model is not None:
        chip, dtype = pool_chip(pool.spec), spec.model.dtype
        message = _refusal(lambda: chip.peak_flops(dtype))
        if message is not None:
            problems.append(Problem("spec.model.dtype", f"in pool {name}: {message}"))
    return problems


def _unknown(name: str, known: Collection[str], field: str, what: str) -> Problem | None:
    if name in known:
        return None
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if near:
        advice = f"did you mean {near[0]}?"
    elif known:
        advice = f"known: {', '.join(sorted(known)[:10])}"
    else:
        advice = "there is none yet"
    return Problem(field, f"no {what} is called {name!r}; {advice}")


def _missing(chip: Chip, figure: str, field: str) -> Problem | None:
    message = _refusal(lambda: chip.figure(figure))
    return None if message is None else Problem(field, message)


def _refusal(ask: object) -> str | None:
    """The message of the ChipError that `ask()` raises; None if it raises none."""
    try:
        ask()  # type: ignore[operator]
    except ChipError as exc:
        return exc.message
    return None
