"""The gangs that want something of the cycle: a place, or to go on where they were.

Flows in: keys, as jobs are looked at. Flows out: `Candidate`s with their demand, unsorted. Data only; never asks or
writes the API.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from supernode.api.job import TrainingJob
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.errors import InputError
from supernode.handlers.context import Context
from supernode.handlers.life import JobFacts, State
from supernode.handlers.reading import Readings
from supernode.scheduling.demand import GangDemand


@dataclass(frozen=True, slots=True)
class Candidate:
    """A gang that wants a place, or to go on. `attempt`: the one that it would be; `status`: as the API has it."""

    key: Key
    uid: str
    generation: int
    attempt: int
    demand: GangDemand
    model: TrainingJob = field(repr=False)
    facts: JobFacts = field(repr=False)
    status: Json = field(repr=False)


class Waiting:
    """Who wants a place (`places`), and who has stopped and wants to go on (`stopped`).

    Args:
        context: what handlers share.
        readings: reads jobs.
    """

    def __init__(self, context: Context, readings: Readings) -> None:
        self._context = context
        self._readings = readings
        self.places: dict[Key, None] = {}
        self.stopped: dict[Key, None] = {}

    def forget(self, key: Key) -> None:
        """It wants nothing, as far as is known."""
        self.places.pop(key, None)
        self.stopped.pop(key, None)

    def candidates(self) -> list[Candidate]:
        """Gangs that want a place now."""
        return [found for key in list(self.places) if (found := self.candidate(key)) is not None]

    def candidate(self, key: Key) -> Candidate | None:
        """A gang as the cycle sees it; None for one that can't be described (it is told so when it is looked at)."""
        obj = self._context.stores.jobs.get(key)
        if obj is None:
            return None
        reading = self._readings.read(key, obj)
        if reading.model is None:
            return None
        try:
            demand = self._readings.demand(obj, reading.model)
        except InputError:
            return None  # the pools have changed since it was read: it is looked at again
        facts = self._readings.facts(obj, reading)
        # One of which only some workers are replaced, while the others run on, is still the same attempt.
        attempt = facts.attempt + (facts.state is State.RESTARTING)
        status = obj.get("status") or {}
        return Candidate(key, reading.uid, reading.generation, attempt, demand, reading.model, facts, status)
