"""One pod of a job as a process of its own: joins the fabric and does what the plan says.

    python pod.py '{"rank": 0, "workers": 2, ..., "do": [["all_reduce", [0, 1], 1000], ...]}'

Prints one JSON object per line: the address it listens on, then `ready`, then for every call of every local device
what came of it. Ends with status 0 unless Python itself fails.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from typing import Any

import numpy as np

from supernode.emulator.fabric import CollectiveCall, Fabric, FabricConfig
from supernode.errors import SupernodeError

LOCK = threading.Lock()


def say(**words: Any) -> None:
    with LOCK:
        print(json.dumps(words), flush=True)


def device(fabric: Fabric, local: int, plan: list[list[Any]]) -> None:
    """Do the plan's calls on one device: [kind, group, count, more settings, only these ranks do it differently]."""
    rank = fabric.config.ranks_of(fabric.config.rank)[local]
    for number, (kind, group, count, *rest) in enumerate(plan):
        more = dict(rest[0]) if rest else {}
        repeat = more.pop("repeat", 1)
        more |= more.pop("except", {}).get(str(rank), {})
        kind = more.pop("kind", kind)
        count = more.pop("count", count)
        if rank not in group or kind == "nothing":
            continue
        data = np.full(count, rank + 1, np.float32)
        say(rank=rank, number=number, started=True)
        try:
            for sequence in range(repeat):
                data[:] = rank + 1
                call = CollectiveCall(kind, tuple(group), sequence, "f32", count, **more)
                end = fabric.run(call, local, data, data, float(rank))
        except SupernodeError as exc:
            say(rank=rank, number=number, error=type(exc).__name__, text=str(exc))
        else:
            say(rank=rank, number=number, end=end, first=float(data[0]), sha=hashlib.sha256(data).hexdigest())


def main() -> None:
    said = json.loads(sys.argv[1])
    plan, leave = said.pop("do"), said.pop("leave", True)
    try:
        fabric = Fabric(FabricConfig(**said))
        say(address=list(fabric.address or ()))
        fabric.start()
    except SupernodeError as exc:
        say(failed=type(exc).__name__, text=str(exc))
        return
    say(ready=True)
    threads = [
        threading.Thread(target=device, args=(fabric, local, plan)) for local in range(said["devices_per_worker"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(done=True, turned_away=dict(fabric.turned_away), lost=sorted(fabric.lost))
    if not leave:
        sys.stdin.read()
    fabric.close()


main()
