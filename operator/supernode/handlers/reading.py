"""A job as the operator understands it: its spec, read once per generation, and what is wrong with it now.

Flows in: raw jobs. Flows out: `Reading`s, and the demand of a job's gang. Shared by everything that looks at jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from supernode.api.job import TrainingJob
from supernode.api.read import job_from
from supernode.api.rules import Problem
from supernode.api.validate import validate_job
from supernode.cluster import translate
from supernode.cluster.assignment import pools_of
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.cluster.rendezvous import Gang
from supernode.errors import InputError
from supernode.handlers.bounds import too_many_addresses
from supernode.handlers.context import Context
from supernode.handlers.facts import closed_pool, job_facts, state_of
from supernode.handlers.life import JobFacts
from supernode.handlers.priorities import Priority, priority_of
from supernode.handlers.sizes import sized
from supernode.scheduling.demand import GangDemand


@dataclass(frozen=True, slots=True)
class Reading:
    """A job's spec: `model`, or None and the `problem` that it has by itself."""

    uid: str
    generation: int
    model: TrainingJob | None
    problem: Problem | None = None


class Readings:
    """Reads jobs, and remembers what it has read.

    Args:
        context: what handlers share.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._readings: dict[Key, Reading] = {}

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._readings.pop(key, None)

    def read(self, key: Key, obj: Json) -> Reading:
        """The job's spec by itself."""
        metadata = obj["metadata"]
        reading = self._readings.get(key)
        if reading is None or (reading.uid, reading.generation) != (metadata["uid"], metadata.get("generation", 0)):
            model, problem = None, None
            try:
                model = job_from({name: value for name, value in obj.items() if name != "status"})
            except InputError as exc:
                problem = Problem(exc.field, exc.message)
            reading = Reading(metadata["uid"], metadata.get("generation", 0), model, problem)
            self._readings[key] = reading
        return reading

    def problem(self, obj: Json, reading: Reading) -> Problem | None:
        """What is wrong with the job among the pools, groups and classes of now; nothing is of one that has ended."""
        if state_of(obj.get("status") or {}).finished:
            return None
        model = reading.model
        if model is None:
            return reading.problem
        crowd = crowd_of(obj, model)
        if crowd:
            return Problem("spec.workers", crowd)
        view = self._context.observer.view
        closed = closed_pool(model.spec.pools, view)
        if closed is not None:
            return closed
        problems = validate_job(model, view.pools, list(view.groups.values()))
        if problems:
            return problems[0]
        priority = self.priority(model)
        if isinstance(priority, Problem):
            return priority
        try:
            translate.demand(model, translate.template_of(obj), view.specs)
        except InputError as exc:
            return Problem(exc.field, exc.message)
        return None

    def facts(self, obj: Json, reading: Reading, problem: Problem | None = None) -> JobFacts:
        """The job as `lifecycle` sees it."""
        facts = job_facts(obj, reading.model, accepted=problem is None)
        if facts.policy.single:
            specs = self._context.observer.view.specs
            used = {specs.get(name) for name in pools_of((obj.get("status") or {}).get("placement") or {})}
            if any(spec is None or spec.emulated for spec in used):
                # The sidecars of a gang find each other once, at its start: none can come later.
                return replace(facts, policy=replace(facts.policy, single=False))
        return facts

    def priority(self, model: TrainingJob) -> Priority | Problem:
        """How urgent the job is, or what is wrong with the name of its class."""
        return priority_of(model.spec.scheduling.priority_class_name, self._context.stores.classes)

    def demand(self, obj: Json, model: TrainingJob, workers: int | None = None) -> GangDemand:
        """What the job's gang asks for; `workers`: exactly so many instead of the spec's.

        Raises:
            InputError: numbers that no gang can have; names the field.
        """
        priority = self.priority(model)
        value = priority.value if isinstance(priority, Priority) else 0
        demand = translate.demand(model, translate.template_of(obj), self._context.observer.view.specs, priority=value)
        return demand if workers is None else replace(sized(demand, workers), min_count=None)


def crowd_of(obj: Json, model: TrainingJob) -> str:
    """Why a job's workers are too many to be told of each other; empty where they are not."""
    spec = model.spec
    containers = (translate.template_of(obj).get("spec") or {}).get("containers") or [{}]
    taken = frozenset(str(entry.get("name")) for entry in containers[0].get("env") or [])
    gang = Gang(model.metadata.name, model.metadata.namespace or "", spec.workers, spec.accelerators_per_worker)
    return too_many_addresses(spec.framework, gang, taken)
