"""What goes along with the pods' agreement: it never shows where they do not agree, and never meets a later call."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from tests.unit.fabric.pods import a_job, at_once, outcomes, run

from supernode.emulator.fabric import CollectiveCall, channel
from supernode.emulator.fabric.algorithms import tree
from supernode.emulator.fabric.choice import Plan
from supernode.emulator.fabric.order import tree as tree_order
from supernode.errors import CollectiveMismatchError, FabricError, PeerLostError

RANKS = 4
GROUP = tuple(range(RANKS))

#: Over memory; over TCP, each pod with each; over TCP as groups of many pods do it.
TRANSPORTS = pytest.mark.parametrize("transport", ["auto", "tcp", "many"])


@pytest.fixture
def over(transport, monkeypatch) -> str:
    """The setting for it."""
    if transport == "many":
        monkeypatch.setattr(channel, "MOST_DIRECT", 1)
        return "tcp"
    return transport


#: Elements: in one step, in one round, in several rounds of a board.
COUNTS = [5, 40_000, 300_000]


def given(rank: int, step: int, count: int) -> np.ndarray:
    return np.random.default_rng([rank, step]).integers(-1000, 1000, count).astype(np.float32)


def a_program(rank: int, seed: int):
    """The same calls on every rank, with values and waits of its own: (step, call, send, what is due)."""
    plan, own = random.Random(seed), random.Random(seed * 10 + rank)
    for step in range(30):
        kind = plan.choice(["all_reduce", "all_reduce", "all_reduce", "all_gather", "broadcast", "barrier", "differ"])
        count, way = plan.choice(COUNTS), plan.choice(["sum", "max", "average"])
        everyone = [given(other, step, count) for other in GROUP]
        if kind == "all_reduce":
            due = {"sum": np.sum, "max": np.max, "average": np.mean}[way](everyone, axis=0)
            call = CollectiveCall("all_reduce", GROUP, step, "f32", count, way)
        elif kind == "all_gather":
            call, due = CollectiveCall("all_gather", GROUP, step, "f32", count), np.concatenate(everyone)
        elif kind == "broadcast":
            call, due = CollectiveCall("broadcast", GROUP, step, "f32", count, root_or_peer=step % RANKS), None
            due = everyone[step % RANKS]
        elif kind == "barrier":
            call, due = CollectiveCall("barrier", GROUP, step), None
        else:
            call, due = CollectiveCall("all_reduce", GROUP, step, "f32", count - (rank == step % RANKS)), None
        time.sleep(own.choice([0, 0, 0, 0.002]))
        yield kind, call, everyone[rank], due


@TRANSPORTS
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", [None, Plan("tree", RANKS), Plan("ring", RANKS)], ids=["chosen", "tree", "ring"])
def test_calls_of_all_kinds_and_sizes_follow_each_other_and_disagreements_leave_no_trace(over, seed, way):
    with a_job(RANKS, 1, transport=over) as fabrics:
        for fabric in fabrics if way is not None else ():
            fabric._chooser._plan = lambda nbytes, group: way

        def go(rank: int) -> None:
            for kind, call, send, due in a_program(rank, seed):
                if kind == "differ":
                    mine = send[: call.count].copy()
                    with pytest.raises(CollectiveMismatchError):
                        run(fabrics, rank, call, mine, mine)
                    assert (mine == send[: call.count]).all()
                    continue
                into = None if kind == "barrier" else np.empty(due.size, np.float32)
                before = send.copy()
                run(fabrics, rank, call, None if kind == "barrier" else send, into)
                assert (send == before).all()
                assert due is None or (into == due.astype(np.float32)).all()

        at_once([lambda rank=rank: go(rank) for rank in GROUP])


@TRANSPORTS
def test_a_call_of_another_kind_drops_the_data_that_went_along(over):
    with a_job(RANKS, 1, transport=over) as fabrics:
        data = [given(rank, 0, 300_000) for rank in GROUP]
        reduce = CollectiveCall("all_reduce", GROUP, 1, "f32", 300_000)
        for odd in GROUP:
            parts = [lambda rank=rank: run(fabrics, rank, reduce, data[rank], data[rank]) for rank in GROUP]
            parts[odd] = lambda odd=odd: run(fabrics, odd, CollectiveCall("barrier", GROUP, 1), None, None)
            for result in outcomes(parts):
                assert isinstance(result, CollectiveMismatchError)
                assert f"rank {odd} called barrier(sequence=1)" in str(result)
                assert "called all_reduce(sequence=1, dtype=f32, count=300000, reduce=sum)" in str(result)
        at_once([lambda rank=rank: run(fabrics, rank, reduce, data[rank], data[rank]) for rank in GROUP])
        assert (data[0] == sum(given(rank, 0, 300_000) for rank in GROUP)).all()


@pytest.mark.parametrize("transport", ["tcp", "many"])
def test_a_pod_whose_part_of_the_data_has_another_size_than_its_call_is_given_up(over):
    """It says the same call, and that more comes along than is due."""
    with a_job(2, 1, transport=over, timeouts=[5.0, 5.0]) as fabrics:
        for fabric in fabrics:
            fabric._chooser._plan = lambda nbytes, group: Plan("tree", 2)
        data = [np.ones(40_000, np.float32) for _ in fabrics]
        call = CollectiveCall("all_reduce", (0, 1), 7, "f32", 40_000)
        at_once([lambda rank=rank: run(fabrics, rank, call, data[rank], data[rank]) for rank in (0, 1)])
        lying = next(iter(fabrics[1]._channels.values()))
        link = lying._connect(0)
        line = fabrics[1]._stands(call, 1, 0)[1].text(call)
        link.sock.sendall(link.outward.message({"call": line, "ready": 0.0, "bytes": 160_004}))
        with pytest.raises(PeerLostError, match=r"160004 bytes come along with its call; (80000|160000) are due"):
            run(fabrics, 0, call, data[0], data[0])


@pytest.mark.parametrize("said", [{"call": 1}, {"call": "x", "ready": float("nan"), "bytes": 0}, {}])
def test_a_pod_that_says_nonsense_of_its_call_is_given_up(said):
    with a_job(2, 1, transport="tcp", timeouts=[5.0, 5.0]) as fabrics:
        barrier = CollectiveCall("barrier", (0, 1))
        at_once([lambda rank=rank: run(fabrics, rank, barrier, None, None) for rank in (0, 1)])
        channel = next(iter(fabrics[1]._channels.values()))
        link = channel._connect(0)
        link.sock.sendall(link.outward.message(said))
        with pytest.raises(PeerLostError, match="makes no sense"):
            run(fabrics, 0, barrier, None, None)


@pytest.mark.parametrize("count", range(1, 18))
def test_places_in_the_tree_give_its_order(count):
    def order_at(me: int):
        order = me
        for child in tree.place(me, count).children:
            order = (order, order_at(child))
        return order

    assert order_at(0) == tree_order(0, count)
    assert all(me in tree.place(tree.place(me, count).parent, count).children for me in range(1, count))


def test_who_comes_late_hears_why_a_device_could_not_take_part_not_that_its_program_then_ended():
    call = CollectiveCall("all_reduce", (0, 1), dtype="f32", count=4)
    with a_job(2, 1, timeouts=[600.0, 600.0]) as fabrics:
        program, late = fabrics[1].enter(), fabrics[0].enter()
        ticket = program.issue(call, 0, object())
        other = late.issue(call, 0, object())
        fabrics[0]._on_abort(ticket.key, {"error": "FabricError", "text": "rank 1 has no memory"})
        fabrics[0]._on_end(ticket.key, 0, "the program of rank 1 has ended")
        with pytest.raises(FabricError, match="rank 1 has no memory"):
            late.run(other, np.ones(4, np.float32), np.ones(4, np.float32), 0.0)
