"""Events in their two forms: nothing is lost on the way there and back, and each form has its own names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.local.server.views import keep_event, show_event

# core/v1 and events.k8s.io/v1 names, held here a second time.
PAIRS = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
SAME = ("metadata", "reason", "type", "action", "related", "series", "eventTime", "reportingInstance")
FIELDS = st.dictionaries(st.sampled_from([*PAIRS, *SAME]), st.text(min_size=1) | st.integers(min_value=1))


@given(FIELDS)
def test_there_and_back(said: dict[str, Any]) -> None:
    stored = keep_event(said)
    assert keep_event(show_event(stored)) == stored
    assert {name: stored[name] for name in said} == said


@pytest.mark.parametrize(("core", "new"), PAIRS.items())
def test_each_form_has_its_own_names(core: str, new: str) -> None:
    shown = show_event(keep_event({core: "x"}))
    assert shown[new] == "x"
    assert core not in shown


def test_objects_are_not_shared() -> None:
    first, second = keep_event({}), keep_event({})
    first["source"]["component"] = "x"
    assert second["source"] == {}
