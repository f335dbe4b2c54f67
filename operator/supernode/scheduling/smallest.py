"""The smallest set of candidates whose shares make room for a gang, and among sets of one size the cheapest.

Flows in: a `Trial`, candidates with their shares and costs. Flows out: a set and what accepting it gave. It is a branch
and bound over sets of growing size, exact as long as the number of tries allows; beyond, a set from which nobody can be
spared. Not here: who may be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np

from supernode.scheduling.snapshot import Int64
from supernode.scheduling.trial import Domain, Share, Trial

T = TypeVar("T")
#: Shares that are taken at most, per question; then the best set so far counts, or a plain one.
MOST_TRIES: Final = 3000
#: Sets larger than this are plain ones.
MOST_EXACT: Final = 64
#: A plain set that has grown so many times larger than the most that may be asked is given up.
_MOST_SPARED: Final = 16
#: Places that are looked at for a plain set.
_MOST_PLAIN: Final = 64
_Cost = tuple[tuple[int, ...], float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who could give something up.

    Attributes:
        key: of the gang.
        priority: lower goes first.
        lost: what it costs, in any one unit; among equals the cheaper go first.
    """

    key: str
    priority: int
    lost: float


class Smallest(Generic[T]):
    """One question.

    Args:
        trial: with whatever is given up anyway taken already.
        candidates: who could give something up.
        shares: what each would.
        legal: whether a set may be asked; a set is illegal if a part of it is.
        accept: called with a set after which the gang fits (the trial has it taken); None = go on looking.
        largest: most candidates in a set.
    """

    def __init__(
        self,
        trial: Trial,
        candidates: Sequence[Candidate],
        shares: Mapping[str, Share],
        legal: Callable[[Sequence[str]], bool],
        accept: Callable[[Sequence[str]], T | None],
        *,
        largest: int | None = None,
    ) -> None:
        self._trial = trial
        self._order = sorted(candidates, key=lambda c: (c.priority, c.lost, c.key))
        self._shares, self._legal, self._accept = shares, legal, accept
        self._largest = len(candidates) if largest is None else min(largest, len(candidates))
        self._tries = 0
        self._known: dict[int, tuple[Int64, Int64]] = {}
        self._best: tuple[_Cost, tuple[str, ...], T] | None = None

    def find(self) -> tuple[tuple[str, ...], T] | None:
        """The set, cheapest first, and what `accept` made of it; None if there is none."""
        places: list[tuple[int, list[Candidate], Domain]] = []
        for domain in self._trial.bounds(self._shares):
            able = [c for c in self._order if c.key in domain.gains]
            least = _least(domain)
            if least <= min(self._largest, len(able)):
                places.append((max(least, 1), able, domain))
        places.sort(key=lambda place: place[0])
        for size in range(1, self._largest + 1):
            for least, able, domain in places:
                if least <= size <= len(able):
                    self._walk(able, domain, size, 0, [], domain.lack, domain.quota_lack)
            if self._best is not None:
                return self._best[1], self._best[2]
            if self._tries >= MOST_TRIES or size >= MOST_EXACT:
                return self._plain(places)
        return None

    def _walk(
        self,
        able: list[Candidate],
        domain: Domain,
        size: int,
        start: int,
        chosen: list[Candidate],
        lack: int,
        quota: int,
    ) -> None:
        """Try all sets of `size` that begin with `chosen`; what is still lacking after it, at least."""
        more = size - len(chosen)
        if not more:
            if self._trial.fits():
                keys = tuple(c.key for c in chosen)
                result = self._accept(keys)
                if result is not None:
                    self._best = (_cost(chosen), keys, result)
            return
        gains, mine = self._columns(able, domain)
        for index in range(start, len(able) - more + 1):
            if self._best is not None and _cost([*chosen, *able[index : index + more]]) >= self._best[0]:
                return
            if self._tries >= MOST_TRIES:
                return
            one, gain, quota_gain = able[index], int(gains[index]), int(mine[index])
            if lack > gain + _top(gains[index + 1 :], more - 1):
                # Without this one it is not better, unless others add more.
                if lack > _top(gains[index:], more):
                    return
                continue
            if quota > quota_gain + _top(mine[index + 1 :], more - 1):
                continue
            if not self._legal([*(c.key for c in chosen), one.key]):
                continue
            self._tries += 1
            share = self._shares[one.key]
            self._trial.take(share)
            left = lack - gain, quota - quota_gain
            self._walk(able, domain, size, index + 1, [*chosen, one], *left)
            self._trial.give_back(share)

    def _columns(self, able: list[Candidate], domain: Domain) -> tuple[Int64, Int64]:
        """int64 (able,): workers, and devices of the quota, that each could add."""
        known = self._known.get(id(domain))
        if known is None:
            gains = np.asarray([domain.gains[c.key] for c in able], dtype=np.int64)
            quota = np.asarray([domain.quota_gains.get(c.key, 0) for c in able], dtype=np.int64)
            known = self._known[id(domain)] = gains, quota
        return known

    def _plain(self, places: Sequence[tuple[int, list[Candidate], Domain]]) -> tuple[tuple[str, ...], T] | None:
        """In each place those who add most first, or the cheapest first, until it is enough, less those that can be
        spared; the smallest and cheapest of these."""
        best: tuple[int, _Cost, tuple[str, ...], T] | None = None
        orders = [sorted(able, key=lambda c: -domain.gains[c.key]) for _, able, domain in places[:_MOST_PLAIN]]
        for ordered in [*orders, *(able for _, able, _ in places[:_MOST_PLAIN])]:
            chosen: list[Candidate] = []
            named: list[str] = []
            for one in ordered:
                if self._trial.fits() or len(chosen) >= _MOST_SPARED * self._largest:
                    break
                named.append(one.key)
                if self._legal(named):
                    self._trial.take(self._shares[one.key])
                    chosen.append(one)
                else:
                    named.pop()
            if self._trial.fits():
                needed: list[Candidate] = []
                for one in reversed(chosen):
                    self._trial.give_back(self._shares[one.key])
                    if not self._trial.fits():
                        self._trial.take(self._shares[one.key])
                        needed.append(one)
                chosen = needed[::-1]
                keys = tuple(c.key for c in chosen)
                order = (len(keys), _cost(chosen), keys)
                if len(keys) <= self._largest and (best is None or order < best[:3]):
                    result = self._accept(keys)
                    if result is not None:
                        best = (*order, result)
            for one in chosen:
                self._trial.give_back(self._shares[one.key])
        return None if best is None else (best[2], best[3])


def _cost(chosen: Sequence[Candidate]) -> _Cost:
    """Priorities from the highest down, then what is lost."""
    return tuple(sorted((c.priority for c in chosen), reverse=True)), sum(c.lost for c in chosen)


def _least(domain: Domain) -> int:
    """Fewest candidates that could be enough here."""
    return max(_count(domain.gains.values(), domain.lack), _count(domain.quota_gains.values(), domain.quota_lack))


def _count(gains: Iterable[int], lack: int) -> int:
    count = 0
    for gain in sorted(gains, reverse=True):
        if lack <= 0:
            return count
        lack -= gain
        count += 1
    return count if lack <= 0 else 2**31


def _top(gains: Int64, count: int) -> int:
    """Sum of the `count` largest."""
    if count <= 0:
        return 0
    return int(gains.sum()) if count >= gains.size else int(np.partition(gains, -count)[-count:].sum())
