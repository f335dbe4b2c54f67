"""`supernode trace JOB`: what all devices of a running job did when, as one file for Perfetto or chrome://tracing.

Flows in: the job's pods, and what their emulators remember, fetched through the API server (`pods/proxy`), so that it
works from wherever kubectl does. Where the cluster's pods are processes of this machine (local cluster) there is
nothing to go through, and an API server refuses to reach its own machine: there the emulators are asked themselves.
Flows out: a file, and what each device's time went to. A rank that cannot be asked is said, and the rest is written.
Not here: what is recorded (`supernode.emulator.trace`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from supernode import names
from supernode.cluster import pods
from supernode.cluster.client import Client
from supernode.cluster.kinds import PODS, Json
from supernode.commands import device_trace
from supernode.commands.documents import document
from supernode.commands.figures import step_time
from supernode.commands.logs import newest, parse_ranks, pods_of
from supernode.commands.reading import add_options, find_job, key_of, run_with
from supernode.commands.terminal import Piece, Sheet, clean, emit, sheet_for
from supernode.errors import ClusterError, ForbiddenError, InputError, NotFoundError

#: Sidecars that are asked at the same time.
_AT_ONCE: Final = 16
#: Seconds for one sidecar's answer: some ten megabytes for eight devices.
_SECONDS: Final = 120.0


class _NoTraceError(Exception):
    """A rank has no trace; the text says why."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("job", metavar="JOB", help="name of the job, or NAMESPACE/NAME")
    parser.add_argument(
        "--file", metavar="PATH", help="file to write, - for standard output (default: NAME.trace.json, here)"
    )
    parser.add_argument(
        "--rank", type=parse_ranks, metavar="RANKS", help="only these workers, such as 0 or 0,4-7 (default: all)"
    )
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Gather, write and tell; 1 if no rank has a trace."""

    async def body(client: Client) -> int:
        job = await find_job(client, args)
        workers = newest(job, await pods_of(client, job), args.rank)
        limit = asyncio.Semaphore(_AT_ONCE)
        found = await asyncio.gather(*(_trace_of(client, pod, limit) for pod in workers.values()))
        path = args.file or f"{job['metadata']['name']}.trace.json"
        told = _written(dict(zip(workers, found, strict=True)), workers, path)
        facts: Json = {"job": key_of(job), "file": path, **told}
        if path != "-":
            _show(facts, args.output)
        for worker in facts["missing"]:
            emit(f"rank {worker['rank']}: no trace: {clean(worker['reason'])}", sys.stderr)
        return 0 if facts["devices"] else 1

    return run_with(args, body)


def _written(found: Mapping[int, Any], workers: Mapping[int, Json], path: str) -> Json:
    """Write the traces that there are as one; (devices, missing) for the answer."""
    from supernode.emulator.trace_files import figures, merge

    missing = {rank: str(trace) for rank, trace in found.items() if isinstance(trace, _NoTraceError)}
    there = {rank: trace for rank, trace in found.items() if rank not in missing}
    devices: list[Json] = []
    if there:
        merged = merge([(str(workers[rank]["metadata"]["name"]), trace) for rank, trace in there.items()])
        if path == "-":
            emit(json.dumps(merged))
        else:
            device_trace.write(merged, path)
        devices = figures(merged)
    return {
        "devices": devices,
        "missing": [
            {"rank": rank, "pod": workers[rank]["metadata"]["name"], "reason": reason}
            for rank, reason in missing.items()
        ],
    }


async def _trace_of(client: Client, pod: Json, limit: asyncio.Semaphore) -> Any:
    """What a pod's emulator remembers, or a `_NoTraceError` as a value."""
    from supernode.emulator.trace_files import check

    async with limit:
        try:
            trace = await _fetch(client, pod, _port(pod))
            check(trace, str(pod["metadata"]["name"]))
            return trace
        except _NoTraceError as exc:
            return exc
        except ForbiddenError as exc:
            return _NoTraceError(f"{exc}; it takes the right to get pods/proxy")
        except NotFoundError as exc:
            return _NoTraceError(f"{exc}; the pod is gone, or its sidecar is older than traces")
        except (ClusterError, InputError) as exc:
            return _NoTraceError(str(exc))


def _port(pod: Json) -> int:
    """Port of the pod's emulator.

    Raises:
        _NoTraceError: it has none, or it does not run.
    """
    spec = pod.get("spec") or {}
    sidecar = next((c for c in spec.get("initContainers") or [] if c.get("name") == names.EMULATOR_CONTAINER), None)
    if sidecar is None:
        raise _NoTraceError("its devices are hardware; only emulated ones keep a trace")
    if pods.is_over(pod) or pods.last_words(pod):
        raise _NoTraceError("it has ended, and its emulator with it; ask while the job runs")
    if not pods.address_of(pod):
        raise _NoTraceError("its pod has not started")
    ports = {port.get("name"): port.get("containerPort") for port in sidecar.get("ports") or []}
    return int(ports.get("emulator") or names.PORT_EMULATOR_HTTP)


async def _fetch(client: Client, pod: Json, port: int) -> Any:
    address = pods.address_of(pod)
    if _here(address) and _here(urlsplit(client.host).hostname or ""):
        host = f"[{address}]" if ":" in address else address
        return await asyncio.to_thread(device_trace.fetch, f"http://{host}:{port}/trace")
    metadata = pod["metadata"]
    path = PODS.path(metadata["namespace"], f"{metadata['name']}:{port}", "proxy/trace")
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS), client.stream(path) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > device_trace.LARGEST:
                    raise _NoTraceError(f"more than {device_trace.LARGEST} bytes")
        return json.loads(body)
    except TimeoutError as exc:
        raise _NoTraceError(f"no answer within {_SECONDS:.0f} seconds") from exc
    except ValueError as exc:
        raise _NoTraceError(f"its emulator's answer is not JSON: {exc}") from exc


def _here(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _show(facts: Json, form: str) -> None:
    if form != "table":
        emit(document(facts, form))
        return
    if facts["devices"]:
        sheet = sheet_for()
        render(facts, sheet)
        emit(sheet.text())


def render(facts: Json, sheet: Sheet) -> None:
    """The table form."""
    columns = ("RANK", "TIME", "KERNELS", "COPIES", "COLLECTIVES", "EVENTS", "DROPPED")
    rows: list[list[Piece]] = [
        [
            str(device["rank"]),
            step_time(device["seconds"]),
            *(step_time(device[kind]) for kind in ("kernel", "copy", "collective")),
            str(device["events"]),
            str(device["dropped"]),
        ]
        for device in facts["devices"]
    ]
    sheet.table(columns, rows)
    sheet.line(f"wrote {facts['file']}: open it in https://ui.perfetto.dev or chrome://tracing")
