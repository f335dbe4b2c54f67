"""`supernode ranks JOB`: each worker's node, its domain per level, its devices, and how its pod is."""

from __future__ import annotations

import argparse

from supernode.cluster import pods
from supernode.cluster.assignment import indices_text, workers_of
from supernode.cluster.client import Client
from supernode.cluster.kinds import GROUPS, NODES, PODS, Json
from supernode.commands.picture import Picture, picture
from supernode.commands.reading import add_options, answer, find_job, key_of, list_all, list_allowed
from supernode.commands.terminal import Colour, Mark, Sheet, colour_of
from supernode.names import LABEL_JOB_UID


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("job", metavar="JOB", help="name of the job, or NAMESPACE/NAME")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read and show."""

    async def gather(client: Client) -> Json:
        job = await find_job(client, args)
        metadata = job["metadata"]
        own = await list_all(client, PODS, metadata["namespace"], f"{LABEL_JOB_UID}={metadata['uid']}")
        nodes = await list_allowed(client, NODES)
        groups = await list_allowed(client, GROUPS)
        return facts(job, own, picture(nodes or [], [], groups or [], []))

    return answer(args, gather, render)


def facts(job: Json, own: list[Json], seen: Picture) -> Json:
    """The values that are shown.

    Args:
        job: the job.
        own: its pods, of any attempt.
        seen: where the nodes are.
    """
    status = job.get("status") or {}
    placement = status.get("placement") or {}
    views = {view.name: view for view in seen.nodes}
    found = {pods.rank_of(pod): pod for pod in sorted(own, key=pods.attempt_of)}
    planned = {worker.rank: worker for worker in workers_of(placement)}
    workers = []
    levels: dict[str, None] = {}
    for rank in sorted(planned.keys() | {rank for rank in found if rank >= 0}):
        worker, pod = planned.get(rank), found.get(rank)
        node = worker.node if worker is not None else str(((pod or {}).get("spec") or {}).get("nodeName") or "")
        domains: dict[str, str] = {}
        if node in views:
            for group, path in views[node].domains.items():
                names = [level.name for level in seen.groups[group].spec.levels]
                domains |= {name: domain or "" for name, domain in zip(names, path, strict=False)}
        levels |= dict.fromkeys(domains)
        devices = list(worker.devices if worker is not None else pods.devices_of(pod) if pod is not None else ())
        workers.append({"rank": rank, "node": node, "domains": domains, "devices": devices, **_pod(pod)})
    return {
        "job": key_of(job),
        "state": str(status.get("state") or "Pending"),
        "message": str(status.get("message") or ""),
        "attempt": int(status.get("attempt") or 0),
        "pool": str(placement.get("pool") or ""),
        "levels": list(levels),
        "workers": workers,
    }


def _pod(pod: Json | None) -> Json:
    if pod is None:
        return {"pod": "", "phase": "", "ready": False, "problem": "no pod"}
    phase = str((pod.get("status") or {}).get("phase") or "Pending")
    problem = pods.trouble(pod)
    if not problem and phase == "Failed":
        code, reason, words = pods.ending(pod)
        problem = " ".join(filter(None, (reason, "" if code is None else f"exit code {code}", words)))
    if pod["metadata"].get("deletionTimestamp"):
        phase = "Terminating"
    return {"pod": str(pod["metadata"]["name"]), "phase": phase, "ready": pods.is_ready(pod), "problem": problem}


def render(found: Json, sheet: Sheet, now: float) -> None:
    """The table form."""
    del now
    if not found["workers"]:
        sheet.line(
            Mark(found["job"], Colour.BOLD), " has no workers: ", Mark(found["state"], colour_of(found["state"]))
        )
        if found["message"]:
            sheet.sentence(found["message"])
        return
    rows = []
    for worker in found["workers"]:
        rows.append(
            [
                str(worker["rank"]),
                worker["node"],
                *(worker["domains"].get(level, "") for level in found["levels"]),
                indices_text(worker["devices"]),
                Mark(worker["phase"], colour_of(worker["phase"])),
                Mark("yes" if worker["ready"] else "no", Colour.NONE),
                worker["pod"],
                Mark(worker["problem"], Colour.RED),
            ]
        )
    levels = [level.upper() for level in found["levels"]]
    sheet.table(("RANK", "NODE", *levels, "DEVICES", "PHASE", "READY", "POD", "PROBLEM"), rows)
