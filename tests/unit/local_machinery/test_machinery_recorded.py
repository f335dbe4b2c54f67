"""The machinery answers as a real kube-apiserver 1.37 did to the same requests (recorded beside this file)."""

from __future__ import annotations

import json

import pytest
from tests.builders.machinery import RECORDED, Json, Scenario, replay
from tests.builders.machinery_scenarios import SCENARIOS

ANSWERS: dict[str, list[Json]] = json.loads(RECORDED.read_text())

# Scenario -> step from which on answers differ, and why that is meant so.
EXCEPTIONS = {
    "widget apply empty": (
        2,
        "the real server refuses the null that its own apply left behind; here it counts as absent",
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_answers_as_the_real_server_did(scenario: Scenario) -> None:
    until = EXCEPTIONS.get(scenario.name, (len(scenario.steps), ""))[0]
    assert replay(scenario)[:until] == ANSWERS[scenario.name][:until]


def test_every_scenario_is_recorded_once() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert sorted(names) == sorted(ANSWERS)
    assert len(set(names)) == len(names)
    assert set(EXCEPTIONS) <= set(names)


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_exceptions_still_differ(name: str) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    assert replay(scenario) != ANSWERS[name]
