"""What a status says: pure renderings, and what is believed of a sidecar's report."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.api.job_status import TrainingJobStatus
from supernode.api.rules import Problem
from supernode.handlers.jobstatus import Known, Placed, Wait, render
from supernode.handlers.lifecycle import Decision, PodFacts, State
from supernode.handlers.progress import read_report

NOW = 1_800_000_000.0


def an_obj(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "j", "namespace": "n", "uid": "u", "generation": 3}, "status": status}


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def checked(status: dict[str, Any]) -> dict[str, Any]:
    """Every status written must be one that the API allows."""
    TrainingJobStatus.model_validate(status)
    return status


def test_a_gang_without_a_place_waits_with_code_and_sentence() -> None:
    decision = Decision(State.PENDING, 0, 0, wants_placement=True)
    status = checked(render(an_obj(), decision, 2, [], Known(wait=Wait("InsufficientAccelerators", "why")), NOW))
    assert (status["state"], status["message"], status["observedGeneration"]) == ("Waiting", "why", 3)
    assert conditions(status) == {"Accepted": ("True", "Accepted"), "Scheduled": ("False", "InsufficientAccelerators")}
    again = render(an_obj(**status), decision, 2, [], Known(wait=Wait("InsufficientAccelerators", "why")), NOW + 60)
    assert again == status, "the same answer is the same status, to the second"


def test_a_place_is_the_claim_and_starts_the_job() -> None:
    placed = Placed({"attempt": 1, "pool": "p", "workers": []}, "2 workers on 1 node")
    decision = Decision(State.STARTING, 1, 0, "Placed", "2 workers on 1 node", started=NOW)
    status = checked(render(an_obj(state="Waiting"), decision, 2, [], Known(placed=placed), NOW))
    assert status["state"] == "Starting"
    assert status["placement"] == placed.status
    assert conditions(status)["Scheduled"] == ("True", "Placed")


def test_a_release_takes_the_place_out_and_keeps_why() -> None:
    obj = an_obj(state="Restarting", message="worker 1 failed", placement={"attempt": 0}, mfu=0.5, progress={"step": 3})
    status = checked(render(obj, Decision(State.PENDING, 1, 1, "Released", release=True), 2, [], Known(), NOW))
    assert {"placement", "mfu", "progress"} & status.keys() == set()
    assert status["message"] == "worker 1 failed"


@pytest.mark.parametrize("before", ["Suspended", "Restarting", "Running"])
def test_every_condition_has_a_sentence(before: str) -> None:
    told = Decision(State(before), 0, 0, before, "why")
    first = render(an_obj(), told, 2, [], Known(), NOW)
    for state in State:
        status = checked(render(an_obj(**first), Decision(state, 1, 0, release=True), 2, [], Known(), NOW))
        assert [c["type"] for c in status["conditions"] if not c["message"] and c["status"] == "False"] == []


def test_a_job_that_was_resumed_does_not_say_that_it_is_suspended() -> None:
    first = render(an_obj(), Decision(State.RUNNING, 0, 0, "AllWorkersRunning", "2 run"), 2, [], Known(), NOW)
    suspended = Decision(State.SUSPENDED, 0, 0, "Suspended", "spec.runPolicy.suspend is true")
    second = render(an_obj(**first), suspended, 2, [], Known(), NOW)
    assert conditions(second)["Running"] == ("False", "Suspended")
    waits = Known(wait=Wait("InsufficientAccelerators", "why"))
    third = render(an_obj(**second), Decision(State.PENDING, 1, 0, wants_placement=True), 2, [], waits, NOW)
    assert "suspend is true" not in json.dumps(checked(third))
    assert conditions(third)["Running"] == ("False", "Resumed")


def test_what_a_job_that_has_ended_was_accepted_as_stays() -> None:
    problem = Known(problem=Problem("spec.pools[0]", "no such pool"))
    first = render(an_obj(), Decision(State.PENDING, 0, 0, "Misconfigured"), 2, [], problem, NOW)
    failed = Decision(State.FAILED, 0, 0, "WorkerFailed", "disk full", completed=NOW)
    ended = checked(render(an_obj(**first), failed, 2, [], Known(), NOW))
    assert conditions(ended)["Accepted"] == ("False", "Misconfigured")
    assert conditions(checked(render(an_obj(), failed, 2, [], Known(), NOW)))["Accepted"] == ("True", "Accepted")


def test_a_problem_is_said_with_its_field() -> None:
    problem = Problem("spec.pools[0]", "no such pool")
    status = checked(
        render(an_obj(), Decision(State.PENDING, 0, 0, "Misconfigured"), 2, [], Known(problem=problem), NOW)
    )
    assert conditions(status)["Accepted"] == ("False", "Misconfigured")
    assert status["message"] == "spec.pools[0]: no such pool"


def test_conditions_follow_the_state_and_say_since_when() -> None:
    running = Decision(State.RUNNING, 0, 0, "AllWorkersRunning", "2 run", started=NOW)
    first = checked(render(an_obj(), running, 2, [], Known(), NOW))
    later = checked(render(an_obj(**first), running, 2, [], Known(), NOW + 60))
    assert later == first
    failed = Decision(State.FAILED, 0, 3, "BackoffLimitExceeded", "too often", started=NOW, completed=NOW + 90)
    last = checked(render(an_obj(**later), failed, 2, [], Known(), NOW + 90))
    assert conditions(last)["Running"] == ("False", "BackoffLimitExceeded")
    assert conditions(last)["Failed"] == ("True", "BackoffLimitExceeded")
    ended = Decision(State.FAILED, 0, 3, started=NOW, completed=NOW + 90)
    assert render(an_obj(**last), ended, 2, [], Known(), NOW + 500) == last, "what has ended is not written again"


def test_only_pods_of_the_attempt_are_counted() -> None:
    pods = [
        PodFacts("j-worker-0", "a", 0, 1, phase="Running", ready=True),
        PodFacts("j-worker-1", "b", 1, 1, phase="Failed"),
        PodFacts("j-worker-2", "c", 2, 0, phase="Running", ready=True),
    ]
    status = checked(render(an_obj(), Decision(State.RUNNING, 1, 1), 3, pods, Known(), NOW))
    assert status["workers"] == {"desired": 3, "active": 1, "ready": 1, "succeeded": 0, "failed": 1}
    assert (status["ready"], status["replicas"], status["selector"]) == ("1/3", 1, "supernode.dev/job=j")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"step": 3, "loss": 1.5, "tokens": 10}', {"step": 3, "loss": 1.5, "tokens": 10}),
        ('{"step": 3, "loss": NaN, "firstLoss": "no"}', {"step": 3}),
        (
            '{"step": 3, "digest": "abc", "updatedAt": "2026-01-02T03:04:05Z"}',
            {"step": 3, "digest": "abc", "updatedAt": "2026-01-02T03:04:05Z"},
        ),
        ('{"step": 3, "digest": null, "updatedAt": "yesterday", "extra": {"a": 1}}', {"step": 3}),
        ('{"step": true}', None),
        ('{"step": -1}', None),
        ('{"loss": 1.5}', None),
        ("[]", None),
        ("", None),
        ("{", None),
    ],
)
def test_of_a_report_only_known_and_sane_fields_are_taken(text: str, expected: dict[str, Any] | None) -> None:
    assert read_report(text) == expected


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["step", "loss", "tokens", "stepSeconds", "digest", "updatedAt"]),
        st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.lists(st.integers())),
    )
)
def test_whatever_a_sidecar_says_the_api_takes_it(report: dict[str, Any]) -> None:
    taken = read_report(json.dumps(report))
    decision = Decision(State.RUNNING, 0, 0)
    checked(render(an_obj(), decision, 1, [], Known(progress=taken), NOW))
