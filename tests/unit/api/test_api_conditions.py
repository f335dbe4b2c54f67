"""Conditions: what changes when, and what never does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.api import (
    Condition,
    ConditionType,
    find_condition,
    is_true,
    merge_conditions,
    seconds_of,
    set_condition,
    timestamp,
)
from supernode.api.conditions import MESSAGE_LIMIT

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"


def test_a_new_condition_goes_to_the_end_with_the_time() -> None:
    first = set_condition([], Condition("Accepted", "True", "Valid", "ok", 3), now=EARLY)
    assert first == [
        {
            "type": "Accepted",
            "status": "True",
            "observedGeneration": 3,
            "lastTransitionTime": EARLY,
            "reason": "Valid",
            "message": "ok",
        }
    ]
    both = set_condition(first, Condition(ConditionType.SCHEDULED, "False", "Waiting"), now=LATE)
    assert [condition["type"] for condition in both] == ["Accepted", "Scheduled"]
    assert type(both[1]["type"]) is str


def test_the_time_moves_only_with_the_status() -> None:
    old = set_condition([], Condition("Scheduled", "False", "WaitingForQuota", "4 short"), now=EARLY)
    reworded = set_condition(old, Condition("Scheduled", "False", "InsufficientAccelerators", "2 short"), now=LATE)
    assert (reworded[0]["lastTransitionTime"], reworded[0]["message"]) == (EARLY, "2 short")
    turned = set_condition(reworded, Condition("Scheduled", "True", "Placed"), now=LATE)
    assert turned[0]["lastTransitionTime"] == LATE
    assert old[0]["reason"] == "WaitingForQuota"  # the input is left alone


def test_conditions_of_others_stay_as_they_are() -> None:
    other = {"type": "Theirs", "status": "True", "extra": 1}
    result = set_condition([other], Condition("Accepted", "True", "Valid"), now=EARLY)
    assert result[0] == other
    assert result[0] is not other


def test_a_type_that_stands_twice_is_made_one() -> None:
    twice = [{"type": "Running", "status": "True", "lastTransitionTime": EARLY}] * 2
    result = set_condition(twice, Condition("Running", "True", "Up"), now=LATE)
    assert [item["lastTransitionTime"] for item in result] == [EARLY]


def test_long_messages_are_cut() -> None:
    (condition,) = set_condition([], Condition("Failed", "True", "Crashed", "x" * 5000), now=EARLY)
    assert len(condition["message"]) == MESSAGE_LIMIT
    assert condition["message"].endswith("…")


def test_looking_conditions_up() -> None:
    conditions = merge_conditions(
        [], [Condition("Accepted", "True", "Valid"), Condition("Running", "False", "No")], now=EARLY
    )
    assert is_true(conditions, "Accepted")
    assert not is_true(conditions, "Running")
    assert not is_true(conditions, "Failed")
    assert find_condition(conditions, "Failed") is None


def test_times() -> None:
    assert timestamp(0.9) == "1970-01-01T00:00:00Z"
    assert timestamp(seconds_of("0001-01-01T00:00:00Z")) == "0001-01-01T00:00:00Z"
    assert seconds_of("2026-01-01T00:00:05.25Z") - seconds_of(EARLY) == 5.25
    assert timestamp(seconds_of(LATE)) == LATE
    with pytest.raises(ValueError, match="yesterday"):
        seconds_of("yesterday")


CONDITIONS = st.builds(
    Condition,
    type=st.sampled_from(["Accepted", "Scheduled", "Running"]),
    status=st.sampled_from(["True", "False", "Unknown"]),
    reason=st.sampled_from(["A", "B"]),
    message=st.text(max_size=3),
)


@given(st.lists(CONDITIONS, max_size=12))
def test_each_type_once_the_last_word_stands_and_saying_it_again_changes_nothing(said: list[Condition]) -> None:
    conditions: list[dict[str, Any]] = []
    for second, condition in enumerate(said):
        conditions = set_condition(conditions, condition, now=timestamp(second))
    types = [condition["type"] for condition in conditions]
    assert len(types) == len(set(types))
    for condition in conditions:
        last = [item for item in said if item.type == condition["type"]][-1]
        assert (condition["status"], condition["reason"]) == (last.status, last.reason)
    again = [item for item in said if find_condition(conditions, item.type)]
    for condition in again[-1:]:
        assert set_condition(conditions, condition, now=timestamp(99)) == conditions
