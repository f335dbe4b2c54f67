"""All pods of a group tell one of them what their devices call; it compares, sets the time, and tells all.

The lowest pod of the group coordinates. Its verdict is the same words for everyone, so either all ranks go on with
the same finish time, or all raise the same mismatch with both sides' calls in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from supernode.emulator.fabric.call import say
from supernode.emulator.fabric.collectives import Part
from supernode.emulator.fabric.link import Incoming, Outgoing, move
from supernode.emulator.fabric.pods import Pods
from supernode.errors import CollectiveMismatchError

# Calls that differ are listed up to here.
SHOWN = 4


def agree(parts: Sequence[Part], pods: Pods, price: Callable[[float], float]) -> float:
    """Agree with all pods; the virtual finish time.

    Args:
        parts: this pod's.
        pods: of the group.
        price: from the latest ready time to the finish time; asked on one pod only.

    Raises:
        CollectiveMismatchError: ranks call different things; raised on every rank with the same text.
        LinkDown, Stalled, Interrupted: see `link.move`.
    """
    opinion = {"calls": _grouped(parts), "ready": max(part.ready for part in parts)}
    coordinator = min(pods.numbers)
    if pods.numbers[pods.me] != coordinator:
        link = pods.connect(coordinator)
        verdict = Incoming(link)
        move([Outgoing.message(link, opinion), verdict], pods.waker, pods.patience)
        return _obey(verdict.words)
    others = [number for number in pods.numbers if number != coordinator]
    heard = [Incoming(pods.connect(number)) for number in others]
    if heard:
        move(heard, pods.waker, pods.patience)
    words = _judge([opinion] + [incoming.words for incoming in heard], price)
    if heard:
        move([Outgoing.message(pods.connect(number), words) for number in others], pods.waker, pods.patience)
    return _obey(words)


def _grouped(parts: Sequence[Part]) -> list[list[Any]]:
    """[[ranks, words of their call], ...]: one entry per different call."""
    calls: list[list[Any]] = []
    for part in parts:
        words = part.call.words()
        entry = next((entry for entry in calls if entry[1] == words), None)
        if entry is None:
            calls.append([[part.rank], words])
        else:
            entry[0].append(part.rank)
    return calls


def _judge(opinions: Sequence[dict[str, Any]], price: Callable[[float], float]) -> dict[str, Any]:
    merged: list[list[Any]] = []
    for opinion in opinions:
        for ranks, words in opinion["calls"]:
            entry = next((entry for entry in merged if entry[1] == words), None)
            if entry is None:
                merged.append([list(ranks), words])
            else:
                entry[0].extend(ranks)
    if len(merged) > 1:
        shown = "; ".join(f"{name_ranks(ranks)} called {say(words)}"[:400] for ranks, words in merged[:SHOWN])
        more = f"; and {len(merged) - SHOWN} more" if len(merged) > SHOWN else ""
        return {"mismatch": f"ranks disagree on what they do together: {shown}{more}"}
    return {"finish": price(max(float(opinion["ready"]) for opinion in opinions))}


def _obey(words: dict[str, Any]) -> float:
    if "mismatch" in words:
        raise CollectiveMismatchError(str(words["mismatch"]))
    return float(words["finish"])


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 0-3, 6`."""
    ordered = sorted(ranks)
    stretches: list[list[int]] = []
    for rank in ordered:
        if stretches and stretches[-1][1] == rank - 1:
            stretches[-1][1] = rank
        else:
            stretches.append([rank, rank])
    text = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in stretches)
    return f"rank {text}" if len(ordered) == 1 else f"ranks {text}"
