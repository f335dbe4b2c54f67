"""Every scenario, in one list."""

from __future__ import annotations

from tests.conformance import scenarios_custom, scenarios_lives, scenarios_objects, scenarios_patches, scenarios_pods
from tests.conformance.scenario import Scenario

SCENARIOS: list[Scenario] = [
    *scenarios_objects.SCENARIOS,
    *scenarios_pods.SCENARIOS,
    *scenarios_custom.SCENARIOS,
    *scenarios_patches.SCENARIOS,
    *scenarios_lives.SCENARIOS,
]
