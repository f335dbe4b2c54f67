"""All pods of a group compare what their devices call, and set the time.

First they find out whether all call the same and nothing else has to be known (`opinions`): then each sets the time for
itself. Otherwise the lowest pod of the group coordinates: all tell it, and it tells all. Its verdict is the same words
for everyone, so either all ranks go on with the same finish time, or all raise the same mismatch with both sides' calls
in it.

Where devices have issued other transfers before on other streams, the coordinator also asks how much of their links
those leave (`contention`): only for transfers that every rank that takes part in both has issued before this one, so
that all see the same order whatever the threads do. What is waited for is never a later call. Programs whose ranks
issue in orders that no single order of all calls explains could wait for each other in a circle; after the fabric's
timeout that is an error: any time for such a call would depend on which thread was first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from supernode.emulator.fabric import opinions
from supernode.emulator.fabric.call import CollectiveCall, say
from supernode.emulator.fabric.collectives import Part, alike
from supernode.emulator.fabric.contention import Stretch, limit, schedule, slowest
from supernode.emulator.fabric.link import Incoming, Interrupted, Outgoing, move
from supernode.emulator.fabric.opinions import Going, Opinion
from supernode.emulator.fabric.participant import Ticket
from supernode.emulator.fabric.pods import Pods
from supernode.emulator.fabric.timing import LinkClock, role
from supernode.errors import CollectiveMismatchError, CollectiveTimeoutError

# Calls that differ are listed up to here.
SHOWN: Final = 4
# Seconds between looks at whether the channel has failed, while an earlier transfer is waited for.
_LOOK: Final = 0.2

# Virtual finish time; when the transfer moves; all called the same at first sight, so what went along has come.
Verdict = tuple[float, tuple[Stretch, ...], bool]


def agree(
    parts: Sequence[Part], pods: Pods, clock: LinkClock, failed: Callable[[], bool], going: Going | None = None
) -> Verdict:
    """Agree with all pods.

    Args:
        parts: this pod's.
        pods: of the group.
        clock: says what calls take.
        failed: whether the channel has failed meanwhile.
        going: a sum that goes along, see `opinions.exchange`.

    Raises:
        CollectiveMismatchError: ranks call different things; raised on every rank with the same text.
        CollectiveTimeoutError: an earlier transfer does not end, such as one that waits for this one.
        LinkDown, Stalled, Interrupted: see `link.move`.
    """
    before = {ticket.name: ticket for part in parts for ticket in _before(part, clock)}
    ready = max([part.ready for part in parts])
    line = "" if before else alike(parts)
    heard = opinions.exchange(pods, Opinion(line, ready), going if line else None)
    if heard.call:
        return *parts[0].standing.alone(heard.ready), True
    call, calls, talk = parts[0].call, _grouped(parts), _Talk(pods)
    opinion: dict[str, Any] = {"calls": calls, "ready": ready}
    if call.uneven:
        opinion["counts"] = {str(part.rank): [part.call.sends, part.call.receives] for part in parts}
    if before:
        opinion["before"] = _listed(parts, before)
    told = talk.gather(opinion)
    members = call.members(parts[0].rank)
    verdict = talk.spread(_judge(told, call, members, clock) if told else {})
    if "after" in verdict:
        limits = _limits(parts, before, {(str(key), int(at)) for key, at in verdict["after"]}, clock, talk, failed)
        answers = talk.gather({"limits": limits})
        while any("still" in answer for answer in answers):
            answers = talk.gather_again(answers)
        verdict = talk.spread(settle(verdict, [answer["limits"] for answer in answers]) if answers else {})
    if "mismatch" in verdict:
        raise CollectiveMismatchError(str(verdict["mismatch"]))
    moving = tuple((float(begin), float(end), float(speed)) for begin, end, speed in verdict["moving"])
    return float(verdict["finish"]), moving, False


def _undisturbed(
    call: CollectiveCall, ready: float, clock: LinkClock, elements: int | None = None
) -> tuple[float, tuple[Stretch, ...]]:
    """Finish time and movement of a transfer that has its links alone."""
    need = clock.need(call, elements)
    finish = ready + clock.seconds(call, elements)
    return finish, ((ready + need.latency, finish, 1.0),) if need.seconds else ()


class _Talk:
    """Words between the coordinator and the others."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._coordinator = min(pods.numbers)
        self.leads = pods.numbers[pods.me] == self._coordinator
        self._others = [number for number in pods.numbers if number != self._coordinator]

    def gather(self, words: dict[str, Any]) -> list[dict[str, Any]]:
        """Everyone's words at the coordinator, its own first; nothing elsewhere."""
        pods = self._pods
        if not self.leads:
            move([Outgoing.message(pods.connect(self._coordinator), words)], pods.waker, pods.patience)
            return []
        return [words, *self._hear(self._others)]

    def gather_again(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Hear those again that were not done yet, and tell those who wait for the verdict that it will come."""
        late = [n for n, answer in zip(self._others, answers[1:], strict=True) if "still" in answer]
        self.still([n for n in self._others if n not in late])
        heard = dict(zip(late, self._hear(late), strict=True))
        return [answers[0]] + [heard.get(n, answer) for n, answer in zip(self._others, answers[1:], strict=True)]

    def still(self, numbers: Sequence[int] | None = None) -> None:
        """Say that this pod still waits for an earlier transfer."""
        if numbers is None:
            numbers = self._others if self.leads else [self._coordinator]
        pods = self._pods
        if numbers:
            words = [Outgoing.message(pods.connect(number), {"still": True}) for number in numbers]
            move(words, pods.waker, pods.patience)

    def spread(self, words: dict[str, Any]) -> dict[str, Any]:
        """The coordinator's words, everywhere."""
        pods = self._pods
        if self.leads:
            if self._others:
                move(
                    [Outgoing.message(pods.connect(number), words) for number in self._others],
                    pods.waker,
                    pods.patience,
                )
            return words
        while True:
            heard = self._hear([self._coordinator])[0]
            if "still" not in heard:
                return heard

    def _hear(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        pods = self._pods
        heard = [Incoming(pods.connect(number)) for number in numbers]
        if heard:
            move(heard, pods.waker, pods.patience)
        return [incoming.words for incoming in heard]


# --- what is called ---------------------------------------------------------------------------------------------------


def _grouped(parts: Sequence[Part]) -> list[list[Any]]:
    """[[ranks, words of their call, line of the first], ...]: one entry per different call."""
    calls: list[list[Any]] = []
    for part in parts:
        _enter(calls, [part.rank], part.call.words(), part.call.where)
    return calls


def _enter(calls: list[list[Any]], ranks: Sequence[int], words: Mapping[str, Any], where: str) -> None:
    entry = next((entry for entry in calls if entry[1] == words), None)
    if entry is None:
        calls.append([list(ranks), words, where])
    else:
        entry[0].extend(ranks)


def _judge(
    told: Sequence[dict[str, Any]], call: CollectiveCall, members: Sequence[int], clock: LinkClock
) -> dict[str, Any]:
    merged: list[list[Any]] = []
    for opinion in told:
        for ranks, words, where in opinion["calls"]:
            _enter(merged, ranks, words, where)
    if len(merged) > 1:
        shown = "; ".join(_told(*entry) for entry in merged[:SHOWN])
        more = f"; and {len(merged) - SHOWN} more" if len(merged) > SHOWN else ""
        return {"mismatch": f"ranks disagree on what they do together: {shown}{more}"}
    elements = None
    if call.uneven:
        counts = {int(rank): said for opinion in told for rank, said in opinion["counts"].items()}
        wrong = _uneven(call, counts, merged[0][2])
        if wrong:
            return {"mismatch": wrong}
        elements = max(max(sum(sends), sum(receives)) for sends, receives in counts.values())
    ready = max(float(opinion["ready"]) for opinion in told)
    finish, moving = _undisturbed(call, ready, clock, elements)
    alone = {"finish": finish, "moving": moving}
    after = _common(told, members)
    if not after:
        return alone
    need = clock.need(call, elements)
    return {**alone, "after": after, "begin": ready + need.latency, "seconds": need.seconds}


def _told(ranks: Sequence[int], words: Mapping[str, Any], where: str) -> str:
    return f"{name_ranks(ranks)} called {say(words)}"[:400] + (f" at {where}" if where else "")


def _uneven(call: CollectiveCall, counts: Mapping[int, Any], where: str) -> str:
    """What does not fit between what ranks send and what others expect."""
    for place, sender in enumerate(call.group):
        for target, receiver in enumerate(call.group):
            sent, due = counts[sender][0][target], counts[receiver][1][place]
            if sent != due:
                text = (
                    f"{say(call.words())}: rank {sender} sends {sent} elements to rank {receiver}, which expects {due}"
                )
                return text + (f"; called at {where}" if where else "")
    return ""


# --- who holds the links ----------------------------------------------------------------------------------------------


def _before(part: Part, clock: LinkClock) -> list[Ticket]:
    """Earlier transfers of this device that may still hold a link when this one is ready."""
    if part.ticket is None or not part.ticket.earlier:
        return []
    mine = clock.need(part.call).ports.get(role(part.call, part.rank), {})
    return [
        other
        for other in part.ticket.earlier
        if not (other.done.is_set() and other.finish <= part.ready)
        and any(port in mine for port in clock.need(other.call).ports.get(role(other.call, other.rank), {}))
    ]


def _listed(parts: Sequence[Part], before: Mapping[tuple[str, int], Ticket]) -> list[list[Any]]:
    """[[key, position, ranks of the transfer, this pod's ranks that have issued it before], ...]"""
    found = []
    for (key, position), ticket in before.items():
        ranks = [
            part.rank
            for part in parts
            if part.ticket is not None and any(other.name == (key, position) for other in part.ticket.earlier)
        ]
        found.append([key, position, ticket.members, ranks])
    return found


def _common(told: Sequence[dict[str, Any]], members: Sequence[int]) -> list[list[Any]]:
    """The transfers that came before this one on every rank that takes part in both."""
    ranks: dict[tuple[str, int], set[int]] = {}
    groups: dict[tuple[str, int], set[int]] = {}
    for opinion in told:
        for key, position, theirs, issued in opinion.get("before", ()):
            ranks.setdefault((key, position), set()).update(issued)
            groups[key, position] = set(theirs)
    return [list(name) for name in sorted(ranks) if groups[name] & set(members) <= ranks[name]]


def _limits(
    parts: Sequence[Part],
    before: Mapping[tuple[str, int], Ticket],
    after: set[tuple[str, int]],
    clock: LinkClock,
    talk: _Talk,
    failed: Callable[[], bool],
) -> list[Stretch]:
    """What earlier transfers leave of the links of this pod's devices, once it is known."""
    patience = talk._pods.patience
    deadline = time.monotonic() + patience
    told = time.monotonic()
    for name in sorted(after & set(before)):
        while not before[name].done.wait(_LOOK):
            if failed():
                raise Interrupted
            if time.monotonic() >= deadline:
                earlier = before[name]
                raise CollectiveTimeoutError(
                    f"{say(parts[0].call.words())} waited {patience:g} s for {say(earlier.call.words())} of "
                    f"{name_ranks(earlier.members)}, which was issued before it and has not ended; where calls wait "
                    "for each other in a circle, let all ranks issue them in one order"
                )
            if time.monotonic() - told > patience / 4:
                told = time.monotonic()
                talk.still()
    limits = []
    for part in parts:
        if part.ticket is None:
            continue
        mine = clock.need(part.call).ports.get(role(part.call, part.rank), {})
        others = [
            (clock.need(other.call).ports.get(role(other.call, other.rank), {}), other.moving)
            for other in part.ticket.earlier
            if other.name in after
        ]
        limits.append(limit(mine, others))
    return slowest(limits)


def settle(verdict: Mapping[str, Any], limits: Sequence[Sequence[Stretch]]) -> dict[str, Any]:
    """When a transfer moves beside others, from what it would do alone and what they leave of its links.

    Whether one that has ended is still asked about depends on the threads. So where none is in the way, the answer is
    the time alone to the last bit: a sum of other parts would be rounded differently.
    """
    begin, seconds = float(verdict["begin"]), float(verdict["seconds"])
    moving = schedule(begin, seconds, slowest(limits)) if seconds else []
    if moving in ([], [(begin, begin + seconds, 1.0)]):
        return {"finish": verdict["finish"], "moving": verdict["moving"]}
    return {"finish": moving[-1][1], "moving": moving}


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
