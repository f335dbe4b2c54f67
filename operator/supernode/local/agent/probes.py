"""Probes of a container: exec, httpGet and tcpSocket, run again and again, counted against their thresholds.

In: a probe as it stands in the pod, and the ways to run it. Out: calls of `on_change(success, message)` when the
thresholds are reached. Not here: what a success or failure means for the container.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

Object = dict[str, Any]
# (command, seconds) -> (exit code or None on timeout, output)
Execute = Callable[[list[str], float], Awaitable[tuple[int | None, str]]]


class Prober:
    """Runs single probes for one container.

    Args:
        session: HTTP session without retries.
        address: the pod's address.
        ports: container ports by name.
        execute: runs a command in the container.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, ports: dict[str, int], execute: Execute) -> None:
        self._session = session
        self._address = address
        self._ports = ports
        self._execute = execute

    async def once(self, probe: Object) -> tuple[bool, str]:
        """One try: (succeeded, message when it failed)."""
        seconds = float(probe.get("timeoutSeconds") or 1)
        try:
            if "exec" in probe:
                code, output = await self._execute(list(probe["exec"].get("command") or []), seconds)
                return code == 0, "command timed out" if code is None else output.strip()[:1024]
            if "httpGet" in probe:
                return await self._http(probe["httpGet"], seconds)
            if "tcpSocket" in probe:
                return await self._tcp(probe["tcpSocket"], seconds)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            return False, str(exc) or f"no answer within {seconds:g} s"
        return False, "this kind of probe is not supported by the local cluster; use exec, httpGet or tcpSocket"

    async def _http(self, spec: Object, seconds: float) -> tuple[bool, str]:
        scheme = str(spec.get("scheme") or "HTTP").lower()
        host = spec.get("host") or self._address
        path = str(spec.get("path") or "/")
        url = f"{scheme}://{host}:{self._port(spec['port'])}{'' if path.startswith('/') else '/'}{path}"
        headers = {entry["name"]: entry["value"] for entry in spec.get("httpHeaders") or []}
        headers.setdefault("User-Agent", "kube-probe/1.37")
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with self._session.get(url, headers=headers, timeout=timeout, ssl=False) as response:
            return 200 <= response.status < 400, f"HTTP probe failed with statuscode: {response.status}"

    async def _tcp(self, spec: Object, seconds: float) -> tuple[bool, str]:
        address = (spec.get("host") or self._address, self._port(spec["port"]))
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(*address)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True, ""

    def _port(self, port: int | str) -> int:
        if isinstance(port, int) or port.isdigit():
            return int(port)
        if port not in self._ports:
            raise ValueError(f"the container has no port named {port!r}")
        return self._ports[port]


async def run_probe(
    prober: Prober,
    probe: Object,
    *,
    on_change: Callable[[bool], Awaitable[None]],
    on_failure: Callable[[str], None],
) -> None:
    """Probe for ever. `on_failure(message)` at each failed try; `on_change(success)` whenever a threshold is reached
    (again after each further failed try, so that a caller may act on every one)."""
    period = float(probe.get("periodSeconds") or 10)
    needed = {True: int(probe.get("successThreshold") or 1), False: int(probe.get("failureThreshold") or 3)}
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    last, count = None, 0
    while True:
        success, message = await prober.once(probe)
        count = count + 1 if success is last else 1
        last = success
        if not success:
            on_failure(message)
        if count >= needed[success]:
            await on_change(success)
            if not success:
                count = 0
        await asyncio.sleep(period)
