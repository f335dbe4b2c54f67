"""Rules of a TrainingJob that cross its fields, and what of it may not change while it runs.

Each is said in CEL for the API server and in Python for files that never saw one; a test compares the two. The server
evaluates all of them at every write, of the status too, and for each `self.field` it copies the schemas of all that
object's fields: so a rule asks first what usually settles it, stands as deep in the object as it can, and names a part
that it needs often once, by `[part].all(name, ...)`.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Final

from supernode.api.rules import Rule

if TYPE_CHECKING:
    from supernode.api.job import Constraints, TrainingJob, TrainingJobSpec

# Model ranks and total accelerators in CEL. The schema's bounds keep both far inside 64 bits.
_MODEL = "self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.context"
_TOTAL = "self.workers * self.acceleratorsPerWorker"
# Data ranks: given, or what is left (at least 1, so that nothing is divided by zero when the sum is wrong anyway).
_DATA = f"(has(self.parallelism.data) ? self.parallelism.data : ({_TOTAL} < {_MODEL} ? 1 : ({_TOTAL}) / ({_MODEL})))"
# The same, of p: the parallelism.
_P_MODEL = "p.tensor * p.pipeline * p.context"
_P_DATA = f"(has(p.data) ? p.data : ({_TOTAL} < {_P_MODEL} ? 1 : ({_TOTAL}) / ({_P_MODEL})))"
_SUM = "self.parallelism.tensor, self.parallelism.pipeline, self.parallelism.context"
_SIZES = f"self.workers, self.acceleratorsPerWorker, {_TOTAL}"
_SUSPEND: Final = "can change only while the job is suspended (spec.runPolicy.suspend: true)"


def _ranks(spec: TrainingJobSpec) -> int:
    """Devices of one replica: tensor x pipeline x context."""
    cut = spec.parallelism
    return cut.tensor * cut.pipeline * cut.context


def _multiplies(spec: TrainingJobSpec) -> bool:
    given = spec.parallelism.data
    if given is not None:
        return _ranks(spec) * given == spec.accelerators
    return spec.accelerators % _ranks(spec) == 0


def _sum_text(spec: TrainingJobSpec) -> str:
    cut = spec.parallelism
    total = f"workers {spec.workers} x acceleratorsPerWorker {spec.accelerators_per_worker} = {spec.accelerators}"
    left = f"tensor {cut.tensor} x pipeline {cut.pipeline} x context {cut.context}"
    if cut.data is None:
        return f"{left} = {_ranks(spec)} does not divide {total}"
    return f"{left} x data {cut.data} = {_ranks(spec) * cut.data}, but {total}"


def _nested(constraints: Constraints) -> bool:
    sizes = [item.size for item in constraints.slices]
    return all(outer % inner == 0 for outer, inner in itertools.pairwise(sizes))


def _divides(field: str, size: str, ranks: str, size_name: str, ranks_name: str) -> Rule[Any]:
    """A size of the model that a degree of parallelism must divide; the names are attributes of the Python models."""

    def numbers(spec: TrainingJobSpec) -> tuple[int, int]:
        return getattr(spec.model, size_name), getattr(spec.parallelism, ranks_name)

    def explain(spec: TrainingJobSpec) -> str:
        whole, parts = numbers(spec)
        return f"model.{size} {whole} can not be split over {ranks} {parts}"

    return Rule[Any](
        field=field,
        cel=f"!has(self.model) || self.model.{size} % self.parallelism.{ranks} == 0",
        message=f"parallelism.{ranks} must divide model.{size}",
        numbers=f"'model.{size} %d can not be split over {ranks} %d'"
        f".format([self.model.{size}, self.parallelism.{ranks}])",
        holds=lambda spec: spec.model is None or numbers(spec)[0] % numbers(spec)[1] == 0,
        explain=explain,
    )


def _fixed(field: str, *, optional: bool = False, path: str = "") -> Rule[Any]:
    """A field that may change only while the job is suspended."""
    path = path or field
    same = f"self.{path} == oldSelf.{path}"
    if optional:
        same = f"(has(self.{path}) ? has(oldSelf.{path}) && {same} : !has(oldSelf.{path}))"
    return Rule[Any](field=f".{path}", cel=f"{same} || oldSelf.runPolicy.suspend", message=_SUSPEND)


CONSTRAINT_RULES: Final[tuple[Rule[Any], ...]] = (
    Rule[Any](
        field=".topology",
        cel="!has(self.topology) || self.topology.all(a, self.topology.exists_one(b, a.level == b.level))",
        message="a level is named twice",
        holds=lambda constraints: len({item.level for item in constraints.topology}) == len(constraints.topology),
    ),
    Rule[Any](
        field=".slices",
        cel="!has(self.slices) || [0, 1, 2].all(i, i + 1 >= size(self.slices) || "
        "self.slices[i].size % self.slices[i + 1].size == 0)",
        message="slices go from the outside in: each size must be a multiple of the next",
        holds=_nested,
    ),
)

JOB_RULES: Final[tuple[Rule[Any], ...]] = (
    Rule[Any](
        field=".pools",
        cel="",  # the schema's list-type says it
        message="a pool is named twice",
        holds=lambda spec: len(set(spec.pools)) == len(spec.pools),
    ),
    Rule[Any](
        field=".parallelism",
        cel="[self.parallelism].all(p, "
        f"has(p.data) ? {_P_MODEL} * p.data == {_TOTAL} : ({_TOTAL}) % ({_P_MODEL}) == 0)",
        message="tensor x pipeline x data x context must equal workers x acceleratorsPerWorker",
        numbers=f"has(self.parallelism.data) ? "
        "'tensor %d x pipeline %d x context %d x data %d = %d, but workers %d x acceleratorsPerWorker %d = %d'"
        f".format([{_SUM}, self.parallelism.data, {_MODEL} * self.parallelism.data, {_SIZES}]) : "
        "'tensor %d x pipeline %d x context %d = %d does not divide workers %d x acceleratorsPerWorker %d = %d'"
        f".format([{_SUM}, {_MODEL}, {_SIZES}])",
        holds=_multiplies,
        explain=_sum_text,
    ),
    Rule[Any](
        field=".parallelism.globalBatchSize",
        cel="[self.parallelism].all(p, !has(p.globalBatchSize) || "
        f"p.globalBatchSize % (p.microBatchSize * {_P_DATA}) == 0)",
        message="must be a multiple of microBatchSize x data",
        numbers="'globalBatchSize %d is not a multiple of microBatchSize %d x data %d'.format("
        f"[self.parallelism.globalBatchSize, self.parallelism.microBatchSize, {_DATA}])",
        holds=lambda spec: (
            spec.parallelism.global_batch_size is None
            or spec.parallelism.global_batch_size % (spec.parallelism.micro_batch_size * spec.data) == 0
        ),
        explain=lambda spec: (
            f"globalBatchSize {spec.parallelism.global_batch_size} is not a multiple of microBatchSize "
            f"{spec.parallelism.micro_batch_size} x data {spec.data}"
        ),
    ),
    Rule[Any](
        field=".parallelism.expert",
        cel=f"[self.parallelism].all(p, p.expert == 1 || ({_P_DATA} * p.context) % p.expert == 0)",
        message="must divide data x context, from which the expert ranks are taken",
        holds=lambda spec: (spec.data * spec.parallelism.context) % spec.parallelism.expert == 0,
    ),
    _divides(".parallelism.tensor", "attentionHeads", "tensor", "attention_heads", "tensor"),
    _divides(".parallelism.context", "sequenceLength", "context", "sequence_length", "context"),
    _divides(".parallelism.expert", "experts", "expert", "experts", "expert"),
    Rule[Any](
        field=".parallelism.pipeline",
        cel="!has(self.model) || self.model.layers >= self.parallelism.pipeline * self.parallelism.interleave",
        message="the model must have at least pipeline x interleave layers",
        numbers="'model.layers %d can not fill pipeline %d x interleave %d'"
        ".format([self.model.layers, self.parallelism.pipeline, self.parallelism.interleave])",
        holds=lambda spec: (
            spec.model is None or spec.model.layers >= spec.parallelism.pipeline * spec.parallelism.interleave
        ),
        explain=lambda spec: (
            f"model.layers {spec.model.layers} can not fill pipeline {spec.parallelism.pipeline} x "
            f"interleave {spec.parallelism.interleave}"
        ),
    ),
    Rule[Any](
        field=".parallelism.interleave",
        cel="[self.parallelism].all(p, p.interleave == 1 || p.pipeline > 1)",
        message="interleaving needs at least 2 pipeline stages",
        holds=lambda spec: spec.parallelism.interleave == 1 or spec.parallelism.pipeline > 1,
    ),
    Rule[Any](
        field=".mix",
        cel="self.mix == 'None' || (size(self.pools) > 1 && self.parallelism.pipeline > 1)",
        message="Stages needs at least two pools and parallelism.pipeline of at least 2",
        holds=lambda spec: spec.mix == "None" or (len(spec.pools) > 1 and spec.parallelism.pipeline > 1),
    ),
    Rule[Any](
        field=".scheduling.policy.gang.minCount",
        cel="!has(self.scheduling.policy.gang.minCount) || self.scheduling.policy.gang.minCount <= self.workers",
        message="must be at most workers",
        numbers="'minCount %d is more than workers %d'.format([self.scheduling.policy.gang.minCount, self.workers])",
        holds=lambda spec: spec.min_count <= spec.workers,
        explain=lambda spec: f"minCount {spec.min_count} is more than workers {spec.workers}",
    ),
    Rule[Any](
        field=".scheduling.constraints.slices",
        cel="!has(self.scheduling.constraints.slices) || "
        "self.scheduling.constraints.slices.all(s, self.workers % s.size == 0)",
        message="workers must be a multiple of each slice's size",
        numbers="'workers %d can not be cut into slices of %d'.format([self.workers, "
        "self.scheduling.constraints.slices.filter(s, self.workers % s.size != 0)[0].size])",
        holds=lambda spec: all(spec.workers % item.size == 0 for item in spec.scheduling.constraints.slices),
        explain=lambda spec: (
            f"workers {spec.workers} can not be cut into slices of "
            f"{next(s.size for s in spec.scheduling.constraints.slices if spec.workers % s.size)}"
        ),
    ),
    Rule[Any](
        field=".managedBy",
        cel="has(self.managedBy) ? has(oldSelf.managedBy) && self.managedBy == oldSelf.managedBy : "
        "!has(oldSelf.managedBy)",
        message="can't be changed",
    ),
    _fixed("pools"),
    _fixed("mix"),
    _fixed("acceleratorsPerWorker"),
    _fixed("framework"),
    _fixed("model", optional=True),
    _fixed("parallelism"),
    _fixed("constraints", path="scheduling.constraints"),
    _fixed("disruptionMode", path="scheduling.disruptionMode"),
    _fixed("priorityClassName", path="scheduling.priorityClassName", optional=True),
    _fixed("storage", optional=True),
    _fixed("template"),
)

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def _longest_pod(job: TrainingJob) -> int:
    return len(job.metadata.name) + len(f"-worker-{job.spec.workers - 1}")


# Pods are called <job>-worker-<rank>, and that is their host name; the job's Service is called like the job.
NAME_RULE: Final = Rule[Any](
    field=".metadata.name",
    cel="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && "
    "size(self.metadata.name) + 8 + size(string(self.spec.workers - 1)) <= 63",
    message="must start with a letter, have only lower-case letters, digits and '-', and be short enough that "
    "<name>-worker-<rank> has at most 63 characters",
    holds=lambda job: _NAME.fullmatch(job.metadata.name) is not None and _longest_pod(job) <= 63,
)
