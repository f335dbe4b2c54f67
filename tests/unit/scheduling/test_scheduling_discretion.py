"""A sentence names the gangs of the namespace that reads it; of others only how many they are and what they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import a_gang, a_state, held

from supernode.scheduling import discretion
from supernode.scheduling.explain import explain
from supernode.scheduling.place import place
from supernode.scheduling.unplaceable import Unplaceable

NAMESPACES = st.sampled_from(["mine", "mine-too", "their", "m"])
KEYS = st.builds(lambda space, name: f"{space}/{name}", NAMESPACES, st.sampled_from(["secretjob1", "secretjob2"]))


@given(NAMESPACES, st.dictionaries(KEYS, st.integers(1, 9), max_size=8), st.integers(1, 3))
def test_nobody_else_is_named_and_nothing_is_lost(namespace: str, held_by: dict[str, int], most: int) -> None:
    text = discretion.holders(namespace, held_by, most)
    others = [key for key in held_by if key.partition("/")[0] != namespace]
    told = [part.partition(" ")[0] for part in text.split(", ")]
    assert not set(told) & set(others)
    assert set(told) & held_by.keys() == {key for key in list(held_by) if key not in others} or len(held_by) > most
    holds = [int(part.rsplit(" ", 1)[1]) for part in text.split(", ") if part]
    assert sum(holds) == sum(held_by.values()), "what others hold is told in sum"
    words = discretion.listed(namespace, sorted(held_by), most).replace(" and ", ", ").split(", ")
    assert not set(words) & set(others)


@pytest.mark.parametrize(
    ("held_by", "expected"),
    [
        ({}, ""),
        ({"a/x": 2}, "a/x holds 2"),
        ({"b/x": 2}, "a gang of another namespace holds 2"),
        ({"b/x": 2, "a/y": 1, "c/z": 4}, "a/y holds 1, 2 gangs of other namespaces hold 6"),
        ({"pod a/x": 2, "pod b/x": 1}, "pod a/x holds 2, a gang of another namespace holds 1"),
        ({"a/1": 4, "a/2": 3, "a/3": 2, "a/4": 1}, "a/1 holds 4, a/2 holds 3, 2 more of its namespace hold 3"),
    ],
)
def test_words(held_by: dict[str, int], expected: str) -> None:
    assert discretion.holders("a", held_by, 2) == expected


def test_what_a_job_reads_names_no_job_of_another_namespace() -> None:
    state = a_state()
    state.claim("other/secret-plan", held("other/secret-plan", ("dcu-0", (0, 1))), {})
    state.claim("default/own", held("default/own", ("dcu-1", (0, 1))), {})
    for namespace, named in (("default", "default/own holds 2"), ("third", "2 gangs of other namespaces hold 4")):
        gang, snapshot = a_gang(f"{namespace}/new", 4), state.snapshot()
        result = place(snapshot, gang)
        assert isinstance(result, Unplaceable)
        text = explain(result, snapshot, gang)
        assert named in text
        assert "secret-plan" not in text
    assert discretion.named("default", "other/secret-plan") == "a gang of another namespace"
