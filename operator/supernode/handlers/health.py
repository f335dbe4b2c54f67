"""The operator's own HTTP ports: /healthz and /readyz on one, /metrics on the other.

Flows in: two questions (alive? ready?) as functions, and the metrics. Flows out: text.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import web

from supernode.telemetry.metrics import CONTENT_TYPE, OperatorMetrics

# A check gives "" when all is well, else what is wrong.
Check = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports that are really listened on (0 was "any free one")."""

    health: int
    metrics: int


@contextlib.asynccontextmanager
async def served(
    *, host: str, health_port: int, metrics_port: int, alive: Check, ready: Check, metrics: OperatorMetrics
) -> AsyncIterator[Ports]:
    """Serve both ports while inside."""

    def answer(check: Check) -> Callable[[web.Request], object]:
        async def handle(request: web.Request) -> web.Response:
            wrong = check()
            return web.Response(text=wrong or "ok", status=503 if wrong else 200)

        return handle

    async def show(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    health = web.Application()
    health.router.add_get("/healthz", answer(alive))  # type: ignore[arg-type]
    health.router.add_get("/readyz", answer(ready))  # type: ignore[arg-type]
    shown = web.Application()
    shown.router.add_get("/metrics", show)
    async with contextlib.AsyncExitStack() as stack:
        ports = [
            await _serve(stack, application, host, port)
            for application, port in ((health, health_port), (shown, metrics_port))
        ]
        yield Ports(*ports)


async def _serve(stack: contextlib.AsyncExitStack, application: web.Application, host: str, port: int) -> int:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()
    bound: int = runner.addresses[0][1]
    return bound
