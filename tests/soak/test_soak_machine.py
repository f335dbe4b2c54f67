"""The same trouble as a state machine of hypothesis, which makes short what it finds: promises hold at each step."""

from __future__ import annotations

import contextlib
import logging

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.soak.same import same_every_time
from tests.soak.schedule import Schedule
from tests.soak.virtual import VirtualLoop

STEPS = (
    *("new_job", "scatter", "delete_job", "suspend", "scale", "urgency", "ask_for_moves", "delete_pod"),
    *("kill", "kill_at_an_await", "stop", "cut", "jump", "ambush"),
    *("flap", "taint", "unhealthy", "node_away", "fail_pod", "break_gang"),
)


class Machine(RuleBasedStateMachine):
    """A cluster, users and trouble; each step is one of theirs, and then some time goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        logger = logging.getLogger("supernode")
        self.stack.callback(setattr, logger, "propagate", logger.propagate)
        self.stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        logger.propagate = False

    @initialize(seed=st.integers(1, 10_000))
    def begin(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.stack.callback(self.loop.close)
        for each in same_every_time(seed, self.loop):
            self.stack.enter_context(each)
        self.schedule = Schedule(seed, self.loop)
        self.stack.callback(self.schedule.end)
        self.loop.run_until_complete(self.schedule.begin())

    @rule(step=st.sampled_from(STEPS), seconds=st.sampled_from((0.0, 0.1, 1.0, 5.0, 20.0)))
    def step(self, step: str, seconds: float) -> None:
        self.loop.run_until_complete(self.schedule.named(step, seconds))

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "schedule"):
            assert self.schedule.promises.broken == []
            assert self.schedule.problems == []

    def teardown(self) -> None:
        try:
            if hasattr(self, "schedule") and not self.schedule.promises.broken:
                self.loop.run_until_complete(self.schedule.finish())
                self.promises_hold()
        finally:
            self.stack.close()


TestPromises = pytest.mark.timeout(600)(Machine.TestCase)
TestPromises.settings = settings(
    max_examples=8, stateful_step_count=16, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
