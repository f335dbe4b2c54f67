"""One TrainingJob at a time: reads it, decides by `lifecycle`, writes its status, then acts.

Flows in: keys of jobs that may have changed. Flows out: status writes, pods, and the list of gangs that want a place.
Never two at once for the same job; the cycle sees to that.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from supernode.api.job import TrainingJob
from supernode.api.read import job_from
from supernode.api.rules import Problem
from supernode.api.validate import validate_job
from supernode.cluster import nodes, translate
from supernode.cluster import status as statuses
from supernode.cluster.cache import Key
from supernode.cluster.kinds import JOBS, Json
from supernode.errors import BadRequestError, ClusterError, ConflictError, InputError, NotFoundError
from supernode.handlers import gang, jobstatus, lifecycle
from supernode.handlers.context import Context
from supernode.handlers.facts import closed_pool, job_facts, pod_facts
from supernode.handlers.jobstatus import Known, Placed, Wait
from supernode.handlers.lifecycle import Decision, JobFacts, PodFacts, State
from supernode.handlers.progress import Reports
from supernode.names import FINALIZER, LABEL_JOB
from supernode.scheduling.demand import GangDemand
from supernode.telemetry.logs import bound

logger = logging.getLogger(__name__)

# Seconds before a gang that the API server refused is tried again: the first time, and at most.
FIRST_PENALTY: Final = 5.0
LONGEST_PENALTY: Final = 300.0
# Seconds before a job that met an unexpected error is looked at again.
UNEXPECTED_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A gang that wants a place. `attempt`: the one that it would be."""

    key: Key
    uid: str
    generation: int
    attempt: int
    demand: GangDemand


@dataclass(slots=True)
class _Read:
    """A job's spec as read once per generation."""

    uid: str
    generation: int
    model: TrainingJob | None
    problem: Problem | None


class Jobs:
    """Looks after all training jobs.

    Args:
        context: what handlers share.
        reports: the latest progress of each job.
    """

    def __init__(self, context: Context, reports: Reports) -> None:
        self._context = context
        self._reports = reports
        self._reads: dict[Key, _Read] = {}
        self._dirty: dict[Key, None] = {}
        self._wakes: dict[Key, float] = {}
        self._waiting: dict[Key, None] = {}
        # After a refusal: (not before, seconds since the epoch; times refused).
        self._penalties: dict[str, tuple[float, int]] = {}
        context.stores.jobs.listen(self._on_job)
        context.stores.pods.listen(self._on_pod)
        context.stores.nodes.listen(self._on_node)

    def _on_job(self, old: Json | None, new: Json | None) -> None:
        obj = new or old or {}
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if new is None:
            self._forget(key)
        self.touch(key)

    def _on_pod(self, old: Json | None, new: Json | None) -> None:
        metadata = (new or old or {})["metadata"]
        job = (metadata.get("labels") or {}).get(LABEL_JOB)
        if job:
            self.touch((metadata.get("namespace", ""), job))
        elif (
            old is None
            or new is None
            or (old.get("status") or {}).get("phase") != (new.get("status") or {}).get("phase")
        ):
            self._context.wake.set()  # somebody else's pod takes or frees room

    def _on_node(self, old: Json | None, new: Json | None) -> None:
        if old is None or new is None or nodes.is_ready(old) != nodes.is_ready(new):
            self.touch_all()  # pods on a node that is gone are lost, and those on one that is not ready may be
        elif not nodes.same(old, new):
            self._context.wake.set()

    def touch(self, key: Key) -> None:
        """This job may need something."""
        self._dirty[key] = None
        self._context.wake.set()

    def touch_all(self) -> None:
        """Every job may need something: a pool or group has changed, or it is time to look at everything."""
        for key in self._context.stores.jobs.objects():
            self._dirty[key] = None
        self._context.wake.set()

    def take_due(self, now: float) -> list[Key]:
        """Jobs to look at now; they are no longer noted afterwards."""
        for key in [key for key, at in self._wakes.items() if at <= now]:
            del self._wakes[key]
            self._dirty[key] = None
        due = list(self._dirty)
        self._dirty.clear()
        return due

    def next_wake(self) -> float | None:
        """When the next job must be looked at, even if nothing changes."""
        return min(self._wakes.values(), default=None)

    # --- one job ---------------------------------------------------------------------------------------------------
    async def reconcile(self, key: Key) -> None:
        """Look at one job and do what it needs. Errors are logged and the job is looked at again soon."""
        with bound(job=f"{key[0]}/{key[1]}"):
            try:
                await self._reconcile(key)
            except NotFoundError:
                self._gone(key)
            except ConflictError:
                await self._reread(key)
            except ClusterError as exc:
                self._context.metrics.count("supernode_reconcile_errors", "TrainingJob")
                logger.warning("will be tried again: %s", exc)
                self._wake_at(key, self._context.now() + 1.0)
            except Exception:
                # A fault of ours with this one job must not stop the others: it is told, counted and tried again.
                self._context.metrics.count("supernode_reconcile_errors", "TrainingJob")
                logger.exception("unexpected, will be tried again")
                self._wake_at(key, self._context.now() + UNEXPECTED_PAUSE)

    async def _reconcile(self, key: Key) -> None:
        self._waiting.pop(key, None)
        obj = self._context.stores.jobs.get(key)
        if obj is None:
            return
        if FINALIZER not in (obj["metadata"].get("finalizers") or []) and "deletionTimestamp" not in obj["metadata"]:
            # Before anything else: from now on the job can't vanish before its pods have.
            obj = await self._written(
                await statuses.set_finalizer(self._context.client, JOBS, obj, FINALIZER, present=True)
            )
        read, problem = self._read(key, obj)
        facts = job_facts(obj, read.model, accepted=problem is None)
        pods = self._pods(obj)
        decision = lifecycle.decide(facts, pods, self._context.now())
        self._note(obj, facts, decision, problem)
        if not decision.wants_placement:
            # One that wants a place gets its answer, and with it its status, in this same cycle.
            obj = await self._write(obj, facts, decision, pods, self._known(obj, read, problem))
        if decision.release:
            # It may want a place again: asked now, so that it is not passed over by those that come after it.
            self._context.observer.snapshot()
            await self._reconcile(key)
            return
        if decision.wake_at is not None:
            self._wake_at(key, decision.wake_at)
        if decision.wants_placement:
            self._waiting[key] = None
        await self._act(key, obj, read, decision)

    async def _write(self, obj: Json, facts: JobFacts, decision: Decision, pods: list[PodFacts], known: Known) -> Json:
        """Write the status that the job should have; nothing is written when it has it."""
        status = jobstatus.render(obj, decision, facts.workers, pods, known, self._context.now())
        if decision.remove_finalizer:
            return obj
        try:
            return await self._written(await statuses.write(self._context.client, JOBS, obj, status))
        except BadRequestError as exc:
            # What somebody else has put into the status must not keep the job from being deleted.
            if not facts.deleting:
                raise
            logger.warning("its last status was refused: %s", exc)
            return obj

    async def _act(self, key: Key, obj: Json, read: _Read, decision: Decision) -> None:
        """What the decision asks for, now that it is written down."""
        namespace = key[0]
        if decision.delete:
            await gang.delete(self._context, namespace, decision.delete)
        if decision.remove_finalizer:
            await gang.delete_shared(self._context, namespace, obj["metadata"]["uid"])
            await self._written(await statuses.set_finalizer(self._context.client, JOBS, obj, FINALIZER, present=False))
            self._gone(key)
            return
        if decision.delete_job:
            await self._context.client.delete(JOBS, key[1], namespace, uid=obj["metadata"]["uid"])
            return
        if decision.create:
            await self._create(key, obj, read, decision)

    async def _create(self, key: Key, obj: Json, read: _Read, decision: Decision) -> None:
        plan = gang.plan_of(self._context, key, obj, read.model)
        if isinstance(plan, str):
            refusal: gang.Refusal | None = gang.Refusal(plan, permanent=False)
        else:
            refusal = await gang.create(self._context, plan, decision.create)
        uid = obj["metadata"]["uid"]
        if refusal is None:
            self._penalties.pop(uid, None)
            self.touch(key)
            return
        # Never half a gang: all that was made goes again, and the place with it.
        _, times = self._penalties.get(uid, (0.0, 0))
        pause = min(FIRST_PENALTY * 2**times, LONGEST_PENALTY)
        self._penalties[uid] = (self._context.now() + pause, times + 1)
        self._context.events.warning(JOBS, obj, "PodsRefused", refusal.sentence)
        logger.warning("the gang is released: %s", refusal.sentence)
        message = f"the pods were refused, tried again in {pause:.0f} s: {refusal.sentence}"
        released = Decision(
            State.RESTARTING, decision.attempt, decision.restarts, "PodsRefused", message, started=decision.started
        )
        facts = job_facts(obj, read.model, accepted=True)
        await self._write(obj, facts, released, self._pods(obj), Known())

    # --- placing ---------------------------------------------------------------------------------------------------
    def candidates(self) -> list[Candidate]:
        """Gangs that want a place now, unsorted; one that can't be described is told so and left out."""
        result: list[Candidate] = []
        now = self._context.now()
        for key in list(self._waiting):
            obj = self._context.stores.jobs.get(key)
            read = self._reads.get(key)
            if obj is None or read is None or read.model is None or read.uid != obj["metadata"]["uid"]:
                continue
            not_before, _ = self._penalties.get(read.uid, (0.0, 0))
            if now < not_before:
                self._wake_at(key, not_before)
                continue
            try:
                demand = translate.demand(read.model, translate.template_of(obj), self._context.observer.view.specs)
            except InputError:
                continue  # the pools have changed since it was read: it is looked at again
            attempt = job_facts(obj, read.model, accepted=True).attempt
            result.append(Candidate(key, read.uid, read.generation, attempt, demand))
        return result

    async def tell_wait(self, key: Key, wait: Wait) -> bool:
        """Write why a gang has no place; an event when the sentence is new. True when it is written."""
        return await self._answer(key, Known(wait=wait))

    async def take_place(self, key: Key, placed: Placed) -> bool:
        """Write a gang's place into its status: from then on it is the claim. Then make its pods.

        Returns:
            False when it could not be written: the place is not taken.
        """
        if not await self._answer(key, Known(placed=placed)):
            return False
        self._waiting.pop(key, None)
        await self.reconcile(key)
        return True

    async def _answer(self, key: Key, known: Known) -> bool:
        with bound(job=f"{key[0]}/{key[1]}"):
            obj = self._context.stores.jobs.get(key)
            if obj is None:
                return False
            read, problem = self._read(key, obj)
            facts = job_facts(obj, read.model, accepted=problem is None)
            pods = self._pods(obj)
            decision = lifecycle.decide(facts, pods, self._context.now())
            if not decision.wants_placement:
                return False
            if known.placed is not None:
                decision = Decision(
                    State.STARTING,
                    decision.attempt,
                    decision.restarts,
                    "Placed",
                    known.placed.sentence,
                    started=self._context.now(),
                )
            self._tell(obj, known)
            try:
                await self._write(obj, facts, decision, pods, known)
            except NotFoundError:
                self._gone(key)
            except ConflictError:
                await self._reread(key)
            except ClusterError as exc:
                logger.warning("the answer could not be written: %s", exc)
                self._wake_at(key, self._context.now() + 1.0)
            else:
                return True
            return False

    def _tell(self, obj: Json, known: Known) -> None:
        if known.placed is not None:
            self._context.events.normal(JOBS, obj, "Placed", known.placed.sentence)
        elif known.wait is not None:
            said = statuses.condition(obj, "Scheduled") or {}
            if said.get("message") != known.wait.sentence or said.get("reason") != known.wait.code:
                self._context.events.warning(JOBS, obj, known.wait.code, known.wait.sentence)

    # --- reading ---------------------------------------------------------------------------------------------------
    def _read(self, key: Key, obj: Json) -> tuple[_Read, Problem | None]:
        """The job's spec, and what is wrong with it by itself or among the pools and groups of now."""
        metadata = obj["metadata"]
        read = self._reads.get(key)
        if read is None or (read.uid, read.generation) != (metadata["uid"], metadata.get("generation", 0)):
            model, problem = None, None
            try:
                model = job_from({name: value for name, value in obj.items() if name != "status"})
            except InputError as exc:
                problem = Problem(exc.field, exc.message)
            read = _Read(metadata["uid"], metadata.get("generation", 0), model, problem)
            self._reads[key] = read
        if read.model is None:
            return read, read.problem
        view = self._context.observer.view
        closed = closed_pool(read.model.spec.pools, view)
        problems = [closed] if closed is not None else validate_job(read.model, view.pools, list(view.groups.values()))
        if not problems:
            try:
                translate.demand(read.model, translate.template_of(obj), view.specs)
            except InputError as exc:
                return read, Problem(exc.field, exc.message)
        return read, problems[0] if problems else None

    def _known(self, obj: Json, read: _Read, problem: Problem | None) -> Known:
        progress, mfu = self._reports.latest(obj, read.model, self._context.observer)
        return Known(problem=problem, progress=progress, mfu=mfu)

    def _pods(self, obj: Json) -> list[PodFacts]:
        observer = self._context.observer
        return pod_facts(observer.pods_of(obj["metadata"]["uid"]), observer.node)

    # --- bookkeeping -----------------------------------------------------------------------------------------------
    def _note(self, obj: Json, facts: JobFacts, decision: Decision, problem: Problem | None) -> None:
        """Tell people of a change: an event and a line in the log."""
        events = self._context.events
        if problem is not None:
            said = statuses.condition(obj, "Accepted") or {}
            if said.get("message") != str(problem):
                events.warning(JOBS, obj, "Misconfigured", str(problem))
        if decision.reason == "WorkerStuck" and (obj.get("status") or {}).get("message") != decision.message:
            events.warning(JOBS, obj, decision.reason, decision.message)
        if decision.state is facts.state or facts.deleting:
            return
        logger.info("%s -> %s: %s", facts.state, decision.state, decision.message or decision.reason)
        tell = events.warning if decision.state in (State.FAILED, State.RESTARTING) else events.normal
        if decision.state not in (State.PENDING, State.WAITING, State.STARTING):
            tell(JOBS, obj, str(decision.state), decision.message)
        if decision.state is State.RESTARTING:
            self._context.metrics.count("supernode_restarts")

    async def _written(self, obj: Json) -> Json:
        """Keep what the server answered to a write, so that the next decision is made on it."""
        self._context.stores.jobs.offer(obj)
        return obj

    async def _reread(self, key: Key) -> None:
        """Somebody else wrote first: read again, and decide again."""
        try:
            obj = await self._context.client.get(JOBS, key[1], key[0])
        except NotFoundError:
            self._gone(key)
            return
        except ClusterError as exc:
            logger.warning("could not be read again: %s", exc)
            self._wake_at(key, self._context.now() + 1.0)
            return
        self._context.stores.jobs.offer(obj)
        self.touch(key)

    def _wake_at(self, key: Key, at: float) -> None:
        self._wakes[key] = min(at, self._wakes.get(key, at))

    def _gone(self, key: Key) -> None:
        obj = self._context.stores.jobs.get(key)
        if obj is not None:
            self._context.stores.jobs.forget(obj)

    def _forget(self, key: Key) -> None:
        read = self._reads.pop(key, None)
        if read is not None:
            self._penalties.pop(read.uid, None)
            self._reports.forget(read.uid)
        self._wakes.pop(key, None)
        self._waiting.pop(key, None)
