"""What users write, and what the operator tells them: the three kinds as models, conditions, and the CRDs.

In: dicts from the API server or a file (`read`). Out: frozen models, problems as values (`validate`), conditions,
and the custom resource definitions generated from the models (`crd`). No clock, no I/O, no Kubernetes client.

    job_from(obj) -> TrainingJob           pool_from(obj) -> AcceleratorPool      group_from(obj) -> SuperNodeGroup
        raise InputError with the field's path; also for rules that cross fields
    validate_job(job, pools, groups) -> list[Problem]     what depends on other objects; [] means accepted
    validate_pool(pool) -> list[Problem]                  pool_chip(spec) -> Chip
    set_condition(conditions, Condition(...), now=...) -> list   keeps lastTransitionTime while the status stays
"""

from supernode.api.conditions import (
    Condition,
    ConditionType,
    find_condition,
    is_true,
    merge_conditions,
    seconds_of,
    set_condition,
    timestamp,
)
from supernode.api.crd import KINDS, crds
from supernode.api.group import NODE_LEVEL, SuperNodeGroup
from supernode.api.job import TrainingJob, TrainingJobSpec
from supernode.api.job_status import AssignmentStatus, PlacementStatus, Progress, TrainingJobStatus, WorkerCounts
from supernode.api.pool import AcceleratorPool
from supernode.api.read import group_from, job_from, model_from, pool_from
from supernode.api.rules import Problem
from supernode.api.validate import pool_chip, validate_group, validate_job, validate_pool

__all__ = [
    "KINDS",
    "NODE_LEVEL",
    "AcceleratorPool",
    "AssignmentStatus",
    "Condition",
    "ConditionType",
    "PlacementStatus",
    "Problem",
    "Progress",
    "SuperNodeGroup",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
    "WorkerCounts",
    "crds",
    "find_condition",
    "group_from",
    "is_true",
    "job_from",
    "merge_conditions",
    "model_from",
    "pool_chip",
    "pool_from",
    "seconds_of",
    "set_condition",
    "timestamp",
    "validate_group",
    "validate_job",
    "validate_pool",
]
