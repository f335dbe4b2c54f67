"""One TrainingJob at a time: reads it, decides by `lifecycle`, writes its status, then acts.

Flows in: keys of jobs that may have changed. Flows out: status writes, pods, and the list of gangs that want a place.
Never two at once for the same job; the cycle sees to that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from supernode.api.rules import Problem
from supernode.cluster import status as statuses
from supernode.cluster.cache import Key
from supernode.cluster.kinds import JOBS, Json
from supernode.errors import BadRequestError, ClusterError, ConflictError, NotFoundError
from supernode.handlers import gang, jobstatus, lifecycle
from supernode.handlers.context import Context
from supernode.handlers.due import Due
from supernode.handlers.facts import disruption_of, is_ours, job_facts, pod_facts, tolerations_of
from supernode.handlers.jobstatus import Known, Placed, Wait
from supernode.handlers.later import Later, only_counts
from supernode.handlers.life import Decision, Disruption, DisruptionKind, JobFacts, PodFacts, State
from supernode.handlers.progress import Reports, tells_only
from supernode.handlers.reading import Reading, Readings
from supernode.handlers.tell import tell_answer, tell_change, tell_stragglers
from supernode.handlers.waiting import Waiting
from supernode.names import ANNOTATION_DEFRAGMENT, FINALIZER
from supernode.telemetry.logs import bound

logger = logging.getLogger(__name__)

# What a gang is told that was to stop and need not any more.
_NO_MORE: Final = {
    DisruptionKind.PREEMPTION: "nobody needs its place any more",
    DisruptionKind.MIGRATION: "nobody needs it to move any more",
    DisruptionKind.RESIZE: "there is no room for more workers any more",
    DisruptionKind.REPAIR: "nothing of it must be replaced any more",
}

# Seconds before a job that met an unexpected error is looked at again.
UNEXPECTED_PAUSE: Final = 30.0


class Jobs:
    """Looks after all training jobs.

    Args:
        context: what handlers share.
        reports: the latest progress of each job.
        readings: reads jobs.
    """

    def __init__(self, context: Context, reports: Reports, readings: Readings) -> None:
        self._context = context
        self._reports = reports
        self._readings = readings
        self.due = Due(context)
        self.waiting = Waiting(context, readings)
        self._later = Later(context.now)
        context.stores.jobs.listen(self._on_job)

    def _on_job(self, old: Json | None, new: Json | None) -> None:
        obj = new or old or {}
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if new is None:
            self._forget(key, obj)
        if old is None or new is None or not tells_only(old, new):
            self.due.touch(key)

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
                self.due.wake_at(key, self._context.now() + 1.0)
            except Exception:
                # A fault of ours with this one job must not stop the others: it is told, counted and tried again.
                self._context.metrics.count("supernode_reconcile_errors", "TrainingJob")
                logger.exception("unexpected, will be tried again")
                self.due.wake_at(key, self._context.now() + UNEXPECTED_PAUSE)

    async def _reconcile(self, key: Key) -> None:
        self.waiting.forget(key)
        obj = self._context.stores.jobs.get(key)
        if obj is None or not is_ours(obj):
            return
        if FINALIZER not in (obj["metadata"].get("finalizers") or []) and "deletionTimestamp" not in obj["metadata"]:
            # Before anything else: from now on the job can't vanish before its pods have.
            obj = await self._written(
                await statuses.set_finalizer(self._context.client, JOBS, obj, FINALIZER, present=True)
            )
        reading = self._readings.read(key, obj)
        problem = self._readings.problem(obj, reading)
        facts, pods, decision = self._decide(obj, reading, problem)
        if not decision.wants_placement and not decision.wants_again and not _is_told(facts, decision):
            # One that wants a place gets its answer, and with it its status, in this same cycle.
            if (later := self._keeps_back(key, obj, facts, decision)) is not None:
                self.due.wake_at(key, min(later, decision.wake_at or later))
                return
            known, before = self._known(obj, reading, problem), obj
            obj = await self._write(obj, facts, decision, pods, known)
            # Told only now that it is so: a write that was refused is decided on, and told, again.
            tell_change(self._context, before, obj, facts, decision, problem)
            tell_stragglers(self._context, before, known, decision)
        if decision.release:
            # It may want a place again: asked now, so that it is not passed over by those that come after it.
            self._context.observer.snapshot()
            await self._reconcile(key)
            return
        if decision.wake_at is not None:
            self.due.wake_at(key, decision.wake_at)
        if decision.wants_placement:
            self.waiting.places[key] = None
        if decision.wants_again:
            self.waiting.stopped[key] = None
        await self._act(key, obj, reading, decision)

    def _decide(
        self, obj: Json, reading: Reading, problem: Problem | None
    ) -> tuple[JobFacts, list[PodFacts], Decision]:
        facts = self._readings.facts(obj, reading, problem)
        pods = self._pods(obj)
        return facts, pods, lifecycle.decide(facts, pods, self._context.now())

    def _keeps_back(self, key: Key, obj: Json, facts: JobFacts, decision: Decision) -> float | None:
        """Until when nothing is written of a job, because only counts are new; None: it is written now."""
        status = obj.get("status") or {}
        current = status.get("observedGeneration") == obj["metadata"].get("generation", 0)
        if current and only_counts(status, facts, decision):
            return self._later.until(key)
        self._later.told(key)
        return None

    async def _write(self, obj: Json, facts: JobFacts, decision: Decision, pods: list[PodFacts], known: Known) -> Json:
        """Write the status that the job should have; nothing is written when it has it."""
        status = jobstatus.render(obj, decision, facts.workers, pods, known, self._context.now())
        if decision.remove_finalizer:
            return obj
        try:
            return await self._written(await statuses.write(self._context.client, JOBS, obj, status, look=True))
        except BadRequestError as exc:
            # What somebody else has put into the status must not keep the job from being deleted.
            if not facts.deleting:
                raise
            logger.warning("its last status was refused: %s", exc)
            return obj

    async def _act(self, key: Key, obj: Json, reading: Reading, decision: Decision) -> None:
        """What the decision asks for, now that it is written down."""
        namespace = key[0]
        if decision.ask or decision.unask:
            since = decision.disruption.requested if decision.disruption is not None else None
            await gang.ask(self._context, namespace, decision.ask, since)
            await gang.ask(self._context, namespace, decision.unask, None)
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
            await self._create(key, obj, reading, decision)

    async def _create(self, key: Key, obj: Json, reading: Reading, decision: Decision) -> None:
        plan = gang.plan_of(self._context, key, obj, reading.model)
        if isinstance(plan, str):
            refusal: gang.Refusal | None = gang.Refusal(plan, permanent=False)
        else:
            refusal = await gang.create(self._context, plan, decision.create)
            self._later.busy()
        if refusal is None:
            self.due.touch(key)
            return
        # Never half a gang: all that was made goes again, and the place with it.
        self._context.events.warning(JOBS, obj, "PodsRefused", refusal.sentence)
        logger.warning("the gang is released: %s", refusal.sentence)
        message = f"the pods were refused: {refusal.sentence}"
        released = lifecycle.requeued(decision, "PodsRefused", message, self._context.now())
        facts = job_facts(obj, reading.model, accepted=True)
        await self._write(obj, facts, released, self._pods(obj), Known())

    # --- answers of the cycle --------------------------------------------------------------------------------------
    async def tell_wait(self, key: Key, wait: Wait) -> bool:
        """Write why a gang has no place; an event when the sentence is new. True when it is written."""
        return await self._answer(key, Known(wait=wait))

    async def take_place(self, key: Key, placed: Placed) -> bool:
        """Write a gang's place into its status: from then on it is the claim.

        Returns:
            False when it could not be written: the place is not taken.
        """
        if not await self._answer(key, Known(placed=placed)):
            return False
        self.waiting.forget(key)
        self._later.busy()
        return True

    async def hold(self, key: Key, wait: Wait, plan: Disruption) -> bool:
        """Write that a stopped gang keeps its place and waits for a part of it; True when it is written."""
        return await self._answer(key, Known(wait=wait), plan)

    async def give_up(self, key: Key, message: str) -> bool:
        """A stopped gang gives its place up and is queued again; True when that is written."""
        return await self._instead(
            key,
            lambda decision: replace(
                decision,
                state=State.PENDING,
                attempt=decision.attempt + 1,
                reason="Released",
                message=message,
                release=True,
                started=None,
                disruption=None,
            ),
        )

    async def stop_all(self, key: Key, message: str, plan: Disruption) -> bool:
        """A gang of which some workers were to be replaced alone restarts whole; True when that is written."""
        return await self._instead(
            key,
            lambda decision: replace(
                decision, state=State.RESTARTING, reason="WorkerFailed", message=message, disruption=plan
            ),
        )

    async def _instead(self, key: Key, change: Callable[[Decision], Decision]) -> bool:
        """Write something else than that a gang goes on."""
        with bound(job=f"{key[0]}/{key[1]}"):
            obj = self._context.stores.jobs.get(key)
            if obj is None:
                return False
            reading = self._readings.read(key, obj)
            facts, pods, decision = self._decide(obj, reading, self._readings.problem(obj, reading))
            if not decision.wants_again:
                return False
            self.due.touch(key)
            changed = replace(change(decision), wants_again=False)
            if not await self._try_write(key, obj, facts, changed, pods, Known()):
                return False
            tell_change(self._context, obj, obj, facts, changed, None)
            return True

    async def disrupt(self, obj: Json, plan: Disruption | None) -> bool:
        """Write what is to be done to a gang that has a place (None: nothing after all); True when it is written."""
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        was = disruption_of(obj.get("status") or {})
        status = {**(obj.get("status") or {}), "disruption": jobstatus.disruption_json(plan)}
        status = {name: value for name, value in status.items() if value is not None}
        with bound(job=f"{key[0]}/{key[1]}"):
            try:
                await self._written(await statuses.write(self._context.client, JOBS, obj, status, look=True))
            except NotFoundError:
                self._gone(key)
            except ConflictError:
                await self._reread(key)
            except ClusterError as exc:
                logger.warning("what is planned could not be written: %s", exc)
                self.due.wake_at(key, self._context.now() + 1.0)
            else:
                if plan is not None:
                    self._context.metrics.count("supernode_disruptions", str(plan.kind))
                elif was is not None:
                    self._context.events.normal(JOBS, obj, "DisruptionCancelled", f"it runs on: {_NO_MORE[was.kind]}")
                self.due.touch(key)
                return True
            return False

    async def clear_request(self, obj: Json) -> bool:
        """Take the request for moves off a job; True when that is written."""
        metadata = obj["metadata"]
        patch: Json = {"metadata": {"uid": metadata["uid"], "annotations": {ANNOTATION_DEFRAGMENT: None}}}
        try:
            await self._written(
                await self._context.client.patch(JOBS, metadata["name"], patch, metadata.get("namespace"))
            )
        except ClusterError as exc:
            logger.warning("the request for moves could not be taken off: %s", exc)
            return False
        return True

    async def _answer(self, key: Key, known: Known, plan: Disruption | None = None) -> bool:
        with bound(job=f"{key[0]}/{key[1]}"):
            obj = self._context.stores.jobs.get(key)
            if obj is None:
                return False
            reading = self._readings.read(key, obj)
            facts, pods, decision = self._decide(obj, reading, self._readings.problem(obj, reading))
            if not decision.wants_placement and not decision.wants_again:
                return False
            if known.placed is not None:
                decision = replace(
                    decision,
                    state=State.STARTING,
                    attempt=int(known.placed.status.get("attempt", 0)),
                    reason="Placed",
                    message=known.placed.sentence,
                    started=decision.started if decision.wants_again else self._context.now(),
                    disruption=None,
                    retry_at=None,
                )
            elif plan is not None:
                decision = replace(
                    decision, reason="WaitingForRepair", message=plan.message, disruption=plan, wake_at=plan.deadline
                )
                self.due.wake_at(key, plan.deadline)
            if not await self._try_write(key, obj, facts, decision, pods, known):
                return False
            tell_answer(self._context, obj, known)
            return True

    async def _try_write(
        self, key: Key, obj: Json, facts: JobFacts, decision: Decision, pods: list[PodFacts], known: Known
    ) -> bool:
        try:
            await self._write(obj, facts, decision, pods, known)
        except NotFoundError:
            self._gone(key)
        except ConflictError:
            await self._reread(key)
        except ClusterError as exc:
            logger.warning("the answer could not be written: %s", exc)
            self.due.wake_at(key, self._context.now() + 1.0)
        else:
            return True
        return False

    # --- bookkeeping -----------------------------------------------------------------------------------------------
    def _known(self, obj: Json, reading: Reading, problem: Problem | None) -> Known:
        progress, mfu = self._reports.latest(obj, reading.model, self._context.observer)
        return Known(problem=problem, progress=progress, mfu=mfu, pace=self._reports.pace(obj, reading.model))

    def _pods(self, obj: Json) -> list[PodFacts]:
        observer = self._context.observer
        raw = observer.pods_of(obj["metadata"]["uid"])
        return pod_facts(raw, observer.node, tolerations_of(obj), self._context.now())

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
            self.due.wake_at(key, self._context.now() + 1.0)
            return
        self._context.stores.jobs.offer(obj)
        self.due.touch(key)

    def _gone(self, key: Key) -> None:
        obj = self._context.stores.jobs.get(key)
        if obj is not None:
            self._context.stores.jobs.forget(obj)

    def _forget(self, key: Key, obj: Json) -> None:
        self._readings.forget(key)
        self._reports.forget(obj["metadata"]["uid"])
        self.due.forget(key)
        self._later.told(key)
        self.waiting.forget(key)


def _is_told(facts: JobFacts, decision: Decision) -> bool:
    """Whether a gang that has a place and no pod yet is told well enough: all of it is made first, then counted.

    A write for every gang before its pods would cost an API server as much as a dozen of them.
    """
    same = (decision.state, decision.attempt, decision.restarts, decision.started, decision.disruption)
    now = (facts.state, facts.attempt, facts.restarts, facts.started, facts.disruption)
    return same == now and decision.requeues == facts.requeues and len(decision.create) == facts.workers > 0
