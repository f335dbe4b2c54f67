"""`supernode status`: the cluster at a glance. Who leads, the pools, the groups, and the jobs by state.

Jobs of all namespaces, or of one with `-n`. What a user may not see is left out and said to be.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter

from supernode.api.conditions import seconds_of
from supernode.cluster import nodes
from supernode.cluster.client import Client
from supernode.cluster.kinds import GROUPS, LEASES, NODES, POOLS, Json
from supernode.cluster.translate import managed_elsewhere
from supernode.commands.figures import age, count, span
from supernode.commands.reading import add_options, answer, condition_of, key_of, list_allowed, list_jobs
from supernode.commands.terminal import Colour, Mark, Piece, Sheet, colour_of
from supernode.errors import ForbiddenError, NotFoundError
from supernode.names import LEASE_NAME, LEASE_NAMESPACE

# In the order of a job's life.
STATES = ("Pending", "Waiting", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed")
# Jobs that are told about one by one: those that somebody should look at.
_TROUBLED = ("Failed", "Restarting", "Waiting", "Pending")
_LISTED = 10
_NOTHING_USED: Json = {
    **{"used": 0, "guaranteed": 0, "limit": None, "borrowed": 0},
    **{"usedTFLOPS": 0.0, "guaranteedTFLOPS": 0.0, "limitTFLOPS": None, "borrowedTFLOPS": 0.0},
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read and show."""

    async def gather(client: Client) -> Json:
        jobs, namespace = await list_jobs(client, args, everywhere=True)
        return facts(
            client.host,
            namespace,
            jobs=jobs,
            pools=await list_allowed(client, POOLS),
            groups=await list_allowed(client, GROUPS),
            nodes_=await list_allowed(client, NODES),
            lease=await _lease(client),
        )

    return answer(args, gather, render)


async def _lease(client: Client) -> Json | None:
    """The operator's Lease; empty if nobody ever led, None for a user who may not see it."""
    try:
        return await client.get(LEASES, LEASE_NAME, LEASE_NAMESPACE)
    except NotFoundError:
        return {}
    except ForbiddenError:
        return None


def facts(  # what one look at a cluster brings back
    server: str,
    namespace: str,
    *,
    jobs: list[Json],
    pools: list[Json] | None,
    groups: list[Json] | None,
    nodes_: list[Json] | None,
    lease: Json | None,
) -> Json:
    """The values that are shown; None stands for what the user may not see."""
    states = Counter(str((job.get("status") or {}).get("state") or "Pending") for job in jobs)
    troubled = sorted(
        (job for job in jobs if _state(job) in _TROUBLED and not managed_elsewhere(job)),
        key=lambda job: (_TROUBLED.index(_state(job)), job["metadata"].get("creationTimestamp", ""), key_of(job)),
    )
    spec = None if lease is None else lease.get("spec") or {}
    return {
        "server": server,
        "namespace": namespace or None,
        "nodes": None if nodes_ is None else {"total": len(nodes_), "ready": sum(map(nodes.is_ready, nodes_))},
        "operator": None
        if spec is None
        else {
            "holder": spec.get("holderIdentity") or None,
            "renewed": spec.get("renewTime"),
            "leaseSeconds": spec.get("leaseDurationSeconds"),
        },
        "pools": None if pools is None else [_pool(pool) for pool in sorted(pools, key=_name)],
        "groups": None if groups is None else [_group(group) for group in sorted(groups, key=_name)],
        "jobs": {
            "total": len(jobs),
            "states": {
                state: states[state] for state in (*STATES, *sorted(states.keys() - set(STATES))) if states[state]
            },
            "attention": [
                {"job": key_of(job), "state": _state(job), "created": job["metadata"].get("creationTimestamp")}
                | _reason(job)
                for job in troubled
            ],
        },
    }


def render(found: Json, sheet: Sheet, now: float) -> None:
    """The table form."""
    count_of = found["nodes"]
    said = "nodes: you may not list them"
    if count_of is not None:
        said = f"{count(count_of['total'], 'node')}, {count_of['ready']} ready"
    sheet.line("cluster   ", Mark(found["server"], Colour.BOLD), f"  {said}")
    sheet.line("operator  ", *_operator(found["operator"], now))
    sheet.blank()
    if found["pools"]:
        rows = [
            [
                pool["name"],
                pool["chip"],
                pool["mode"],
                str(pool["nodes"]),
                str(pool["devices"]),
                str(pool["allocated"]),
                Mark(str(pool["free"]), Colour.GREEN if pool["free"] else Colour.NONE),
                Mark(str(pool["unhealthy"]), Colour.RED if pool["unhealthy"] else Colour.NONE),
                Mark(pool["ready"], colour_of(pool["ready"])),
                pool["message"],
            ]
            for pool in found["pools"]
        ]
        columns = ("POOL", "CHIP", "MODE", "NODES", "DEVICES", "HELD", "FREE", "UNHEALTHY", "READY", "WHY NOT")
        sheet.table(columns, rows)
        _render_quotas(found["pools"], sheet)
        _render_room(found["pools"], sheet)
    else:
        sheet.line("pools     ", "you may not list them" if found["pools"] is None else "none")
    sheet.blank()
    if found["groups"]:
        rows = [
            [
                group["name"],
                str(group["nodes"]),
                ", ".join(f"{level} {group['domains'].get(level, 0)}" for level in group["levels"]),
                Mark(group["ready"], colour_of(group["ready"])),
                group["message"],
            ]
            for group in found["groups"]
        ]
        sheet.table(("GROUP", "NODES", "DOMAINS", "READY", "WHY NOT"), rows)
    else:
        sheet.line("groups    ", "you may not list them" if found["groups"] is None else "none")
    sheet.blank()
    _render_jobs(found, sheet, now)


def _render_quotas(pools: list[Json], sheet: Sheet) -> None:
    """What each namespace is guaranteed, may have and has; a second line in TFLOPS where a quota is stated in them."""
    rows: list[list[Piece]] = []
    for pool in pools:
        if all(use["namespace"] == "*" for use in pool["quotas"]):
            continue
        compute = any(use["guaranteedTFLOPS"] or use["limitTFLOPS"] is not None for use in pool["quotas"])
        for use in pool["quotas"]:
            who = "all others" if use["namespace"] == "*" else use["namespace"]
            rows.append([pool["name"], who, *_quota(use, ""), "devices"])
            if compute:
                rows.append(["", "", *_quota(use, "TFLOPS"), "TFLOPS"])
    if rows:
        sheet.blank()
        sheet.table(("POOL", "NAMESPACE", "USED", "GUARANTEED", "LIMIT", "BORROWED", "OF"), rows)


def _quota(use: Json, unit: str) -> list[Piece]:
    def figure(kind: str) -> str:
        value = use[f"{kind}{unit}"]
        return f"{value:.3g}" if 0 < value < 100 else f"{value:.0f}"

    guaranteed, limit, borrowed = use[f"guaranteed{unit}"], use[f"limit{unit}"], use[f"borrowed{unit}"]
    return [
        figure("used"),
        figure("guaranteed") if guaranteed else "-",
        "-" if limit is None else figure("limit"),
        Mark(figure("borrowed"), Colour.YELLOW) if borrowed else "-",
    ]


def _render_room(pools: list[Json], sheet: Sheet) -> None:
    """The largest gang that each level can take, and what running jobs get out of the pools."""
    rows = [
        [
            pool["name"],
            f"{room['group']}/{room['level']}",
            f"{room['largestGang']} of {room['domainSize']}",
            f"{room['fragmentation']:.0%}",
            room["domain"],
        ]
        for pool in pools
        for room in pool["room"]
    ]
    if rows:
        sheet.blank()
        sheet.table(("POOL", "LEVEL", "LARGEST GANG", "FRAGMENTED", "WHERE"), rows)
    rows = [
        [pool["name"], *(f"{effective[kind]:.3g}" for kind in ("peakTFLOPS", "predictedTFLOPS", "observedTFLOPS"))]
        for pool in pools
        if (effective := pool["effective"]).get("peakTFLOPS")
    ]
    if rows:
        sheet.blank()
        sheet.table(("POOL", "TFLOPS PEAK OF RUNNING JOBS", "PREDICTED", "OBSERVED"), rows)


def _render_jobs(found: Json, sheet: Sheet, now: float) -> None:
    jobs = found["jobs"]
    where = f" in namespace {found['namespace']}" if found["namespace"] else ""
    pieces: list[Piece] = [f"jobs      {jobs['total'] or 'none'}{where}"]
    for index, (state, amount) in enumerate(jobs["states"].items()):
        pieces += [": " if index == 0 else ", ", f"{amount} ", Mark(state, colour_of(state))]
    sheet.line(*pieces)
    listed = jobs["attention"][:_LISTED]
    if listed:
        sheet.blank()
        rows = [
            [job["job"], Mark(job["state"], colour_of(job["state"])), age(job["created"], now), job["message"]]
            for job in listed
        ]
        sheet.table(("JOB", "STATE", "AGE", "WHY"), rows)
    left = len(jobs["attention"]) - len(listed)
    if left:
        sheet.line(f"and {left} more; `supernode top -A` lists all jobs, `supernode why JOB` tells about one")


def _operator(found: Json | None, now: float) -> list[Piece]:
    if found is None:
        return ["you may not see its Lease"]
    if found["holder"] is None:
        return [Mark("nobody leads", Colour.RED), ": no operator is running"]
    silent = None
    with contextlib.suppress(TypeError, ValueError):
        silent = now - seconds_of(found["renewed"])
    if silent is None:
        return [Mark(found["holder"], Colour.BOLD), " leads"]
    if silent > float(found["leaseSeconds"] or 15):
        return [
            Mark(found["holder"], Colour.BOLD),
            Mark(f" led, but has not renewed its lease for {span(silent)}", Colour.RED),
            ": no operator is running, or it does not reach the cluster",
        ]
    return [Mark(found["holder"], Colour.BOLD), f" leads, renewed {span(silent)} ago"]


def _state(job: Json) -> str:
    return str((job.get("status") or {}).get("state") or "Pending")


def _reason(job: Json) -> Json:
    accepted = condition_of(job, "Accepted")
    if accepted.get("status") == "False":
        return {"reason": accepted.get("reason", ""), "message": str(accepted.get("message", ""))}
    scheduled = condition_of(job, "Scheduled")
    message = str((job.get("status") or {}).get("message") or scheduled.get("message") or "")
    return {"reason": scheduled.get("reason", ""), "message": message}


def _name(obj: Json) -> str:
    return str(obj["metadata"]["name"])


def _ready(obj: Json) -> Json:
    """`ready`: yes, no, or ? where nobody has said; `message`: why not."""
    for kind in ("Accepted", "Ready"):
        found = condition_of(obj, kind)
        if found.get("status") == "False":
            return {"ready": "no", "message": str(found.get("message") or found.get("reason") or "")}
    return {"ready": "yes" if condition_of(obj, "Ready").get("status") == "True" else "?", "message": ""}


def _pool(pool: Json) -> Json:
    spec, status = pool.get("spec") or {}, pool.get("status") or {}
    return {
        "name": _name(pool),
        "chip": str(spec.get("chip") or (spec.get("chipSpec") or {}).get("name") or ""),
        "mode": str(spec.get("mode") or "Hardware"),
        "nodes": int(status.get("nodes") or 0),
        "devices": int(status.get("capacity") or 0),
        "allocated": int(status.get("allocated") or 0),
        "free": int(status.get("free") or 0),
        "unhealthy": int(status.get("unhealthy") or 0),
        "room": [
            {"largestGang": 0, "domainSize": 0, "domain": "", "fragmentation": 0.0, **room}
            for room in status.get("room") or []
        ],
        "effective": status.get("effective") or {},
        "quotas": [_NOTHING_USED | use for use in status.get("quotas") or []],
        **_ready(pool),
    }


def _group(group: Json) -> Json:
    spec, status = group.get("spec") or {}, group.get("status") or {}
    return {
        "name": _name(group),
        "nodes": int(status.get("nodes") or 0),
        "unlabelledNodes": int(status.get("unlabelledNodes") or 0),
        "levels": [str(level.get("name", "")) for level in spec.get("levels") or []],
        "domains": dict(status.get("domains") or {}),
        **_ready(group),
    }
