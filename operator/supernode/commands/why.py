"""`supernode why JOB`: why a job waits, or where it runs and why there.

Shown: the operator's own sentence, what was asked, what is free where, who holds the rest, and who else waits for it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from supernode.cluster.assignment import indices_text, worker_count, workers_of
from supernode.cluster.client import Client
from supernode.cluster.kinds import GROUPS, JOBS, NODES, POOLS, PRIORITY_CLASSES, Json
from supernode.cluster.translate import managed_elsewhere
from supernode.commands.figures import age, count, number, percent, span, step_time, until
from supernode.commands.picture import FINISHED, NodeView, Picture, picture
from supernode.commands.reading import add_options, answer, condition_of, find_job, key_of, list_all, list_allowed
from supernode.commands.terminal import Colour, Mark, Piece, Sheet, colour_of
from supernode.handlers.bounds import too_many_workers
from supernode.handlers.goodput import INSIDE, counted_until, losses_of
from supernode.handlers.stragglers import sentence_of

# Conditions by which a state is told, the most telling first.
_TELLING = {
    "Pending": ("Accepted", "Scheduled"),
    "Waiting": ("Scheduled", "Accepted"),
    "Starting": ("Scheduled",),
    "Running": ("Scheduled", "Running"),
    "Restarting": ("Restarting", "Scheduled"),
    "Suspended": ("Suspended",),
    "Succeeded": ("Succeeded",),
    "Failed": ("Failed", "Accepted"),
}
_LISTED = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("job", metavar="JOB", help="name of the job, or NAMESPACE/NAME")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read and show."""

    async def gather(client: Client) -> Json:
        job = await find_job(client, args)
        pools = await list_allowed(client, POOLS)
        groups = await list_allowed(client, GROUPS)
        nodes = await list_allowed(client, NODES)
        jobs = await list_allowed(client, JOBS)
        if jobs is None:  # of other namespaces only the sums are known, by the pools' status
            jobs = await list_all(client, JOBS, job["metadata"]["namespace"])
        classes = await list_allowed(client, PRIORITY_CLASSES)
        seen = picture(nodes or [], pools or [], groups or [], jobs)
        return facts(job, pools or [], jobs, seen, time.time(), classes or [])

    return answer(args, gather, render)


def facts(
    job: Json, pools: Sequence[Json], jobs: Sequence[Json], seen: Picture, now: float, classes: Sequence[Json] = ()
) -> Json:
    """The values that are shown.

    Args:
        job: the job that is asked about.
        pools: all pools.
        jobs: all jobs that the user may see.
        seen: nodes, groups and who holds what.
        now: seconds since the epoch.
        classes: priority classes, as far as the user may see them.
    """
    spec, status = job.get("spec") or {}, job.get("status") or {}
    state = str(status.get("state") or "Pending")
    by_name = {pool["metadata"]["name"]: pool for pool in pools}
    named = [str(name) for name in spec.get("pools") or []]
    return {
        "job": key_of(job),
        "state": state,
        "created": job["metadata"].get("creationTimestamp"),
        "because": _because(job, status, state),
        "message": str(status.get("message") or ""),
        "restarts": int(status.get("restarts") or 0),
        "asked": _asked(spec, classes),
        "placement": _placement(job),
        "disruption": _disruption(status),
        "growth": _growth(spec, status, named, seen),
        "goodput": _goodput(job, now),
        "stragglers": list(status.get("stragglers") or []),
        "remainingSeconds": (status.get("progress") or {}).get("remainingSeconds"),
        "pools": [_pool(name, by_name.get(name), key_of(job), seen) for name in named],
        "waiting": [] if state in FINISHED else _rivals(job, jobs, named),
    }


def _because(job: Json, status: Json, state: str) -> Json:
    """The condition that tells why the job is in its state; its own message where no condition does."""
    conditions = {str(c.get("type")): c for c in status.get("conditions") or []}
    if (conditions.get("Accepted") or {}).get("status") == "False":
        wanted: tuple[str, ...] = ("Accepted",)
    else:
        wanted = _TELLING.get(state, ("Scheduled",))
    found: Json = next((conditions[kind] for kind in wanted if (conditions.get(kind) or {}).get("message")), {})
    nobody = "" if status else "no operator has looked at this job yet; `supernode status` tells whether one runs"
    if managed_elsewhere(job):
        nobody = f"it is left to {job['spec']['managedBy']} (spec.managedBy)"
    return {
        "condition": str(found.get("type") or ""),
        "status": str(found.get("status") or ""),
        "reason": str(found.get("reason") or ""),
        "message": str(found.get("message") or status.get("message") or nobody),
        "since": found.get("lastTransitionTime"),
    }


def _asked(spec: Json, classes: Sequence[Json] = ()) -> Json:
    scheduling = spec.get("scheduling") or {}
    name = scheduling.get("priorityClassName")
    known: Json = next((each for each in classes if each["metadata"]["name"] == name), {})
    constraints = scheduling.get("constraints") or {}
    workers, each = int(spec.get("workers") or 1), int(spec.get("acceleratorsPerWorker") or 1)
    return {
        "workers": workers,
        "minCount": ((scheduling.get("policy") or {}).get("gang") or {}).get("minCount") or workers,
        "acceleratorsPerWorker": each,
        "devices": workers * each,
        "pools": list(spec.get("pools") or []),
        "topology": list(constraints.get("topology") or []),
        "slices": list(constraints.get("slices") or []),
        "priorityClassName": name,
        "priority": known.get("value"),
        "preempts": known.get("preemptionPolicy") != "Never",
        "suspend": bool((spec.get("runPolicy") or {}).get("suspend")),
    }


def _placement(job: Json) -> Json | None:
    status = job.get("status") or {}
    placement = status.get("placement") or {}
    if not worker_count(placement):
        return None
    on_node: dict[str, list[int]] = {}
    for worker in workers_of(placement):
        on_node.setdefault(worker.node, []).append(worker.rank)
    scheduled = condition_of(job, "Scheduled")
    return {
        "because": str(scheduled.get("message") or "") if scheduled.get("status") == "True" else "",
        "pool": str(placement.get("pool") or ""),
        "level": str(placement.get("level") or ""),
        "domain": str(placement.get("domain") or ""),
        "nodes": [{"node": node, "ranks": ranks} for node, ranks in on_node.items()],
        "predictedStepSeconds": placement.get("predictedStepSeconds"),
        "stepSeconds": (status.get("progress") or {}).get("stepSeconds"),
        "mfu": status.get("mfu"),
        "runnersUp": list(placement.get("runnersUp") or []),
    }


def _disruption(status: Json) -> Json | None:
    """What is being done to a gang that has a place; None where nothing is."""
    plan = status.get("disruption") or {}
    if not plan.get("message") or not worker_count(status.get("placement") or {}):
        return None
    return {name: str(plan.get(name) or "") for name in ("kind", "message", "deadline")}


def _growth(spec: Json, status: Json, named: Sequence[str], seen: Picture) -> str:
    """What a gang waits for that runs with fewer workers than its job asks for; empty where it has them all, or none,
    and where something is being done to it: that comes first, and may be just this."""
    have, asked = worker_count(status.get("placement") or {}), _asked(spec)
    if not 0 < have < asked["workers"] or status.get("state") not in ("Starting", "Running") or _disruption(status):
        return ""
    text = f"has {have:,} of {count(asked['workers'], 'worker')}: "
    pools = named or sorted({view.pool for view in seen.nodes if view.pool})
    never = too_many_workers(
        asked["workers"], asked["acceleratorsPerWorker"], pools, [view.name for view in seen.nodes]
    )
    if never:
        return f"{text}{never}"
    if have < asked["minCount"]:
        least, there = asked["minCount"] * asked["acceleratorsPerWorker"], seen.devices_in(pools)
        if 0 < there < least:
            return f"{text}{_at_least(asked)} would take {least:,} devices, and its pools have {there:,}"
        return f"{text}it starts again with more when there is room for {_at_least(asked)}"
    seconds = (((spec.get("scheduling") or {}).get("policy") or {}).get("gang") or {}).get("growAfterSeconds")
    wait = f", {span(seconds)} after it got its place at the earliest" if seconds else ""
    return f"{text}it starts again with more when there is room for them and nobody waits for these pools{wait}"


def _at_least(asked: Json) -> str:
    return "all of them" if asked["minCount"] == asked["workers"] else f"{asked['minCount']} or more"


def _goodput(job: Json, now: float) -> Json | None:
    """What the job's time went into until now, as shares; None before anything is counted."""
    counted = counted_until(job.get("status") or {}, job["metadata"].get("creationTimestamp"), now)
    if counted.get("share") is None:
        return None
    return {"share": counted["share"], "losses": losses_of(counted), "measuredAt": counted.get("measuredAt")}


def _pool(name: str, pool: Json | None, job: str, seen: Picture) -> Json:
    if pool is None:
        return {"name": name, "known": False}
    status = pool.get("status") or {}
    members = [view for view in seen.nodes if view.pool == name]
    holders = seen.holders_in(name)
    allocated = int(status.get("allocated") or 0)
    return {
        "name": name,
        "known": True,
        "devices": int(status.get("capacity") or 0),
        "free": int(status.get("free") or 0),
        "allocated": allocated,
        "unhealthy": int(status.get("unhealthy") or 0),
        "domains": _domains(members, seen),
        "unusable": [{"node": view.name, "problem": view.problem} for view in members if not view.usable],
        "holders": [{"job": holder, "devices": held, "self": holder == job} for holder, held in holders],
        "others": max(allocated - sum(held for _, held in holders), 0),
    }


def _domains(members: Sequence[NodeView], seen: Picture) -> list[Json]:
    """Free devices by domain, of every level from the outside in; the nodes stand in `supernode tree`."""
    sums: dict[tuple[int, str, str, str], list[int]] = {}
    for view in members:
        for group, path in view.domains.items():
            for depth, spec in enumerate(seen.groups[group].spec.levels):
                if path[depth] is None:
                    break
                name = "/".join(part for part in path[: depth + 1] if part)
                entry = sums.setdefault((depth, group, spec.name, name), [0, 0, 0])
                entry[0] += view.free
                entry[1] += view.devices
                entry[2] = max(entry[2], view.free)
    return [
        {"group": group, "level": level, "domain": name, "free": free, "devices": devices, "largestNode": largest}
        for (_, group, level, name), (free, devices, largest) in sorted(sums.items())
    ]


def _rivals(job: Json, jobs: Sequence[Json], pools: Sequence[str]) -> list[Json]:
    """Other jobs that wait for devices of the same pools, oldest first."""
    found = []
    for other in sorted(jobs, key=lambda entry: (entry["metadata"].get("creationTimestamp", ""), key_of(entry))):
        spec, status = other.get("spec") or {}, other.get("status") or {}
        if (
            status.get("state") != "Waiting"
            or not set(spec.get("pools") or []) & set(pools)
            or key_of(other) == key_of(job)
        ):
            continue
        asked = _asked(spec)
        found.append(
            {"job": key_of(other), "devices": asked["devices"], "created": other["metadata"].get("creationTimestamp")}
        )
    return found


def render(found: Json, sheet: Sheet, now: float) -> None:
    """The text form."""
    because = found["because"]
    since = age(because["since"], now)
    pieces: list[Piece] = [Mark(found["job"], Colour.BOLD), " is ", Mark(found["state"], colour_of(found["state"]))]
    if because["reason"] and because["reason"] != found["state"]:
        pieces.append(f" ({because['reason']})")
    pieces.append(f" for {since}" if since else "")
    pieces.append(f", {count(found['restarts'], 'restart')}" if found["restarts"] else "")
    sheet.line(*pieces)
    if because["message"]:
        sheet.sentence(because["message"], 2)
    plan = found["disruption"] or {"message": ""}
    if found["message"] not in because["message"] and found["message"] != plan["message"]:
        sheet.sentence(found["message"], 2)
    sheet.blank()
    _render_asked(found["asked"], sheet)
    if found["placement"] is not None:
        if found["placement"]["because"] not in ("", because["message"]):
            sheet.sentence(f"placed because: {found['placement']['because']}")
        sheet.sentence(_place(found["placement"], "ran" if found["state"] in FINISHED else "runs"))
        _render_placement(found["placement"], sheet)
        if found["growth"]:
            sheet.sentence(found["growth"])
    if plan["message"] not in because["message"]:
        sheet.sentence(_plan(plan, now))
    _render_goodput(found, sheet)
    for pool in found["pools"]:
        sheet.blank()
        _render_pool(pool, found["asked"], sheet)
    if found["waiting"]:
        sheet.blank()
        sheet.line("also waiting for these pools:")
        rows = [
            [rival["job"], str(rival["devices"]), age(rival["created"], now)] for rival in found["waiting"][:_LISTED]
        ]
        sheet.table(("JOB", "DEVICES", "AGE"), rows, indent=2)
        if len(found["waiting"]) > _LISTED:
            sheet.line(f"  and {len(found['waiting']) - _LISTED} more")


def _render_asked(asked: Json, sheet: Sheet) -> None:
    workers = count(asked["workers"], "worker")
    if asked["minCount"] < asked["workers"]:
        workers = f"{asked['minCount']} to {workers}"
    text = f"asked for: {workers} x {count(asked['acceleratorsPerWorker'], 'device')} = {asked['devices']}"
    text += f", of pool {' or '.join(asked['pools'])}" if asked["pools"] else ""
    for wish in asked["topology"]:
        how = "" if wish.get("mode") == "Required" else "preferably "
        text += f", {how}in one {wish.get('level', '')}"
    for item in asked["slices"]:
        text += f", each {item.get('size', '')} ranks in one {item.get('level', '')}"
    if asked["priorityClassName"]:
        value = "" if asked["priority"] is None else f" ({asked['priority']})"
        text += f", priority class {asked['priorityClassName']}{value}"
        text += (
            "" if asked["preempts"] else ": it comes first, but nobody has to give way for it (preemptionPolicy Never)"
        )
    sheet.sentence(text)


def _render_goodput(found: Json, sheet: Sheet) -> None:
    goodput = found["goodput"]
    if goodput is not None:
        parts = [(cause, share) for cause, share in goodput["losses"].items() if share >= 0.001]
        outside = [f"{cause} {percent(share)}" for cause, share in parts if cause not in INSIDE]
        inside = [f"{cause} {percent(share)}" for cause, share in parts if cause in INSIDE]
        text = f"goodput: {percent(goodput['share'])} of its time"
        text += f"; lost to {', '.join(outside)}" if outside else ""
        text += f"; inside the steps: {', '.join(inside)}" if inside else ""
        sheet.sentence(text)
    if found["remainingSeconds"] is not None and found["state"] not in FINISHED:
        sheet.line(f"left: {span(found['remainingSeconds'])} at the pace of this attempt")
    if found["stragglers"]:
        sheet.sentence(sentence_of(found["stragglers"]))


def _plan(plan: Json, now: float) -> str:
    ends = until(plan["deadline"], now)
    return f"{plan['kind']}: {plan['message']}{f' (in {ends} at the latest)' if ends else ''}"


def _place(placement: Json, word: str) -> str:
    inside = f", all in {placement['level']} {placement['domain']}" if placement["level"] else ""
    return f"{word} in: pool {placement['pool']}{inside}"


def _render_placement(placement: Json, sheet: Sheet) -> None:
    for entry in placement["nodes"][:_LISTED]:
        word = "rank" if len(entry["ranks"]) == 1 else "ranks"
        sheet.line(f"  {entry['node']}  {word} {indices_text(entry['ranks'])}")
    if len(placement["nodes"]) > _LISTED:
        sheet.line(f"  and {len(placement['nodes']) - _LISTED} more nodes; `supernode ranks` lists all")
    steps = [
        f"{word} {text}"
        for word, text in (
            ("predicted", step_time(placement["predictedStepSeconds"])),
            ("observed", step_time(placement["stepSeconds"] or None)),
            ("MFU", percent(placement["mfu"])),
        )
        if text
    ]
    if steps:
        sheet.line(f"step: {', '.join(steps)}")
    for rival in placement["runnersUp"][:3]:
        where = " ".join(filter(None, (str(rival.get("level") or ""), str(rival.get("domain") or ""))))
        seconds = step_time(rival.get("predictedStepSeconds"))
        sheet.line(f"  next best: {where or rival.get('pool', '')}{f', {seconds} a step' if seconds else ''}")


def _render_pool(pool: Json, asked: Json, sheet: Sheet) -> None:
    if not pool["known"]:
        sheet.line("pool ", Mark(pool["name"], Colour.BOLD), ": there is none of that name that you can see")
        return
    unhealthy = f", {pool['unhealthy']} unhealthy" if pool["unhealthy"] else ""
    sheet.line(
        "pool ",
        Mark(pool["name"], Colour.BOLD),
        f": {pool['free']} of {count(pool['devices'], 'device')} free{unhealthy}",
    )
    needed = {str(wish.get("level")) for wish in asked["topology"] if wish.get("mode") == "Required"}
    rows: list[list[Piece]] = []
    for domain in pool["domains"][: 4 * _LISTED]:
        enough = domain["free"] >= asked["minCount"] * asked["acceleratorsPerWorker"]
        colour = Colour.NONE
        if domain["level"] in needed:
            colour = Colour.GREEN if enough else Colour.RED
        free = Mark(f"{number(domain['free'])} of {number(domain['devices'])}", colour)
        rows.append([domain["level"], domain["domain"], free, number(domain["largestNode"])])
    if rows:
        sheet.table(("LEVEL", "DOMAIN", "FREE", "MOST ON ONE NODE"), rows, indent=2)
    if len(pool["domains"]) > len(rows):
        sheet.line(f"  and {len(pool['domains']) - len(rows)} more domains; `supernode tree` draws all")
    for entry in pool["unusable"][:_LISTED]:
        sheet.line("  ", Mark(f"{entry['node']} is {entry['problem']}", Colour.RED))
    held = [f"{'this job' if h['self'] else h['job']} {h['devices']}" for h in pool["holders"][:_LISTED]]
    if len(pool["holders"]) > _LISTED:
        held.append(f"{len(pool['holders']) - _LISTED} more jobs")
    if pool["others"]:
        held.append(f"others {pool['others']}")
    if held:
        sheet.sentence(f"held by: {', '.join(held)}", 2)
