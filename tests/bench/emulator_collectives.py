"""All-reduce of four processes, beside PyTorch's gloo in the same run: through shared memory, and over TCP.

Part of `make bench ONLY=emulator`. The three systems take turns, size by size, each with four processes that live for
the whole run; a turn's time is that of its slowest rank, a system's figure the best of its turns. On a machine that
others use at the same time those ratios say more of the others: gloo has more threads, so it gets more of the cores.
The processor time of all ranks, which is given too, depends on them less. PyTorch is looked for in the interpreter that
$SUPERNODE_BENCH_PYTHON names, else in the one that runs this (extra `bench`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.case import Case

RANKS = 4
MIB = 1 << 20
#: MiB -> turns of each system.
SIZES = {1: 200, 16: 20, 64: 8, 256: 4}
Turn = Callable[[int], tuple[float, float]]
GOALS = {"memory": 2.0, "tcp": 1.0}
ROOT = Path(__file__).parents[2]
PYTHON_VARIABLE = "SUPERNODE_BENCH_PYTHON"


def cases() -> Iterable[Case]:
    """Ratios to gloo for each size, and our own speed."""
    torch = os.environ.get(PYTHON_VARIABLE, sys.executable)
    missing = why_no_torch(torch)
    with system("memory", sys.executable) as memory, system("tcp", sys.executable) as tcp:
        turns: dict[str, Turn] = {"memory": memory, "tcp": tcp}
        if missing:
            yield Case(f"all-reduce beside gloo: skipped, {missing}", 0.0, "x of gloo", None, "higher")
            yield from compare(turns)
        else:
            with system("gloo", torch) as gloo:
                yield from compare({"gloo": gloo, **turns})


def compare(turns: dict[str, Turn]) -> Iterator[Case]:
    """Let the systems take turns."""
    for mib, count in SIZES.items():
        best = dict.fromkeys(turns, float("inf"))
        spent = dict.fromkeys(turns, float("inf"))
        for number in range(count + 1):
            for name, turn in turns.items():
                seconds, processor = turn(mib * MIB)
                if number:  # the first turn takes its memory from the host
                    best[name] = min(best[name], seconds)
                    spent[name] = min(spent[name], processor)
        for name in ("memory", "tcp"):
            label = f"all-reduce f32, {RANKS} ranks, {mib} MiB, {'shared memory' if name == 'memory' else 'TCP'}"
            yield Case(label, mib * MIB / best[name] / 1e9, "GB/s", None, "higher")
            if "gloo" in best:
                yield Case(f"{label}, against gloo", best["gloo"] / best[name], "x of gloo", GOALS[name], "higher")
                less = spent["gloo"] / spent[name]
                yield Case(f"{label}, gloo's processor time to ours", less, "x of ours", None, "higher")
        if "gloo" in best:
            yield Case(
                f"all-reduce f32, {RANKS} ranks, {mib} MiB, gloo",
                mib * MIB / best["gloo"] / 1e9,
                "GB/s",
                None,
                "higher",
            )


def why_no_torch(python: str) -> str:
    """Why gloo cannot be compared with; empty if it can."""
    try:
        done = subprocess.run([python, "-c", "import torch.distributed"], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{python} cannot be run: {exc}"
    return f"no torch in {python}; set {PYTHON_VARIABLE} or install the extra bench" if done.returncode else ""


@contextmanager
def system(name: str, python: str) -> Iterator[Turn]:
    """Four ranks of a system; what comes out runs one all-reduce of so many bytes.

    It gives the seconds of the slowest rank, and the processor seconds of all.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "operator")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
    workers: list[subprocess.Popen[str]] = []
    address = ""

    def read(worker: subprocess.Popen[str]) -> str:
        assert worker.stdout is not None
        line = worker.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"a rank of {name} ended")
        return line

    def turn(nbytes: int) -> tuple[float, float]:
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{nbytes}\n")
            worker.stdin.flush()
        said = [tuple(map(float, read(worker).split())) for worker in workers]
        return max(wall for wall, _ in said), sum(processor for _, processor in said)

    try:
        for rank in range(RANKS):
            command = [python, __file__, name, str(rank), address]
            workers.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
                )
            )
            if rank == 0:
                address = read(workers[0])
        for worker in workers:
            if read(worker) != "ready":
                raise RuntimeError(f"a rank of {name} did not start")
        yield turn
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


# --- in the ranks -----------------------------------------------------------------------------------------------------


#: Processor seconds of this rank, all its threads, in the latest call.
SPENT = [0.0]


def serve(all_reduce: Callable[[int], float]) -> None:
    """Run what the driver asks for."""
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = all_reduce(int(line))
        print(seconds, SPENT[0], flush=True)


def gloo_rank(rank: int, address: str) -> None:
    """A rank of PyTorch's gloo."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    host, _, port = address.rpartition(":")
    store = dist.TCPStore(host or "127.0.0.1", int(port or 0), RANKS, rank == 0, wait_for_workers=False)
    if rank == 0:
        print(f"127.0.0.1:{store.port}", flush=True)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    data: dict[int, torch.Tensor] = {}

    def all_reduce(nbytes: int) -> float:
        tensor = data.setdefault(nbytes, torch.empty(nbytes // 4))
        tensor.fill_(1.0)
        dist.barrier()
        before = time.process_time()
        start = time.perf_counter()
        dist.all_reduce(tensor)
        seconds = time.perf_counter() - start
        SPENT[0] = time.process_time() - before
        if float(tensor[-1]) != RANKS:
            raise ValueError("gloo's sum is wrong")
        return seconds

    serve(all_reduce)


def fabric_rank(transport: str, rank: int, address: str) -> None:
    """A rank of the fabric: what a sidecar does when its device comes to a collective."""
    import numpy as np

    from supernode.emulator.fabric import CollectiveCall, Fabric, FabricConfig

    config = FabricConfig(
        rank,
        RANKS,
        1,
        listen_host="127.0.0.1",
        listen_port=0,
        rendezvous=address,
        secret=b"a secret for the benchmark alone",
        transport=transport,
    )
    fabric = Fabric(config)
    if rank == 0:
        host, port = fabric.address or ("", 0)
        print(f"{host}:{port}", flush=True)
    fabric.start()
    everyone = tuple(range(RANKS))
    data: dict[int, np.ndarray] = {}

    def all_reduce(nbytes: int) -> float:
        array = data.setdefault(nbytes, np.empty(nbytes // 4, np.float32))
        array.fill(1.0)
        fabric.run(CollectiveCall("barrier", everyone), 0, None, None, 0.0)
        before = time.process_time()
        start = time.perf_counter()
        fabric.run(CollectiveCall("all_reduce", everyone, 0, "f32", array.size), 0, array, array, 0.0)
        seconds = time.perf_counter() - start
        SPENT[0] = time.process_time() - before
        if array[-1] != RANKS:
            raise ValueError("our sum is wrong")
        return seconds

    serve(all_reduce)


if __name__ == "__main__":
    kind, number, where = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if kind == "gloo":
        gloo_rank(number, where)
    else:
        fabric_rank("auto" if kind == "memory" else "tcp", number, where)
