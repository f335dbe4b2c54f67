"""`supernode defrag --for JOB`: which gangs could move so that a waiting one can start, at what cost; `--yes` does it.

The plan is made here by the operator's own code on what the cluster holds now. Doing it is the operator's: `--yes` puts
an annotation on the job, the operator plans again, writes the plan into the job's status and carries it out, so it goes
on if this terminal dies.
"""

from __future__ import annotations

import argparse
from typing import Final

from prometheus_client import CollectorRegistry

from supernode.api.rules import Problem
from supernode.cluster import nodes, pods
from supernode.cluster.assignment import worker_count
from supernode.cluster.cache import Store, key_of
from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.kinds import GROUPS, JOBS, NODES, PODS, POOLS, PRIORITY_CLASSES, Json
from supernode.cluster.observe import Observer, Stores
from supernode.commands.figures import count, span
from supernode.commands.reading import add_options, answer, find_job, list_all
from supernode.commands.terminal import Colour, Mark, Sheet
from supernode.errors import InputError
from supernode.handlers.context import Context
from supernode.handlers.facts import state_of
from supernode.handlers.masks import Masks
from supernode.handlers.migration import MOST_MOVES, MOVES, Migrations, Wish
from supernode.handlers.preemption import Preemptions
from supernode.handlers.reading import Readings
from supernode.handlers.rehearse import Rehearsals
from supernode.names import ANNOTATION_DEFRAGMENT
from supernode.scheduling.defragment import Defragmentation
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Unplaceable
from supernode.telemetry.metrics import OperatorMetrics

_LISTED: Final = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--for", dest="job", metavar="JOB", required=True, help="the job that waits, or NAMESPACE/NAME")
    parser.add_argument(
        "--moves", type=_moves, default=MOVES, metavar="N", help="jobs that move at most (default: %(default)s)"
    )
    parser.add_argument("--yes", action="store_true", help="do it: ask the operator to carry the plan out")
    add_options(parser)


def _moves(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_MOVES:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MOST_MOVES}")
    return value


def run(args: argparse.Namespace) -> int:
    """Plan and show; with `--yes` ask for it."""

    async def gather(client: Client) -> Json:
        job = await find_job(client, args)
        context = await context_of(client)
        found = plan(context, job, args.moves)
        if args.yes and found["moves"]:
            metadata = job["metadata"]
            patch = {"metadata": {"uid": metadata["uid"], "annotations": {ANNOTATION_DEFRAGMENT: str(args.moves)}}}
            await client.patch(JOBS, metadata["name"], patch, metadata["namespace"])
            found["requested"] = True
        return found

    return answer(args, gather, render)


async def context_of(client: Client) -> Context:
    """The cluster as the operator would see it, read once."""
    stores = Stores(Store(), Store(), Store(), Store(trim=nodes.trim), Store(trim=pods.trim))
    observer = Observer(stores)
    kinds = (
        (POOLS, stores.pools),
        (GROUPS, stores.groups),
        (PRIORITY_CLASSES, stores.classes),
        (NODES, stores.nodes),
        (JOBS, stores.jobs),
        (PODS, stores.pods),
    )
    for kind, store in kinds:
        for obj in await list_all(client, kind):
            store.offer(obj)
    metrics = OperatorMetrics(CollectorRegistry())
    return Context(client, stores, observer, Events(client, "defrag"), metrics, "")


def plan(context: Context, job: Json, moves: int) -> Json:
    """The values that are shown: the moves, what they cost and gain; or why there are none."""
    name = f"{job['metadata']['namespace']}/{job['metadata']['name']}"
    empty: Json = {"job": name, "moves": [], "why": "", "costDeviceSeconds": 0.0, "gainDeviceSeconds": 0.0}
    empty |= {"nodes": [], "requested": False}
    if state_of(job.get("status") or {}).finished:
        return {**empty, "why": "it has ended"}
    if worker_count((job.get("status") or {}).get("placement") or {}):
        return {**empty, "why": "it has a place already"}
    snapshot, readings = context.observer.snapshot(), Readings(context)
    reading = readings.read(key_of(job), job)
    problem = readings.problem(job, reading)
    if reading.model is None or problem is not None:
        return {**empty, "why": f"it is not accepted: {problem}"}
    try:
        demand = Masks(context, snapshot).on(readings.demand(job, reading.model), job)
    except InputError as exc:
        return {**empty, "why": str(exc)}
    placed = place(snapshot, demand)
    if isinstance(placed, Unplaceable) and not placed.possible:
        return {**empty, "why": "it can never be placed"}
    if isinstance(placed, Placement):
        return {**empty, "why": "it fits as things are; the operator places it when its turn comes"}
    rehearsals = Rehearsals(context, lambda key, at: None)
    nominations = Preemptions(context, readings, rehearsals).nominations()
    found = Migrations(context, readings, rehearsals).propose(snapshot, demand, Wish(moves), nominations)
    if isinstance(found, str):
        return {**empty, "why": found}
    return {
        **empty,
        "moves": [_move(move, context, snapshot, readings) for move in found.moves],
        "nodes": list(found.placement.nodes),
        **_sums(found),
    }


def _sums(found: Defragmentation) -> Json:
    return {"costDeviceSeconds": round(found.cost, 1), "gainDeviceSeconds": round(found.gain, 1)}


def _move(move: Placement, context: Context, snapshot: Snapshot, readings: Readings) -> Json:
    namespace, _, name = move.key.partition("/")
    obj = context.stores.jobs.get((namespace, name)) or {}
    holding = snapshot.holders[move.key]
    model = readings.read((namespace, name), obj).model
    priority = None if model is None else readings.priority(model)
    return {
        "job": move.key,
        "workers": int(holding.workers.sum()),
        "devices": holding.devices,
        "priority": 0 if priority is None or isinstance(priority, Problem) else priority.value,
        "from": sorted(holding.nodes),
        "to": sorted(move.nodes),
        "predictedStepSeconds": None if move.predicted is None else move.predicted.seconds,
    }


def render(found: Json, sheet: Sheet, now: float) -> None:
    """The table form."""
    if not found["moves"]:
        sheet.sentence(f"nothing moves for {found['job']}: {found['why']}")
        return
    sheet.line(
        f"{count(len(found['moves']), 'job')} would move so that ", Mark(found["job"], Colour.BOLD), " can start:"
    )
    rows = [
        [move["job"], str(move["workers"]), str(move["devices"]), _some(move["from"]), _some(move["to"])]
        for move in found["moves"]
    ]
    sheet.table(("JOB", "WORKERS", "DEVICES", "FROM", "TO"), rows, indent=2)
    sheet.line(f"{found['job']} then runs on: {_some(found['nodes'])}")
    cost, gain = found["costDeviceSeconds"], found["gainDeviceSeconds"]
    sheet.line(f"cost: {cost:.0f} device-seconds stand still ({span(cost)} of one device)")
    sheet.line(f"gain: {gain:.0f} device-seconds, were it to wait for another hour")
    if found["requested"]:
        sheet.line(
            Mark("asked for", Colour.GREEN),
            f"; the operator plans again and carries it out: supernode why {found['job']}",
        )
    else:
        sheet.line("each saves a checkpoint, stops, and goes on in its new place; do it with --yes")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"
