"""`make soak`: many seeded schedules, each of them random trouble with every promise checked at every change.

A seed that fails is printed with what was broken; `make soak SEED=n` plays exactly that one again, with its trace.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor

from tests.soak.bugs import BUGS, planted
from tests.soak.schedule import Outcome, run


def main() -> int:
    """Run them; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="soak", description="seeded schedules against the operator's promises")
    parser.add_argument("--count", type=int, default=1000, help="how many schedules (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="only this one, with its trace")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument("--stop", action="store_true", help="one process, and no further than the first that fails")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this fault: the check must find it")
    args = parser.parse_args()
    seeds = [args.seed] if args.seed is not None else range(args.first, args.first + args.count)
    began, failed = time.monotonic(), []
    if len(seeds) == 1 or args.jobs == 1 or args.stop:
        for seed in seeds:
            if tell(one(seed, args.bug), whole=args.seed is not None):
                failed.append(seed)
                if args.stop:
                    break
    else:
        with ProcessPoolExecutor(args.jobs) as pool:
            outcomes = pool.map(one, seeds, [args.bug] * len(seeds), chunksize=2)
            failed = [each.seed for each in outcomes if tell(each, whole=False)]
    print(f"{len(seeds)} schedules in {time.monotonic() - began:.0f} s, {len(failed)} broke a promise")
    for seed in failed[:20]:
        print(f"again: make soak SEED={seed}")
    return 1 if failed else 0


def one(seed: int, bug: str | None) -> Outcome:
    """One schedule, in this process."""
    logging.getLogger("supernode").setLevel(logging.ERROR)
    logging.getLogger("supernode").propagate = False
    warnings.simplefilter("ignore", ResourceWarning)
    with planted(bug):
        return run(seed)


def tell(outcome: Outcome, *, whole: bool) -> bool:
    """Print what is worth it; True when a promise was broken."""
    if whole:
        print("\n".join(outcome.trace))
        digest = hashlib.sha256("\n".join(outcome.trace).encode()).hexdigest()[:16]
        print(
            f"seed {outcome.seed}: {len(outcome.trace)} changes in {outcome.seconds:.0f} s of its time, trace {digest}"
        )
    for sentence in outcome.broken[:3]:
        print(f"seed {outcome.seed}: {sentence}", flush=True)
    return bool(outcome.broken)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings is part of what is played again.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.soak", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    sys.exit(main())
