"""`make soak`: many seeded schedules, each of them random trouble with every promise checked at every change.

A seed that fails is printed with what was broken; `make soak SEED=n` plays exactly that one again, with its trace. At
the end stands how often each fault was injected and each part of the operator was needed.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.soak.bugs import BUGS, planted
from tests.soak.ledger import missing, table
from tests.soak.schedule import Outcome, run

# Seconds between two words about how far it is.
TELL = 20.0


def main() -> int:
    """Run them; 1 if a promise was broken, or if something never happened."""
    parser = argparse.ArgumentParser(prog="soak", description="seeded schedules against the operator's promises")
    parser.add_argument("--count", type=int, default=1000, help="how many schedules (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="only this one, with its trace")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this fault: the check must find it")
    parser.add_argument("--until", metavar="REGEX", help="one process, until a broken promise reads like this")
    args = parser.parse_args()
    if args.seed is not None:
        return play(args.seed, args.bug)
    seeds = range(args.first, args.first + args.count)
    if args.until is not None:
        return search(seeds, args.bug, args.until)
    with ProcessPoolExecutor(args.jobs) as pool:
        return soak(pool.map(one, seeds, [args.bug] * len(seeds), chunksize=2), len(seeds))


def one(seed: int, bug: str | None) -> Outcome:
    """One schedule, in this process."""
    logging.getLogger("supernode").setLevel(logging.ERROR)
    logging.getLogger("supernode").propagate = False
    warnings.simplefilter("ignore", ResourceWarning)
    with planted(bug):
        return run(seed)


def soak(outcomes: Iterable[Outcome], count: int) -> int:
    """All of them, with how far it is; then the counts."""
    began = told = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    changes = virtual = 0.0
    for done, outcome in enumerate(outcomes, start=1):
        counts += outcome.counts
        changes, virtual = changes + len(outcome.trace), virtual + outcome.seconds
        if outcome.broken:
            failed.append(outcome.seed)
            tell(outcome)
        if time.monotonic() - told > TELL and done < count:
            told = time.monotonic()
            left = (told - began) / done * (count - done)
            print(f"{done} of {count}, {len(failed)} failed, about {left / 60:.0f} min to go", flush=True)
    print("\n".join(table(counts)))
    seconds = time.monotonic() - began
    print(f"{count} schedules ({virtual / 3600:.0f} h of their time, {changes:,.0f} changes) in {seconds:.0f} s")
    never = missing(counts, count)
    if never:
        print(f"never happened: {', '.join(never)}")
    print(f"{len(failed)} broke a promise")
    for seed in failed[:20]:
        print(f"again: make soak SEED={seed}")
    return 1 if failed or never else 0


def play(seed: int, bug: str | None) -> int:
    """One schedule, whole."""
    outcome = one(seed, bug)
    print("\n".join(outcome.trace))
    print("\n".join(table(outcome.counts)))
    digest = hashlib.sha256("\n".join(outcome.trace).encode()).hexdigest()[:16]
    print(f"seed {seed}: {len(outcome.trace)} changes in {outcome.seconds:.0f} s of its time, trace {digest}")
    tell(outcome)
    return 1 if outcome.broken else 0


def search(seeds: Sequence[int], bug: str | None, wanted: str) -> int:
    """The first seed at which a promise is broken in these words: 0; 1 when there is none."""
    for seed in seeds:
        outcome = one(seed, bug)
        found = next((sentence for sentence in outcome.broken if re.search(wanted, sentence)), None)
        if found is not None:
            print(f"seed {seed}: {found}")
            return 0
        if outcome.broken:
            print(f"seed {seed}, in other words: {outcome.broken[0]}")
    print(f"not found in {len(seeds)} schedules")
    return 1


def tell(outcome: Outcome) -> None:
    """What was broken, first things first."""
    for sentence in outcome.broken[:3]:
        print(f"seed {outcome.seed}: {sentence}", flush=True)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings is part of what is played again.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.soak", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    sys.exit(main())
