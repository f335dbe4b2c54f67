"""Direct exchange: each pod sends to each pod that needs something of it, without anyone in between."""

from __future__ import annotations

from collections.abc import Mapping

from supernode.emulator.fabric.pods import Flat, Pods


def all_to_all(pods: Pods, outgoing: Mapping[int, Flat], incoming: Mapping[int, Flat]) -> None:
    """`outgoing[i]` to pod i, `incoming[i]` from pod i, in P-1 rounds in which everyone sends and receives once."""
    size, me = pods.count, pods.me
    for step in range(1, size):
        to, source = (me + step) % size, (me - step) % size
        pods.exchange([(to, outgoing[to])], [(source, incoming[source])])


def gather(pods: Pods, values: Flat, root: int, incoming: Mapping[int, Flat]) -> None:
    """`values` of every other pod i into `incoming[i]` of pod `root`."""
    if pods.me == root:
        pods.exchange([], [(index, into) for index, into in incoming.items() if index != root])
    else:
        pods.exchange([(root, values)])


def scatter(pods: Pods, outgoing: Mapping[int, Flat], root: int, values: Flat) -> None:
    """`outgoing[i]` of pod `root` into `values` of every other pod i."""
    if pods.me == root:
        pods.exchange([(index, out) for index, out in outgoing.items() if index != root])
    else:
        pods.exchange([], [(root, values)])
