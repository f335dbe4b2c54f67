"""Progress: the published JSON, the step time, the size of the termination message."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.emulator.progress import MESSAGE_BYTES, Progress, checked
from supernode.errors import ProtocolError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_published_object() -> None:
    progress = Progress()
    assert progress.snapshot()["step"] == 0
    for step, seconds in ((1, 0.5), (2, 0.75), (4, 1.75), (5, 2.75)):
        fields = {"step": step, "loss": 4.0 / step, "tokens": step * 100, "note": "x"}
        progress.report(checked(fields), seconds, seconds / 2, NOW)
    progress.report(checked({"step": 5, "digest": "abc"}), 9.0, 4.5, NOW)
    assert progress.snapshot() == {
        "step": 5,
        "firstLoss": 4.0,
        "loss": 0.8,
        "tokens": 500,
        "stepSeconds": 0.5,  # of 0.25, 0.5 (two steps in a second), 1.0
        "ownSeconds": 0.25,
        "deviceSeconds": 9.0,
        "steps": None,
        "checkpointStep": None,
        "checkpointAt": None,
        "digest": "abc",
        "updatedAt": "2026-01-02T03:04:05Z",
        "extra": {"note": "x"},
    }


def test_numbers_that_json_lacks_are_null() -> None:
    progress = Progress()
    progress.report(checked({"step": 1, "loss": math.nan, "rate": math.inf}), 1.0)
    text = progress.message()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None
    assert progress.snapshot()["extra"] == {"rate": None}


def test_the_message_fits_a_termination_log() -> None:
    progress = Progress()
    for i in range(8):
        progress.report(checked({"step": i, f"key{i}": "ü" * 300}), float(i))
    assert len(progress.message().encode()) <= MESSAGE_BYTES
    assert json.loads(progress.message())["step"] == 7


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {"step": -1},
        {"step": True},
        {"step": 1.5},
        {"step": 1, "loss": "low"},
        {"step": 1, "tokens": -3},
        {"step": 1, "digest": "x" * 300},
        {"step": 1, "deep": {"a": 1}},
        {"step": 1, "long": "x" * 5000},
        {"step": 1, **{str(i): i for i in range(40)}},
    ],
)
def test_bad_reports(fields: object) -> None:
    with pytest.raises(ProtocolError, match="report"):
        checked(fields)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10)), max_size=30))
def test_step_time_lies_between_the_extremes(moves: list[tuple[int, float]]) -> None:
    progress, seconds = Progress(), 0.0
    for step, more in moves:
        seconds += more
        progress.report(checked({"step": step}), seconds)
    found = progress.snapshot()["stepSeconds"]
    assert found is None or 0 <= found <= seconds


def test_a_checkpoint_has_the_time_at_which_its_step_was_new() -> None:
    progress, later = Progress(), NOW.replace(minute=30)
    progress.report(checked({"step": 10, "steps": 100, "checkpoint": 10}), 1.0, 0.5, NOW)
    progress.report(checked({"step": 11, "checkpoint": 10}), 2.0, 1.0, later)
    found = progress.snapshot()
    assert (found["steps"], found["checkpointStep"], found["checkpointAt"]) == (100, 10, "2026-01-02T03:04:05Z")
    progress.report(checked({"step": 20, "checkpoint": 20}), 3.0, 1.5, later)
    assert (progress.snapshot()["checkpointStep"], progress.snapshot()["checkpointAt"]) == (20, "2026-01-02T03:30:05Z")


@pytest.mark.parametrize("name", ["steps", "checkpoint"])
@pytest.mark.parametrize("value", [-1, 1.5, "7", True])
def test_steps_and_checkpoints_are_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=name):
        checked({"step": 1, name: value})


def test_a_rank_that_becomes_slow_shows_within_some_steps() -> None:
    progress, own = Progress(), 0.0
    for step in range(1, 200):
        own += 0.1 if step < 150 else 0.3
        progress.report(checked({"step": step}), step * 1.0, own)
    assert progress.snapshot()["ownSeconds"] == pytest.approx(0.3)
