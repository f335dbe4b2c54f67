"""What is told of a starting gang a little later, and what never waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.handlers.later import CALM, GATHERED, LONGEST, Later, only_counts
from supernode.handlers.life import Decision, Disruption, DisruptionKind, JobFacts, PodRef, State

KEY = ("n", "j")
FACTS = JobFacts(workers=4, state=State.STARTING, placed_attempt=0, started=5.0)
WAITS = Decision(State.STARTING, 0, 0, "WaitingForPods", "0 of 4 workers run", started=5.0)
PLACED: dict[str, Any] = {"placement": {"assignment": [{}]}}


def test_counts_wait_until_it_is_calm_and_then_are_told_once() -> None:
    now = [100.0]
    later = Later(lambda: now[0])
    later.busy()
    assert later.until(KEY) == 100 + max(GATHERED, CALM)
    now[0] = 100.9
    later.busy()
    assert later.until(KEY) == pytest.approx(100.9 + CALM)
    now[0] = 100.9 + CALM
    assert later.until(KEY) is None
    assert later.until(KEY) == pytest.approx(now[0] + GATHERED), "the next change is another one"
    later.told(KEY)
    now[0] += 0.5
    assert later.until(KEY) == pytest.approx(now[0] + GATHERED)


@given(st.lists(st.tuples(st.floats(-30, 5), st.booleans()), min_size=30, max_size=60))
@settings(deadline=None)
def test_no_count_waits_longer_than_it_may(steps: list[tuple[float, bool]]) -> None:
    """Whatever goes on, and although the clock is put back now and then."""
    now = [1000.0]
    later = Later(lambda: now[0])
    for step, busy in steps:
        now[0] += step
        if busy:
            later.busy()
        ready = later.until(KEY)
        assert ready is None or now[0] < ready <= now[0] + LONGEST
    ready = later.until(KEY)
    if ready is not None:
        now[0] = ready
        later.busy()
        again = later.until(KEY)
        assert again is None or again <= now[0] + LONGEST


def test_a_count_of_a_gang_that_starts_may_wait() -> None:
    assert only_counts(PLACED, FACTS, WAITS)


@pytest.mark.parametrize(
    ("facts", "decision"),
    [
        (FACTS, replace(WAITS, state=State.RUNNING, reason="AllWorkersRunning")),
        (FACTS, replace(WAITS, reason="WorkerStuck")),
        (FACTS, replace(WAITS, reason="CreatingPods", create=(1,))),
        (FACTS, replace(WAITS, create=(1,))),
        (FACTS, replace(WAITS, delete=(PodRef("p", "u"),))),
        (FACTS, replace(WAITS, ask=(PodRef("p", "u"),))),
        (FACTS, replace(WAITS, unask=(PodRef("p", "u"),))),
        (FACTS, replace(WAITS, release=True)),
        (FACTS, replace(WAITS, attempt=1)),
        (FACTS, replace(WAITS, restarts=1)),
        (FACTS, replace(WAITS, requeues=1)),
        (FACTS, replace(WAITS, retry_at=9.0)),
        (FACTS, replace(WAITS, disruption=Disruption(DisruptionKind.PREEMPTION, 1.0, 2.0))),
        (replace(FACTS, deleting=True), WAITS),
        (replace(FACTS, accepted=False), WAITS),
        (replace(FACTS, state=State.RESTARTING), WAITS),
    ],
)
def test_all_else_is_told_at_once(facts: JobFacts, decision: Decision) -> None:
    assert not only_counts(PLACED, facts, decision)
    assert not only_counts({}, FACTS, WAITS), "one without a place"
