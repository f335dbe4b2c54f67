"""Every scenario on both servers, held to what the real one was recorded to answer."""

from __future__ import annotations

import json

import pytest
from tests.conformance.all_scenarios import SCENARIOS
from tests.conformance.engines import Engine
from tests.conformance.exceptions import EXCEPTIONS
from tests.conformance.normal import differences
from tests.conformance.record import RECORDED
from tests.conformance.scenario import Scenario, play
from tests.conformance.wire import Wire

_used: set[int] = set()
_played: set[str] = set()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_answers_are_those_of_the_real_server(engine: Engine, wire: Wire, scenario: Scenario) -> None:
    if scenario.controllers and not engine.controllers:
        pytest.skip("needs kube-controller-manager in KUBEBUILDER_ASSETS")
    recorded = json.loads((RECORDED / f"{scenario.name}.json").read_text())
    answers = play(wire, scenario)
    assert len(recorded) == len(answers), "the scenario changed: record it again"
    unexplained = []
    for index, pair in enumerate(zip(recorded, answers, strict=True)):
        for difference in differences(*pair):
            covering = [
                number for number, each in enumerate(EXCEPTIONS) if each.covers(scenario.name, index, difference)
            ]
            if engine.name == "embedded" and covering:
                _used.update(covering)
            else:
                step = scenario.steps[index]
                unexplained.append(f"[{index}] {step.method} {step.path} {difference}")
    assert not unexplained, "recorded != answered:\n" + "\n".join(unexplained)
    if engine.name == "embedded":
        _played.add(scenario.name)


def test_no_exception_is_stale() -> None:
    if _played != {each.name for each in SCENARIOS}:
        pytest.skip("only known after every scenario has passed on the embedded server")
    stale = [each for number, each in enumerate(EXCEPTIONS) if number not in _used]
    assert not stale, f"these differences do not occur any more: {stale}"


def test_differences_are_seen() -> None:
    left, right = {"a": [1, {"b": None}], "c": "x"}, {"a": [1, {"b": ""}], "d": "x"}
    assert differences(left, right) == ["/a/1/b: None != ''", "/c: 'x' != absent", "/d: absent != 'x'"]
    assert differences([1], [1.0]) == ["/0: 1 != 1.0"]
    assert differences({"a": [1]}, {"a": [1]}) == []


def test_recordings_belong_to_scenarios() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {each.name for each in SCENARIOS}
