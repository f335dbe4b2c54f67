"""The life of a job as a pure function: single decisions, and random lives that must all come to an end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.handlers.life import Disruption, DisruptionKind
from supernode.handlers.lifecycle import PATIENCE, JobFacts, PodFacts, RunPolicy, State, decide

NOW = 1000.0
PLACED = JobFacts(workers=2, state=State.STARTING, placed_attempt=0, started=NOW)


def a_pod(rank: int, phase: str = "Running", attempt: int = 0, **more: object) -> PodFacts:
    return PodFacts(f"j-worker-{rank}", f"uid-{rank}-{attempt}", rank, attempt, phase=phase, node="n", **more)  # type: ignore[arg-type]


def test_a_new_job_wants_a_place() -> None:
    decision = decide(JobFacts(workers=2), [], NOW)
    assert decision.wants_placement
    assert decision.state is State.PENDING


def test_a_job_that_is_not_accepted_wants_none() -> None:
    assert not decide(JobFacts(workers=2, accepted=False), [], NOW).wants_placement


def test_with_a_place_the_missing_pods_are_made() -> None:
    assert decide(PLACED, [a_pod(0)], NOW).create == (1,)


def test_no_pod_is_made_beside_one_of_an_earlier_attempt() -> None:
    decision = decide(replace(PLACED, attempt=1, placed_attempt=1), [a_pod(0, attempt=0)], NOW)
    assert decision.create == ()
    assert [ref.uid for ref in decision.delete] == ["uid-0-0"]


def test_all_running_is_running_and_all_succeeded_is_succeeded() -> None:
    assert decide(PLACED, [a_pod(0), a_pod(1)], NOW).state is State.RUNNING
    assert decide(PLACED, [a_pod(0), a_pod(1, "Pending")], NOW).state is State.STARTING
    ended = decide(PLACED, [a_pod(0, "Succeeded"), a_pod(1, "Succeeded")], NOW)
    assert (ended.state, ended.completed) == (State.SUCCEEDED, NOW)


def test_rank_zero_alone_decides_where_the_policy_says_so() -> None:
    job = replace(PLACED, policy=RunPolicy(by_rank_zero=True))
    for other in ("Running", "Failed", "Pending"):
        ended = decide(job, [a_pod(0, "Succeeded"), a_pod(1, other)], NOW)
        assert (ended.state, ended.reason) == (State.SUCCEEDED, "RankZeroSucceeded")
        assert ended.message == "rank 0 succeeded (1 of 2 workers did)"
        assert decide(PLACED, [a_pod(0, "Succeeded"), a_pod(1, other)], NOW).state is not State.SUCCEEDED
    assert decide(job, [a_pod(0), a_pod(1, "Succeeded")], NOW).state is State.RUNNING


def test_what_keeps_a_container_from_starting_is_said() -> None:
    decision = decide(PLACED, [a_pod(0), a_pod(1, "Pending", trouble="ErrImagePull: no such image")], NOW)
    assert "worker 1 on node n: ErrImagePull: no such image" in decision.message


def test_a_restart_is_counted_before_anything_is_deleted() -> None:
    running = replace(PLACED, state=State.RUNNING)
    decision = decide(running, [a_pod(0), a_pod(1, "Failed", exit_code=1)], NOW)
    assert (decision.state, decision.restarts, decision.delete) == (State.RESTARTING, 1, ())
    after = replace(running, state=State.RESTARTING, restarts=1)
    decision = decide(after, [a_pod(0), a_pod(1, "Failed")], NOW)
    assert len(decision.delete) == 2
    assert not decision.release
    decision = decide(after, [], NOW)
    assert decision.wants_again, "it keeps its place, and goes on there"
    assert not decision.release
    assert (decision.attempt, decision.restarts) == (0, 1)


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "state"),
    [
        (RunPolicy(backoff_limit=0), 1, 0, State.FAILED),
        (RunPolicy(backoff_limit=1), 1, 0, State.RESTARTING),
        (RunPolicy(backoff_limit=1), 1, 1, State.FAILED),
        (RunPolicy(by_exit_code=True), 1, 0, State.FAILED),
        (RunPolicy(by_exit_code=True), 127, 0, State.FAILED),
        (RunPolicy(by_exit_code=True), 128, 0, State.RESTARTING),
        (RunPolicy(by_exit_code=True), 137, 0, State.RESTARTING),
        (RunPolicy(by_exit_code=True), None, 0, State.RESTARTING),
    ],
)
def test_what_a_failure_means(policy: RunPolicy, code: int | None, restarts: int, state: State) -> None:
    job = replace(PLACED, state=State.RUNNING, policy=policy, restarts=restarts)
    decision = decide(job, [a_pod(0), a_pod(1, "Failed", exit_code=code)], NOW)
    assert decision.state is state
    assert "worker 1" in decision.message


def test_a_pod_that_vanishes_while_running_is_a_failure_and_while_starting_is_made_again() -> None:
    assert decide(replace(PLACED, state=State.RUNNING), [a_pod(0)], NOW).state is State.RESTARTING
    assert decide(PLACED, [a_pod(0)], NOW).create == (1,)


def test_a_node_that_is_gone_loses_its_worker_and_its_pod_is_forced_away() -> None:
    lost = a_pod(1, node_gone=True)
    running = replace(PLACED, state=State.RUNNING)
    assert decide(running, [a_pod(0), lost], NOW).state is State.RESTARTING
    decision = decide(replace(running, state=State.RESTARTING), [replace(lost, deleting=True)], NOW)
    assert [(ref.name, ref.force) for ref in decision.delete] == [("j-worker-1", True)]


def test_a_container_that_failed_is_not_waited_for() -> None:
    running = replace(PLACED, state=State.RUNNING)
    decision = decide(running, [a_pod(0), a_pod(1, broken=True, exit_code=137)], NOW)
    assert decision.state is State.RESTARTING
    assert "worker 1 on node n failed with exit code 137" in decision.message


def test_a_pod_on_a_node_that_is_lost_is_given_up_after_its_time() -> None:
    running = replace(PLACED, state=State.RUNNING)
    silent = a_pod(1, node_lost=True, lost_at=NOW - 59)
    decision = decide(running, [a_pod(0), silent], NOW)
    assert decision.state is State.RUNNING
    assert "node n of worker 1 is not ready" in decision.message
    assert decision.wake_at == NOW + 1
    decision = decide(running, [a_pod(0), silent], NOW + 1)
    assert decision.state is State.RESTARTING
    assert "worker 1 is lost: node n has not been ready for 60 s" in decision.message
    assert decision.disruption is not None
    assert decision.disruption.nodes == ("n",), "which node is to blame is written down"
    evicted = replace(silent, deleting=True, ends_at=NOW)
    decision = decide(running, [a_pod(0), evicted], NOW)
    assert decision.state is State.RESTARTING
    assert "worker 1 is lost: node n is not ready and its pod was evicted" in decision.message
    for state in (replace(running, state=State.RESTARTING), replace(running, deleting=True)):
        early = decide(state, [evicted], NOW + 1)
        assert (early.delete, early.wake_at) == ((), NOW + PATIENCE)
        late = decide(state, [evicted], NOW + PATIENCE)
        assert [(ref.name, ref.force) for ref in late.delete] == [("j-worker-1", True)]
        # Its kubelet is there: it will say when the pod has ended, however long that takes.
        slow = replace(evicted, node_lost=False)
        assert decide(state, [slow], NOW + 10 * PATIENCE).delete == ()


def test_a_gang_that_has_too_many_saves_a_checkpoint_and_starts_again_and_that_is_no_failure() -> None:
    running = replace(PLACED, state=State.RUNNING, wanted=1)
    decision = decide(running, [a_pod(0), a_pod(1)], NOW)
    assert (decision.state, decision.reason, decision.restarts) == (State.RUNNING, "CheckpointRequested", 0)
    assert [ref.name for ref in decision.ask] == ["j-worker-0", "j-worker-1"]
    plan = decision.disruption
    assert plan is not None
    assert (plan.workers, plan.deadline, decision.wake_at) == (1, NOW + 30, NOW + 30)
    asked = [a_pod(0, asked=True), a_pod(1, asked=True)]
    told = replace(running, disruption=plan)
    assert decide(told, asked, NOW + 29).state is State.RUNNING
    for later in (decide(told, asked, NOW + 30), decide(replace(told, saved_at=NOW + 5), asked, NOW + 6)):
        assert (later.state, later.reason, later.restarts) == (State.RESTARTING, "Resized", 0)
    # Thought better of: nothing happens, and the request is taken back.
    better = decide(replace(told, wanted=2), asked, NOW + 10)
    assert (better.state, better.disruption, len(better.unask)) == (State.RUNNING, None, 2)
    # Too few are borne until there is room for more.
    assert decide(replace(running, wanted=3), [a_pod(0), a_pod(1)], NOW).ask == ()


def test_no_time_that_the_status_names_holds_a_job_up_for_ever() -> None:
    far = NOW + 10**9
    waiting = JobFacts(workers=2, state=State.WAITING, retry_at=NOW + 10)
    assert (decide(waiting, [], NOW).wants_placement, decide(waiting, [], NOW).wake_at) == (False, NOW + 10)
    assert decide(replace(waiting, retry_at=far), [], NOW).wants_placement
    plan = Disruption(DisruptionKind.PREEMPTION, NOW, far, "ns/other", "gives way")
    asked = decide(replace(PLACED, state=State.RUNNING, disruption=plan), [a_pod(0), a_pod(1)], NOW)
    assert asked.disruption is not None
    assert asked.disruption.deadline == asked.wake_at == NOW + 30


def test_workers_that_end_well_while_the_gang_may_save_end_the_job() -> None:
    plan = Disruption(DisruptionKind.PREEMPTION, NOW, NOW + 30, "n/high", "gives way")
    job = replace(PLACED, state=State.RUNNING, disruption=plan, policy=RunPolicy(checkpoint_seconds=30))
    half = decide(job, [a_pod(0, "Succeeded"), a_pod(1)], NOW + 5)
    assert (half.state, half.delete, half.reason) == (State.RUNNING, (), "CheckpointRequested")
    assert decide(job, [a_pod(0, "Succeeded"), a_pod(1, "Succeeded")], NOW + 6).state is State.SUCCEEDED
    lost = decide(job, [a_pod(0, "Succeeded"), a_pod(1, "Failed")], NOW + 6)
    assert lost.state is State.RESTARTING
    assert decide(job, [a_pod(0, "Succeeded"), a_pod(1)], NOW + 30).state is State.RESTARTING


def test_crashes_in_a_row_are_tried_again_after_longer_and_longer_pauses() -> None:
    """The first two at once; the gang keeps its place meanwhile; an attempt that lasted starts the count anew."""
    job = replace(PLACED, placed_at=NOW, state=State.RUNNING, policy=RunPolicy(backoff_limit=100))
    pauses = []
    for _ in range(10):
        failed = decide(job, [a_pod(0, "Failed"), a_pod(1)], NOW + 59)
        assert failed.state is State.RESTARTING
        pauses.append(0.0 if failed.retry_at is None else failed.retry_at - NOW - 59)
        job = replace(job, crashes=failed.crashes)
    assert pauses == [0, 0, 5, 10, 20, 40, 80, 160, 300, 300]
    paused = replace(job, state=State.RESTARTING, retry_at=NOW + 100)
    waits = decide(paused, [], NOW + 60)
    assert (waits.wants_again, waits.release, waits.wake_at, waits.state) == (False, False, NOW + 100, State.RESTARTING)
    assert decide(paused, [], NOW + 100).wants_again
    assert decide(replace(paused, retry_at=NOW + 9999), [], NOW + 60).wants_again, "a clock was put back"
    late = decide(replace(job, placed_at=NOW - 60), [a_pod(0, "Failed"), a_pod(1)], NOW)
    assert (late.crashes, late.retry_at) == (1, None)
    gone = decide(job, [a_pod(0, deleting=True), a_pod(1)], NOW)
    assert (gone.state, gone.crashes, gone.retry_at) == (State.RESTARTING, job.crashes, None)


def test_the_deadline_holds_for_a_gang_that_has_stopped_as_well() -> None:
    job = replace(PLACED, state=State.RESTARTING, crashes=3, retry_at=NOW + 50, policy=RunPolicy(deadline=20))
    assert decide(job, [], NOW + 19).wake_at == NOW + 20
    assert decide(job, [], NOW + 20).reason == "DeadlineExceeded"
    assert decide(replace(job, retry_at=None), [], NOW + 19).wants_again


def test_suspend_holds_the_claim_until_every_pod_is_gone() -> None:
    job = replace(PLACED, state=State.RUNNING, policy=RunPolicy(suspend=True))
    first = decide(job, [a_pod(0), a_pod(1)], NOW)
    assert first.state is State.SUSPENDED
    assert len(first.delete) == 2
    assert not first.release
    job = replace(job, state=State.SUSPENDED)
    assert not decide(job, [a_pod(1, deleting=True)], NOW).release
    last = decide(job, [], NOW)
    assert last.release
    assert last.state is State.SUSPENDED


def test_a_resume_half_way_through_a_suspend_is_not_a_failure() -> None:
    job = replace(PLACED, state=State.SUSPENDED)
    decision = decide(job, [a_pod(0, deleting=True)], NOW)
    assert decision.state is State.SUSPENDED
    assert decision.create == ()
    assert decision.restarts == 0
    assert (decision.reason, decision.message.split(":")[0]) == ("Resumed", "spec.runPolicy.suspend is false again")
    again = decide(replace(job, policy=RunPolicy(suspend=True)), [a_pod(0, deleting=True)], NOW)
    assert (again.reason, again.message) == ("Suspended", "spec.runPolicy.suspend is true")
    assert decide(job, [], NOW).release


def test_the_deadline_fails_the_job_and_is_waited_for() -> None:
    job = replace(PLACED, policy=RunPolicy(deadline=60))
    assert decide(job, [a_pod(0), a_pod(1)], NOW + 59).wake_at == NOW + 60
    decision = decide(job, [a_pod(0), a_pod(1)], NOW + 60)
    assert (decision.state, decision.reason) == (State.FAILED, "DeadlineExceeded")


@pytest.mark.parametrize(
    ("policy", "names"), [("None", []), ("Running", ["j-worker-1"]), ("All", ["j-worker-0", "j-worker-1"])]
)
def test_pods_of_a_job_that_has_ended(policy: str, names: list[str]) -> None:
    job = replace(PLACED, state=State.FAILED, policy=RunPolicy(clean=policy))
    for ended in (a_pod(0, "Failed"), a_pod(0, broken=True, winding_down=True)):
        decision = decide(job, [ended, a_pod(1)], NOW)
        assert [ref.name for ref in decision.delete] == names


def test_the_time_to_live_counts_from_the_end() -> None:
    job = replace(PLACED, state=State.SUCCEEDED, completed=NOW, policy=RunPolicy(ttl=10))
    assert decide(job, [], NOW + 9).wake_at == NOW + 10
    assert not decide(job, [], NOW + 9).delete_job
    assert decide(job, [], NOW + 10).delete_job


def test_a_deleted_job_goes_only_after_its_pods() -> None:
    job = replace(PLACED, deleting=True)
    decision = decide(job, [a_pod(0), a_pod(1, deleting=True)], NOW)
    assert [ref.name for ref in decision.delete] == ["j-worker-0"]
    assert not decision.remove_finalizer
    assert decide(job, [], NOW).remove_finalizer


# --- random lives ---------------------------------------------------------------------------------------------------


@dataclass
class World:
    """An API server and a cluster in miniature, in which one job lives. `holds`: devices are claimed."""

    job: JobFacts
    pods: dict[int, PodFacts] = field(default_factory=dict)
    now: float = NOW
    made: int = 0
    gone: bool = False

    def step(self, *, act: bool = True, written: bool = True) -> None:
        """One decision. `written` False: killed before the status was written; `act` False: killed right after."""
        decision = decide(self.job, list(self.pods.values()), self.now)
        if not written:
            return
        job = self.job
        if decision.restarts > job.restarts:
            assert decision.restarts == job.restarts + 1
            assert not decision.delete, "a restart is written down before the pods are touched"
        if decision.release:
            assert not self.pods, "the claim is released only when no pod is left"
            assert decision.attempt == job.attempt + 1
        else:
            assert decision.attempt == job.attempt
        if job.state.finished:
            assert decision.state is job.state, "what has ended stays ended"
        placed = None if decision.release else job.placed_attempt
        if decision.wants_again:
            assert placed is not None
            assert not self.pods, "it goes on only when no pod of the last attempt is left"
        if decision.wants_placement:
            assert placed is None
            assert not self.pods
        self.job = replace(
            job,
            state=decision.state,
            attempt=decision.attempt,
            restarts=decision.restarts,
            placed_attempt=placed,
            started=decision.started,
            completed=decision.completed,
            disruption=decision.disruption,
            requeues=decision.requeues,
            retry_at=decision.retry_at,
        )
        if not act:
            return
        for rank in decision.create:
            assert rank not in self.pods, "names are free before pods are made"
            assert placed == job.attempt
            self.made += 1
            self.pods[rank] = PodFacts(f"j-worker-{rank}", f"uid-{self.made}", rank, job.attempt, node="n")
        for ref in decision.delete:
            rank = next(r for r, pod in self.pods.items() if pod.uid == ref.uid)
            self.pods[rank] = replace(self.pods[rank], deleting=True)
        if decision.remove_finalizer:
            assert not self.pods, "the job goes after its pods"
            self.gone = True

    def place(self) -> None:
        decision = decide(self.job, list(self.pods.values()), self.now)
        if decision.wants_placement or decision.wants_again:
            attempt = self.job.attempt + decision.wants_again
            self.job = replace(
                self.job,
                state=State.STARTING,
                attempt=attempt,
                placed_attempt=attempt,
                placed_at=self.now,
                started=self.now,
                disruption=None,
                retry_at=None,
            )

    def disrupt(self, workers: int) -> None:
        if self.job.placed_attempt is not None and self.job.disruption is None and not self.job.state.finished:
            plan = Disruption(DisruptionKind.PREEMPTION, self.now, self.now + 30, "ns/other", "gives way", workers)
            self.job = replace(self.job, disruption=plan)

    def late(self) -> None:
        """A gang that did not start in time."""
        self.now += 700

    def kubelet(self, rank: int, what: str) -> None:
        pod = self.pods.get(rank)
        if pod is None:
            return
        if pod.deleting:
            del self.pods[rank]
        elif what == "run" and pod.phase == "Pending":
            self.pods[rank] = replace(pod, phase="Running", ready=True)
        elif what in ("Succeeded", "Failed") and pod.phase == "Running":
            self.pods[rank] = replace(pod, phase=what, exit_code=1 if what == "Failed" else None)
        elif what == "vanish":
            del self.pods[rank]


EVENTS = st.one_of(
    st.tuples(st.sampled_from(["step", "killed-before", "killed-after", "place", "suspend", "resume"]), st.just(0)),
    st.tuples(st.sampled_from(["disrupt", "late"]), st.integers(0, 1)),
    st.tuples(st.sampled_from(["run", "run", "Succeeded", "Failed", "vanish"]), st.integers(0, 2)),
)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2), st.lists(EVENTS, max_size=60), st.booleans())
def test_no_life_loses_a_job(workers: int, backoff: int, events: list[tuple[str, int]], delete: bool) -> None:
    world = World(JobFacts(workers=workers, policy=RunPolicy(backoff_limit=backoff)))
    for what, rank in events:
        match what:
            case "step":
                world.step()
            case "killed-before":
                world.step(written=False)
            case "killed-after":
                world.step(act=False)
            case "place":
                world.place()
            case "disrupt":
                world.disrupt(rank)
            case "late":
                world.late()
            case "suspend" | "resume":
                policy = replace(world.job.policy, suspend=what == "suspend")
                world.job = replace(world.job, policy=policy)
            case _:
                world.kubelet(rank, what)
    # From wherever it is: left alone, with a kubelet that runs everything to a good end, it ends.
    policy = replace(world.job.policy, suspend=False)
    world.job = replace(world.job, policy=policy, deleting=delete)
    for _ in range(12 * (workers + backoff + 2)):
        world.now += 20
        world.step()
        world.place()
        for rank in range(workers):
            world.kubelet(rank, "run")
            if world.job.state is State.RUNNING:
                world.kubelet(rank, "Succeeded")
    if delete:
        assert world.gone
    else:
        assert world.job.state.finished
        assert world.job.restarts <= backoff
