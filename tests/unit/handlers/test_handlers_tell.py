"""What people are told of a job's life: each event a sentence with names and numbers, its reason in docs/events.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from supernode.handlers.context import Context
from supernode.handlers.jobstatus import Known, Placed, Wait
from supernode.handlers.life import Decision, JobFacts, State
from supernode.handlers.tell import PAUSE, tell_answer, tell_change
from supernode.scheduling.unplaceable import Reason
from supernode.telemetry.metrics import OperatorMetrics

ROOT = Path(__file__).parents[3]
# Reasons of conditions and failures that no event carries: the state's own word stands there, or another reason.
NO_EVENT = {
    "AllWorkersRunning",
    "AllWorkersSucceeded",
    "LauncherSucceeded",
    "CreatingPods",
    "WaitingForPods",
    "Draining",
}
NO_EVENT |= {"Shrinking", "Accepted", "SlowWorkers", "NoSlowWorkers"}


@dataclass
class Told:
    """Stands for the events."""

    said: list[tuple[str, str, str]] = field(default_factory=list)

    def normal(self, kind: Any, obj: Any, reason: str, message: str) -> None:
        self.said.append(("Normal", reason, message))

    def warning(self, kind: Any, obj: Any, reason: str, message: str, *, pause: float = 0.0) -> bool:
        self.said.append(("Warning", reason, message))
        return True


class Scene:
    """A context of which only events and metrics are there."""

    def __init__(self) -> None:
        self.events = Told()
        self.metrics = OperatorMetrics(CollectorRegistry())

    def change(self, decision: Decision, facts: JobFacts | None = None, **after: Any) -> list[tuple[str, str, str]]:
        before = {"metadata": {"name": "gpt"}, "status": {"state": "Running", "progress": after.pop("before", None)}}
        written = {"metadata": {"name": "gpt"}, "status": after}
        known = facts or JobFacts(workers=2, state=State.RUNNING, placed_at=0.0)
        tell_change(cast(Context, self), before, written, known, decision, None)
        return self.events.said

    def answer(self, known: Known, state: str = "Pending") -> list[tuple[str, str, str]]:
        tell_answer(cast(Context, self), {"metadata": {"name": "gpt"}, "status": {"state": state}}, known)
        return self.events.said


RUNNING = Decision(State.RUNNING, 0, 0, reason="AllWorkersRunning", message="all 2 workers run")
BEGUN = {"conditions": [{"type": "Running", "status": "True", "lastTransitionTime": "1970-01-01T00:00:07Z"}]}


@pytest.mark.parametrize(
    ("attempt", "message"),
    [(0, "all 2 workers run, 7 s after"), (3, "all 2 workers run as attempt 3, 7 s after")],
)
def test_a_start_tells_how_long_it_took_and_which_attempt_it_is(attempt: int, message: str) -> None:
    facts = JobFacts(workers=2, state=State.STARTING, placed_at=0.0)
    said = Scene().change(replace(RUNNING, attempt=attempt), facts, **BEGUN)
    assert said == [("Normal", "Running", f"{message} the gang got its place")]


def test_the_first_steps_of_an_attempt_are_told_once() -> None:
    progress = {"step": 16, "steps": 400, "loss": 2.9604, "stepSeconds": 0.000442}
    placement = {"predictedStepSeconds": 0.000422}
    scene = Scene()
    said = scene.change(RUNNING, progress=progress, placement=placement, mfu=0.0019)
    words = "step 16 of 400, loss 2.96, 0.442 ms a step (0.422 ms predicted), MFU 0.2%"
    assert said == [("Normal", "Training", f"the workers report progress: {words}")]
    assert scene.change(RUNNING, before={"step": 16}, progress={"step": 17}) == said


@pytest.mark.parametrize(
    ("decision", "kind", "reason"),
    [
        (Decision(State.FAILED, 0, 1, reason="WorkerFailed", message="m"), "Warning", "Failed"),
        (Decision(State.FAILED, 0, 1, reason="BackoffLimitExceeded", message="m"), "Warning", "BackoffLimitExceeded"),
        (Decision(State.RESTARTING, 0, 1, reason="WorkerFailed", message="m"), "Warning", "WorkerFailed"),
        (Decision(State.RESTARTING, 0, 1, reason="Moved", message="m"), "Warning", "Moved"),
    ],
)
def test_the_reason_is_what_happened(decision: Decision, kind: str, reason: str) -> None:
    assert Scene().change(decision) == [(kind, reason, "m")]


def test_the_end_is_told_in_numbers() -> None:
    done = Decision(State.SUCCEEDED, 0, 2, reason="AllWorkersSucceeded", message="all 2 workers succeeded")
    said = Scene().change(done, progress={"step": 150, "loss": 2.7528}, goodput={"share": 0.82})
    assert said == [
        ("Normal", "Succeeded", "all 2 workers succeeded: 150 steps, loss 2.753, goodput 82%, restarts 2"),
    ]


def test_who_gave_way_reads_from_where_it_goes_on() -> None:
    released = Decision(State.PENDING, 1, 0, reason="Preempted", message="gave way to a/b", release=True)
    said = Scene().change(released, JobFacts(workers=2, state=State.PENDING), checkpoint={"step": 120})
    words = "gave way to a/b; it is queued again, and goes on from the checkpoint of step 120"
    assert said == [("Warning", "Requeued", words)]


def test_a_resume_is_told_while_the_pods_still_end() -> None:
    resumed = Decision(State.SUSPENDED, 0, 0, reason="Resumed", message="it is queued when its pods have ended")
    facts = JobFacts(workers=2, state=State.SUSPENDED)
    assert Scene().change(resumed, facts) == [("Normal", "Resumed", resumed.message)]


def test_answers_of_the_queue_are_told_when_they_are_new() -> None:
    assert Scene().answer(Known(placed=Placed({"attempt": 2}, "2 workers on 2 nodes"))) == [
        ("Normal", "Placed", "attempt 2: 2 workers on 2 nodes")
    ]
    said = Scene().answer(Known(wait=Wait("WaitingForQuota", "it is b's turn")), state="Suspended")
    assert [(kind, reason) for kind, reason, _ in said] == [("Normal", "Resumed"), ("Warning", "WaitingForQuota")]


def test_every_reason_is_documented_and_every_documented_one_exists() -> None:
    page = (ROOT / "docs/events.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \| (?:Normal|Warning) \|", page, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(documented) == len(set(documented)), "each once"
    assert all(re.fullmatch(r"([A-Z][a-z]+)+", name) for name in documented)
    room = ROOT / "operator/supernode/handlers"
    tellers = ("lifecycle", "tell", "jobs", "cycle", "pools", "groupstatus", "services")
    code = "".join((room / f"{name}.py").read_text() for name in tellers)
    used = set(
        re.findall(r'(?:reason=|JOBS, (?:obj|before), |requeued\(\w+, |return "|DisruptionKind\.\w+: )"(\w+)"', code)
    )
    used |= set(re.findall(r'(?:True|False), "([A-Z]\w+)",', code)) | set(
        re.findall(r'else "(\w+)"$', code, re.MULTILINE)
    )
    used |= {str(reason) for reason in Reason} | set(re.findall(r'decision\.reason in \("(\w+)"', code))
    used |= set(re.findall(r'"(Failed|Requeued)" if', code)) | {"Running", "Succeeded", "Suspended"}
    assert set(documented) == used - NO_EVENT


def test_another_reason_is_told_at_once_and_another_sentence_after_a_pause() -> None:
    asked: list[float] = []

    class Paused(Told):
        def warning(self, kind: Any, obj: Any, reason: str, message: str, *, pause: float = 0.0) -> bool:
            asked.append(pause)
            return super().warning(kind, obj, reason, message)

    scene = Scene()
    scene.events = Paused()
    condition = {"type": "Scheduled", "status": "False", "reason": "WaitingForQuota", "message": "4 of 8"}
    obj = {"metadata": {"name": "gpt"}, "status": {"state": "Waiting", "conditions": [condition]}}
    for code, sentence in (
        ("WaitingForQuota", "4 of 8"),
        ("WaitingForQuota", "5 of 8"),
        ("InsufficientAccelerators", "4 of 8"),
    ):
        tell_answer(cast(Context, scene), obj, Known(wait=Wait(code, sentence)))
    assert asked == [PAUSE, 0.0]
    assert [message for _, _, message in scene.events.said] == ["5 of 8", "4 of 8"]
