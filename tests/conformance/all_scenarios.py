"""Every scenario, in one list."""

from __future__ import annotations

from tests.conformance import scenarios_objects, scenarios_pods
from tests.conformance.scenario import Scenario

SCENARIOS: list[Scenario] = [*scenarios_objects.SCENARIOS, *scenarios_pods.SCENARIOS]
