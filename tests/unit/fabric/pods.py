"""Several pods of one job in this process: each a `Fabric` of its own, talking over 127.0.0.1."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from supernode.emulator.fabric import CollectiveCall, Fabric, FabricConfig

SECRET = b"0123456789abcdef0123456789abcdef"


@contextmanager
def a_job(workers: int, devices: int, **more: Any) -> Iterator[list[Fabric]]:
    """Started fabrics, one per worker."""
    fabrics = listening(workers, devices, **more)
    try:
        at_once([fabric.start for fabric in fabrics])
        yield fabrics
    finally:
        for fabric in fabrics:
            fabric.close()


def listening(workers: int, devices: int, **more: Any) -> list[Fabric]:
    """Fabrics that listen but have not started; `timeouts` gives each its own timeout."""
    timeouts = more.pop("timeouts", [20.0] * workers)
    settings = {"listen_port": 0, "secret": SECRET, "start_timeout": 20.0} | more
    fabrics: list[Fabric] = []
    for rank in range(workers):
        host, port = (fabrics[0].address if fabrics else None) or ("", 0)
        own = {"rendezvous": f"{host}:{port}", "timeout": timeouts[rank]} | settings
        fabrics.append(Fabric(FabricConfig(rank, workers, devices, **own)))
    return fabrics


def at_once(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call all on threads of their own; their results, raising the first error."""
    results = outcomes(functions)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def outcomes(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call all on threads of their own; results and exceptions in their order. Fails if one never ends."""
    results: list[Any] = [None] * len(functions)

    def go(number: int) -> None:
        try:
            results[number] = functions[number]()
        except BaseException as exc:
            results[number] = exc

    threads = [threading.Thread(target=go, args=(number,), daemon=True) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a rank hangs"
    return results


def run(fabrics: Sequence[Fabric], rank: int, call: CollectiveCall, send: Any, recv: Any, ready: float = 0.0) -> float:
    """One device's part, by global rank."""
    devices = fabrics[0].config.devices_per_worker
    return fabrics[rank // devices].run(call, rank % devices, send, recv, ready)
