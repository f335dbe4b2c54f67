"""The demo's verdict: each promise holds on a good run, and each single broken promise is caught."""

import copy
from typing import Any

import pytest

from supernode.demo import verdict

GOOD_JOB: dict[str, Any] = {
    "metadata": {"name": "gpt"},
    "spec": {"workers": 2, "acceleratorsPerWorker": 2},
    "status": {
        "state": "Succeeded",
        "ready": "0/2",
        "completionTime": "2026-01-01T00:00:10Z",
        "mfu": 1e-5,
        "placement": {"domain": "spine-0/sn-0", "predictedStepSeconds": 0.001},
        "progress": {"stepSeconds": 0.00109, "firstLoss": 5.5, "loss": 2.2},
    },
}
GOOD_FINALS = [{"lastLoss": 2.2, "unigramLoss": 3.1, "digests": ["ab" * 32, "ab" * 32]} for _ in range(2)]


def a_wide_job() -> dict[str, Any]:
    return {"metadata": {"name": "wide"}, "spec": {"workers": 2}, "status": {"state": "Succeeded"}}


def pods(*created: str) -> list[dict[str, Any]]:
    return [{"metadata": {"creationTimestamp": moment}} for moment in created]


def held(checks: list[verdict.Check]) -> list[bool]:
    return [check.held for check in checks]


def test_a_good_training_run_holds_every_promise() -> None:
    assert all(held(verdict.check_training("gpt", GOOD_JOB, GOOD_FINALS)))


@pytest.mark.parametrize(
    ("break_it", "caught"),
    [
        (lambda job, finals: job["status"].update(state="Failed"), "succeeded"),
        (lambda job, finals: finals[1].update(lastLoss=3.0), "learned"),
        (lambda job, finals: finals[1].update(lastLoss=float("nan")), "learned"),
        (lambda job, finals: finals.pop(), "learned"),
        (lambda job, finals: finals[1].update(digests=["ab" * 32, "cd" * 32]), "identical"),
        (lambda job, finals: finals[1].update(digests=["ab" * 32]), "identical"),
        (lambda job, finals: job["status"].pop("mfu"), "emulated step"),
        (lambda job, finals: job["status"]["progress"].update(stepSeconds=0), "emulated step"),
        (lambda job, finals: job["status"]["progress"].update(stepSeconds=0.00111), "emulated step"),
    ],
)
def test_a_broken_training_run_is_caught(break_it: Any, caught: str) -> None:
    job, finals = copy.deepcopy(GOOD_JOB), copy.deepcopy(GOOD_FINALS)
    break_it(job, finals)
    failed = [check.name for check in verdict.check_training("gpt", job, finals) if not check.held]
    assert any(caught in name for name in failed)


def seen() -> verdict.Observation:
    return verdict.Observation(
        waiting_message="needs 4 workers x 2 devices, 4 of 8 are free; default/gpt holds 4", waiting_event="needs 4"
    )


def test_a_gang_that_waited_and_started_at_once_holds() -> None:
    gang = pods("2026-01-01T00:00:10Z", "2026-01-01T00:00:11Z")
    assert all(held(verdict.check_waiting(GOOD_JOB, a_wide_job(), gang, seen())))


@pytest.mark.parametrize(
    ("created", "observation"),
    [
        (["2026-01-01T00:00:09Z", "2026-01-01T00:00:10Z"], seen()),
        (["2026-01-01T00:00:10Z"], seen()),
        (["2026-01-01T00:00:10Z"] * 2, verdict.Observation(waiting_message="no room", waiting_event="x")),
        (["2026-01-01T00:00:10Z"] * 2, verdict.Observation(waiting_message=seen().waiting_message)),
        (
            ["2026-01-01T00:00:10Z"] * 2,
            verdict.Observation(seen().waiting_message, "x", partial_gangs=["1 of 2 pods for 3 s"]),
        ),
    ],
)
def test_a_gang_that_broke_a_promise_is_caught(created: list[str], observation: verdict.Observation) -> None:
    assert not all(held(verdict.check_waiting(GOOD_JOB, a_wide_job(), pods(*created), observation)))


def test_a_refusal_must_name_the_field() -> None:
    observation = verdict.Observation(refusals={"a": "spec.pools[0]: unknown", "b": "bad"})
    checks = verdict.check_refusals({"a": "spec.pools", "b": "spec.parallelism", "c": "spec.workers"}, observation)
    assert held(checks) == [True, False, False]


def test_the_last_json_line_of_a_log_is_found_among_others() -> None:
    assert verdict.last_json_line('{"step": 1}\nstep 2 loss 3\n{"step": 3}\n{broken\n') == {"step": 3}
    assert verdict.last_json_line("nothing") == {}


def test_the_table_fits_a_terminal_and_says_unknown_as_a_dash() -> None:
    text = verdict.table([verdict.job_row(GOOD_JOB), verdict.job_row(a_wide_job())])
    assert max(map(len, text.splitlines())) <= 100
    assert "5.50 -> 2.20" in text
    assert "-" in text.splitlines()[2]
