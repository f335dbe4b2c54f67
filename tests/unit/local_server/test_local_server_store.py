"""The store: revisions, history, snapshots, watchers; and that paging back in time is exact."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supernode.local.server.store import Store

THINGS = ("", "things")
NAMES = ("a", "b", "c")


def a_thing(name: str, value: int = 0) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": name}, "value": value}


def test_every_write_has_its_own_revision() -> None:
    store = Store()
    first = store.put(THINGS, ("", "a"), a_thing("a"))
    second = store.put(THINGS, ("", "a"), a_thing("a", 1))
    gone = store.remove(THINGS, ("", "a"))
    assert first.revision < second.revision < gone.revision
    assert gone.obj["metadata"]["resourceVersion"] == str(gone.revision)
    assert second.obj["metadata"]["resourceVersion"] == str(second.revision), "history must not change"
    assert store.get(THINGS, ("", "a")) is None


def test_a_watcher_sees_what_comes_after_its_revision() -> None:
    store = Store()
    since = store.put(THINGS, ("", "a"), a_thing("a")).revision
    store.put(THINGS, ("", "b"), a_thing("b"))
    watcher = store.watch(THINGS, since)
    assert watcher is not None
    store.remove(THINGS, ("", "a"))
    assert [(each.kind, each.key[1]) for each in watcher.pending] == [("ADDED", "b"), ("DELETED", "a")]


def test_what_is_forgotten_is_refused() -> None:
    store = Store(history=2)
    first = store.put(THINGS, ("", "a"), a_thing("a")).revision
    for value in range(3):
        last = store.put(THINGS, ("", "a"), a_thing("a", value)).revision
    assert store.watch(THINGS, first) is None
    assert store.snapshot(THINGS, first) is None
    assert store.watch(THINGS, last - 1) is not None


def test_a_slow_watcher_is_closed() -> None:
    store = Store(history=100000)
    watcher = store.watch(THINGS, store.revision)
    assert watcher is not None
    for value in range(5000):
        store.put(THINGS, ("", "a"), a_thing("a", value))
    assert watcher.closed
    assert len(watcher.pending) < 5000


def test_the_same_object_in_two_versions() -> None:
    stored = Store().put(THINGS, ("", "a"), a_thing("a", 3))
    assert stored.whole("x.dev/v2", "Other").startswith(b'{"kind":"Other","apiVersion":"x.dev/v2","metadata":')
    assert b"apiVersion" not in stored.body


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["put", "remove"])), max_size=30))
def test_snapshots_are_the_past_exactly(steps: list[tuple[str, str]]) -> None:
    store = Store()
    past: dict[int, dict[str, int]] = {store.revision: {}}
    for number, (name, action) in enumerate(steps):
        if action == "put":
            store.put(THINGS, ("", name), a_thing(name, number))
        elif store.get(THINGS, ("", name)) is not None:
            store.remove(THINGS, ("", name))
        past[store.revision] = {each.obj["metadata"]["name"]: each.obj["value"] for each in store.items(THINGS)}
    for revision, wanted in past.items():
        found = store.snapshot(THINGS, revision)
        assert found is not None
        assert {key[1]: stored.obj["value"] for key, stored in found} == wanted
