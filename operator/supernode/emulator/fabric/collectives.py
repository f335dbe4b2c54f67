"""Each kind of collective: from the buffers of this pod's devices, through an algorithm between pods, and back.

Runs on one thread per pod, when all ranks have agreed on the call. `parts` are this pod's devices in the order of
their places in the group. First the pod's own devices are reduced in that order, then the pods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from itertools import pairwise as pairs
from typing import Any, Final, NamedTuple

import numpy as np

from supernode.emulator.dtypes import DTYPES, WIDE, dtype_name
from supernode.emulator.fabric.algorithms import hierarchy, pairwise, ring, together, tree
from supernode.emulator.fabric.algorithms.direct import DirectSum
from supernode.emulator.fabric.algorithms.tree import TreeSum
from supernode.emulator.fabric.boards import Layout, Sums
from supernode.emulator.fabric.call import CollectiveCall
from supernode.emulator.fabric.choice import Plan, even_sections
from supernode.emulator.fabric.participant import Ticket
from supernode.emulator.fabric.pods import Flat, Pods
from supernode.emulator.fabric.reduction import finish, fold, put, same_place
from supernode.emulator.fabric.standing import Standing
from supernode.errors import FabricError

# Up to this many bytes a reduce or broadcast goes along a tree: there the number of steps costs more than the bytes.
SMALL_BYTES: Final = 64 << 10
# Up to this many bytes an all-reduce over TCP between few pods goes straight to those who sum it.
DIRECT_BYTES: Final = 4 << 20


class Part(NamedTuple):
    """One local device's part: its global rank, call, flat buffers (as the kind needs) and virtual ready time.

    `standing`: what is known of the call.
    `ticket`: of the program that issued it; None: of no program that issues others beside it.
    """

    rank: int
    call: CollectiveCall
    send: Flat | None
    recv: Flat | None
    ready: float
    standing: Standing
    ticket: Ticket | None = None


class Prepared(NamedTuple):
    """What of an all-reduce may be under way before all have agreed on it.

    Attributes:
        total: the pod's own contribution, not to be written.
        going: the sum that goes along with the agreement; None: `total` lies on the pod's board.
    """

    total: Flat
    going: TreeSum | DirectSum | None


def alike(parts: Sequence[Part]) -> str:
    """What the devices of this pod call, as the line that pods compare; empty where they differ."""
    text = parts[0].standing.text(parts[0].call)
    return text if all(part.standing.text(part.call) == text for part in parts[1:]) else ""


def prepare(parts: Sequence[Part], pods: Pods) -> Prepared | None:
    """Begin what goes along with the agreement of parts that are `alike`, if anything does; no buffer changes."""
    call, plan = parts[0].call, parts[0].standing.plan
    if plan is None or pods.count == 1:
        return None
    if pods.together:
        total = _contribution(parts, pods)
        together.show(pods, total, _layout(parts[0], pods))
        return Prepared(total, None)
    sums = _sums(parts[0], pods)
    if pods.direct and (plan.way == "tree" or call.count * parts[0].standing.wide.itemsize <= DIRECT_BYTES):
        total = _contribution(parts, pods)
        return Prepared(total, DirectSum(pods, total, sums, _need(parts[0].recv), _finisher(call)))
    if not pods.direct and plan.way == "tree":
        total = _contribution(parts, pods)
        return Prepared(total, TreeSum(pods, total, call.reduce, _need(parts[0].recv), _finisher(call)))
    return None


def perform(parts: Sequence[Part], pods: Pods, prepared: Prepared | None = None) -> None:
    """Do what all ranks have agreed on.

    Args:
        parts, pods: of this pod; of the group.
        prepared: what all of them have of it already.
    """
    call = parts[0].call
    if call.kind == "barrier" or not call.elements:
        return
    if call.kind == "all_reduce":
        _all_reduce(parts, pods, prepared)
    else:
        _KINDS[call.kind](parts, pods, call)


def _types(call: CollectiveCall) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """(type of the values, type they are reduced in)."""
    name = dtype_name(call.dtype)
    return DTYPES[name], WIDE[name]


def _need(buffer: Flat | None) -> Flat:
    if buffer is None:
        raise FabricError("a buffer that the call needs is not there")
    return buffer


def _sum_here(parts: Sequence[Part], total: Flat, op: str) -> None:
    """The pod's own contribution."""
    put(total, _need(parts[0].send))
    for part in parts[1:]:
        fold(op, total, _need(part.send))


def _contribution(parts: Sequence[Part], pods: Pods) -> Flat:
    """The same, in memory that is not a result; not to be written."""
    call, standing = parts[0].call, parts[0].standing
    if len(parts) == 1 and standing.dtype == standing.wide:
        return _need(parts[0].send)
    total = pods.scratch.take("total", call.count, standing.wide)
    _sum_here(parts, total, call.reduce)
    return total


def _layout(part: Part, pods: Pods) -> Layout:
    """Where an all-reduce lies on the boards."""
    call, standing = part.call, part.standing
    if standing.layout is None:
        standing.layout = Layout(pods, call.count, (standing.wide, standing.dtype), _sums(part, pods))
    return standing.layout


def _sums(part: Part, pods: Pods) -> Sums:
    plan = _plan(part)
    return Sums(part.call.reduce, plan.sections(part.call.count, pods.count), plan.orders(pods.count))


def _plan(part: Part) -> Plan:
    if part.standing.plan is None:
        raise FabricError(f"{part.call.kind} has no plan")
    return part.standing.plan


def _finisher(call: CollectiveCall) -> Callable[[Flat, Flat], None]:
    def done(values: Flat, out: Flat) -> None:
        finish(call.reduce, values, len(call.group), out)

    return done


def _hand_out(parts: Sequence[Part], values: Flat) -> None:
    """The same result to every local device."""
    for part in parts:
        recv = _need(part.recv)
        if not same_place(recv, values):
            np.copyto(recv, values)


def _all_reduce(parts: Sequence[Part], pods: Pods, prepared: Prepared | None) -> None:
    call, count, plan = parts[0].call, pods.count, _plan(parts[0])
    dtype, wide = parts[0].standing.dtype, parts[0].standing.wide
    result, op = _need(parts[0].recv), call.reduce

    done = _finisher(call)
    if prepared is not None and prepared.going is not None:
        pass  # it went along, and the result is there
    elif pods.together:
        total = _contribution(parts, pods) if prepared is None else prepared.total
        together.all_reduce(pods, total, _layout(parts[0], pods), result, done, shown=prepared is not None)
    else:
        # The first device's result doubles as the accumulator unless that is of a wider type.
        total = result if dtype == wide else pods.scratch.take("total", call.count, wide)
        _sum_here(parts, total, op)
        if count == 1 or plan.way == "tree":
            tree.all_reduce(pods, total, op)
            done(total, result)
        else:
            hierarchy.all_reduce(pods, plan.inner, total, result, op, done)
    _hand_out(parts, result)


def _reduce(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    _, wide = _types(call)
    root = pods.index_of(call.group.index(call.root_or_peer))
    total = pods.scratch.take("total", call.count, wide)
    _sum_here(parts, total, call.reduce)
    if total.nbytes <= SMALL_BYTES or pods.count == 1:
        tree.reduce(pods, total, root, call.reduce)
    else:
        sections = even_sections(call.count, pods.count)
        _reduce_scatter_pods(pods, total, sections, call.reduce)
        pairwise.gather(pods, total[sections[pods.me]], root, {i: total[s] for i, s in enumerate(sections)})
    if pods.me == root:
        recv = next(_need(part.recv) for part in parts if part.rank == call.root_or_peer)
        finish(call.reduce, total, len(call.group), recv)


def _reduce_scatter(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    _, wide = _types(call)
    ranks, count = len(call.group), call.count
    total = pods.scratch.take("total", ranks * count, wide)
    rows = total.reshape(ranks, count)
    # Rows in the order of the pods, so that what a pod owns is one stretch.
    for row, place in zip(rows, pods.places, strict=True):
        for number, part in enumerate(parts):
            share = _need(part.send)[place * count : (place + 1) * count]
            if number == 0:
                put(row, share)
            else:
                fold(call.reduce, row, share)
    sections = _sections(pods, count)
    _reduce_scatter_pods(pods, total, sections, call.reduce)
    mine = total[sections[pods.me]].reshape(-1, count)
    for row, part in zip(mine, parts, strict=True):
        finish(call.reduce, row, ranks, _need(part.recv))


def _reduce_scatter_pods(pods: Pods, total: Flat, sections: Sequence[slice], op: str) -> None:
    if pods.together:
        orders = Plan("ring", pods.count).orders(pods.count)
        together.reduce_scatter(pods, total, Sums(op, sections, orders))
    else:
        ring.reduce_scatter(pods, total, sections, op)


def _sections(pods: Pods, count: int) -> list[slice]:
    """What each pod owns of one share per rank, in the order of the pods."""
    sections, start = [], 0
    for members in pods.members:
        stop = start + len(members) * count
        sections.append(slice(start, stop))
        start = stop
    return sections


def _all_gather(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    dtype, _ = _types(call)
    ranks, count = len(call.group), call.count
    places = pods.places
    straight = places == tuple(range(ranks))
    result = _need(parts[0].recv) if straight else pods.scratch.take("total", ranks * count, dtype)
    sections = _sections(pods, count)
    mine = result[sections[pods.me]].reshape(-1, count)
    for row, part in zip(mine, parts, strict=True):
        np.copyto(row, _need(part.send))
    (together if pods.together else ring).all_gather(pods, result, sections)
    if straight:
        _hand_out(parts, result)
        return
    for part in parts:
        _need(part.recv).reshape(ranks, count)[list(places)] = result.reshape(ranks, count)


def _broadcast(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    root = pods.index_of(call.group.index(call.root_or_peer))
    source = next((part for part in parts if part.rank == call.root_or_peer), None)
    values = _need(parts[0].recv)
    if source is not None:
        send = _need(source.send)
        if not same_place(send, values):
            np.copyto(values, send)
    if pods.together:
        together.broadcast(pods, values, root)
    else:
        spread = tree.broadcast if values.nbytes <= SMALL_BYTES else ring.broadcast
        spread(pods, values, root)
    _hand_out(parts, values)


def _gather(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    dtype, _ = _types(call)
    ranks, count = len(call.group), call.count
    root = pods.index_of(call.group.index(call.root_or_peer))
    if pods.me != root:
        mine = pods.scratch.take("total", len(parts) * count, dtype)
        for row, part in zip(mine.reshape(-1, count), parts, strict=True):
            np.copyto(row, _need(part.send))
        pairwise.gather(pods, mine, root, {})
        return
    total = pods.scratch.take("total", ranks * count, dtype)
    sections = _sections(pods, count)
    for row, part in zip(total[sections[pods.me]].reshape(-1, count), parts, strict=True):
        np.copyto(row, _need(part.send))
    pairwise.gather(pods, total[:0], root, {i: total[s] for i, s in enumerate(sections)})
    recv = next(_need(part.recv) for part in parts if part.rank == call.root_or_peer)
    recv.reshape(ranks, count)[list(pods.places)] = total.reshape(ranks, count)


def _scatter(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    dtype, _ = _types(call)
    ranks, count = len(call.group), call.count
    root = pods.index_of(call.group.index(call.root_or_peer))
    if pods.me == root:
        send = next(_need(part.send) for part in parts if part.rank == call.root_or_peer)
        total = pods.scratch.take("total", ranks * count, dtype)
        total.reshape(ranks, count)[:] = send.reshape(ranks, count)[list(pods.places)]
        sections = _sections(pods, count)
        mine = total[sections[pods.me]]
        pairwise.scatter(pods, {i: total[s] for i, s in enumerate(sections)}, root, mine)
    else:
        mine = pods.scratch.take("total", len(parts) * count, dtype)
        pairwise.scatter(pods, {}, root, mine)
    for row, part in zip(mine.reshape(-1, count), parts, strict=True):
        np.copyto(_need(part.recv), row)


def _all_to_all(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    dtype, _ = _types(call)
    ranks, count = len(call.group), call.count
    here = len(parts)
    outgoing: dict[int, Flat] = {}
    incoming: dict[int, Flat] = {}
    for index, members in enumerate(pods.members):
        # One block per pod: (sending device, receiving device, count).
        block = np.stack([_need(part.send).reshape(ranks, count)[list(members)] for part in parts])
        outgoing[index] = block.reshape(-1)
        if index != pods.me:
            incoming[index] = np.empty(len(members) * here * count, dtype=dtype)
    incoming[pods.me] = outgoing[pods.me]
    pairwise.all_to_all(pods, outgoing, incoming)
    for index, members in enumerate(pods.members):
        block = incoming[index].reshape(len(members), here, count)
        for receiver, part in enumerate(parts):
            _need(part.recv).reshape(ranks, count)[list(members)] = block[:, receiver]


def _all_to_all_v(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    """Between pods, what goes from a device to a device lies in the order (sender, receiver) of their places."""
    dtype, _ = _types(call)
    here = pods.members[pods.me]
    sends = [_pieces(_need(part.send), part.call.sends) for part in parts]
    receives = [_pieces(_need(part.recv), part.call.receives) for part in parts]
    outgoing: dict[int, Flat] = {}
    incoming: dict[int, Flat] = {}
    for index, members in enumerate(pods.members):
        if index != pods.me:
            outgoing[index] = np.concatenate([mine[place] for mine in sends for place in members])
            due = sum(mine[place].size for mine in receives for place in members)
            incoming[index] = np.empty(due, dtype=dtype)
    pairwise.all_to_all(pods, outgoing, incoming)
    for sender, mine in zip(here, sends, strict=True):
        for receiver, target in zip(here, receives, strict=True):
            np.copyto(target[sender], mine[receiver])
    for index, members in enumerate(pods.members):
        start = 0
        for sender in members if index != pods.me else ():
            for target in receives:
                piece = target[sender]
                np.copyto(piece, incoming[index][start : start + piece.size])
                start += piece.size


def _pieces(values: Flat, counts: Sequence[int]) -> list[Flat]:
    edges = [0, *accumulate(counts)]
    return [values[start:stop] for start, stop in pairs(edges)]


def _send_recv(parts: Sequence[Part], pods: Pods, call: CollectiveCall) -> None:
    send = next((part.send for part in parts if part.call.kind == "send"), None)
    recv = next((part.recv for part in parts if part.call.kind == "recv"), None)
    if send is not None and recv is not None:
        np.copyto(recv, send)
    elif send is not None:
        pods.exchange([(1 - pods.me, send)])
    else:
        pods.exchange([], [(1 - pods.me, _need(recv))])


_KINDS: Final[dict[str, Callable[[Sequence[Part], Pods, CollectiveCall], None]]] = {
    "reduce": _reduce,
    "reduce_scatter": _reduce_scatter,
    "all_gather": _all_gather,
    "broadcast": _broadcast,
    "gather": _gather,
    "scatter": _scatter,
    "all_to_all": _all_to_all,
    "all_to_all_v": _all_to_all_v,
    "send": _send_recv,
    "recv": _send_recv,
}
