"""`supernode place`: the decision offline. Says where a job would run on a described cluster, or why it can't.

In: a cluster file (Node, NodeSet, AcceleratorPool, SuperNodeGroup; running TrainingJobs and Pods count as held) and a
job. Out: a table, or with `--json` one object. Exit status 0 if the job has a place, 1 if not. The code that decides is
the operator's own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from supernode.api.conditions import seconds_of
from supernode.api.group import SuperNodeGroup
from supernode.api.pool import AcceleratorPool
from supernode.api.read import group_from, job_from, pool_from
from supernode.api.validate import validate_job
from supernode.cluster import pods, translate
from supernode.cluster.assignment import worker_count
from supernode.cluster.storage import stores_of
from supernode.commands.documents import FORMATS, document
from supernode.commands.place_answer import EMPTY, human, placed
from supernode.commands.place_cut import cut_that_fits
from supernode.errors import InputError
from supernode.local.cluster_file import ClusterFile, parse_cluster_file
from supernode.names import LABEL_JOB
from supernode.scheduling.alternatives import Running, alternatives
from supernode.scheduling.defragment import Movable
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.explain import explain, explain_alternatives
from supernode.scheduling.picture import picture
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import Victim
from supernode.scheduling.rivals import survey
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.state import PoolSpec, State
from supernode.scheduling.unplaceable import Reason

Object = dict[str, Any]

# What a node has whose file doesn't say: the same as on the local cluster.
_CAPACITY = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110"}
_FINISHED = ("Succeeded", "Failed")
_DUMP_VERSION = 1
_DUMPED: Mapping[str, type] = {"now": float, "cluster": str, "clusterFile": str, "job": str, "jobFile": str}
# Seconds that it takes to stop a gang and start it elsewhere, beside the work since its last checkpoint.
_RESTART_SECONDS = 120.0
_MOST_BYTES = 256 * 2**20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--cluster", metavar="FILE", help="nodes, pools and groups, as Kubernetes YAML")
    parser.add_argument("--job", metavar="FILE", help="one TrainingJob, as YAML")
    parser.add_argument("-o", "--output", choices=FORMATS, default="table", help="form of the answer (default: table)")
    parser.add_argument("--json", action="store_true", help="the same as -o json: one JSON object instead of a table")
    parser.add_argument("--svg", metavar="FILE", help="also draw the wiring with the gang in it")
    parser.add_argument("--dump", metavar="FILE", help="also keep all inputs in one file")
    parser.add_argument("--replay", metavar="FILE", help="decide again on what --dump has kept")


def run(args: argparse.Namespace) -> int:
    """Decide and print.

    Raises:
        InputError: a file that can't be read, or an object in the cluster file that is wrong.
    """
    inputs = _inputs(args)
    form = "json" if args.json else args.output
    if args.dump:
        _write(args.dump, json.dumps({"version": _DUMP_VERSION, **inputs}, indent=2) + "\n")
    cluster = Cluster(parse_cluster_file(inputs["cluster"], inputs["clusterFile"]), inputs["now"])
    try:
        answer = cluster.decide(_job(inputs["job"], inputs["jobFile"]))
    except InputError as exc:
        if form == "table":
            raise
        answer = {"placed": False, "reason": str(Reason.MISCONFIGURED), "message": str(exc)}
    if args.svg:
        _write(args.svg, picture(*cluster.drawn))
    answer = {**EMPTY, **answer}
    print(human(answer) if form == "table" else document(answer, form))
    return 0 if answer["placed"] else 1


# Reasons for which something else may be possible now or later.
_CURABLE = frozenset(
    {
        Reason.INSUFFICIENT_ACCELERATORS,
        Reason.INSUFFICIENT_NODE_RESOURCES,
        Reason.TOPOLOGY_PLACEMENT_FAILED,
        Reason.WAITING_FOR_QUOTA,
        Reason.EXCEEDS_MAX_QUOTA,
    }
)


def _inputs(args: argparse.Namespace) -> Object:
    """Everything that the decision depends on: texts, their names, and the time."""
    if args.replay:
        if args.cluster or args.job:
            raise InputError("takes the place of --cluster and --job: give it alone", field="--replay")
        try:
            kept = json.loads(_read(args.replay))
        except ValueError as exc:
            raise InputError(f"is not what --dump writes: {exc}", obj=args.replay) from exc
        if not isinstance(kept, dict) or kept.get("version") != _DUMP_VERSION:
            raise InputError(f"is not what --dump writes (version {_DUMP_VERSION})", obj=args.replay)
        for name, kind in _DUMPED.items():
            if not isinstance(kept.get(name), kind):
                raise InputError("is missing or of the wrong type", field=name, obj=args.replay)
        return {name: kept[name] for name in _DUMPED}
    if not args.cluster or not args.job:
        raise InputError("--cluster and --job are needed, or --replay")
    return {
        "now": time.time(),
        "cluster": _read(args.cluster),
        "clusterFile": args.cluster,
        "job": _read(args.job),
        "jobFile": args.job,
    }


class Cluster:
    """A described cluster.

    Raises:
        InputError: an object in the file that is wrong; names it and the field.
    """

    def __init__(self, file: ClusterFile, now: float) -> None:
        #: What `--svg` draws: the cluster, and the job's place once it has one.
        self.drawn: tuple[Snapshot, Placement | None]
        self._now = now
        self._priorities: dict[str, int] = {}
        # Jobs that hold devices, where, and the seconds of work since their checkpoint.
        self._running: list[tuple[Object, Placement, float]] = []
        self._pools: dict[str, AcceleratorPool] = {}
        self._groups: list[SuperNodeGroup] = []
        self._specs: dict[str, PoolSpec] = {}
        self._nodes = {node["metadata"]["name"]: _complete(node) for node in file.nodes}
        self._state = State()
        others: list[Object] = []
        for obj in file.objects:
            if obj["kind"] == "AcceleratorPool":
                pool = pool_from(obj)
                self._pools[pool.metadata.name] = pool
                self._specs[pool.metadata.name] = translate.pool_spec(pool)
                self._state.set_pool(self._specs[pool.metadata.name])
            elif obj["kind"] == "SuperNodeGroup":
                self._groups.append(group_from(obj))
                self._state.set_group(translate.group_spec(self._groups[-1]))
            else:
                others.append(obj)
        oldest_first = translate.by_age(list(self._pools.values()))
        for node in self._nodes.values():
            selecting = translate.pools_selecting(node, oldest_first)
            spec = self._specs[selecting[0]] if selecting else None
            self._state.apply_node(translate.node_info(node, spec, self._groups, advertised=False))
        jobs = [self._hold(obj) for obj in others if obj["kind"] == "TrainingJob"]
        for obj in others:
            if obj["kind"] == "Pod":
                self._use(obj, jobs)
            elif obj["kind"] == "PriorityClass":
                self._priorities[obj["metadata"]["name"]] = _whole(obj.get("value"), obj)
        self.drawn = (self._state.snapshot(), None)

    def decide(self, obj: Object) -> Object:
        """The answer about one job, in the fields of `--json`.

        Raises:
            InputError: the job itself is wrong; names the field.
        """
        job = job_from(obj)
        problems = validate_job(job, self._pools, self._groups)
        if problems:
            known = any(name in self._pools for name in job.spec.pools)
            reason = Reason.MISCONFIGURED if known else Reason.NO_MATCHING_POOL
            return {"reason": str(reason), "message": "; ".join(f"{p.field}: {p.message}" for p in problems)}
        snapshot = self._state.snapshot()
        demand = self._demand(obj, snapshot)
        result = place(snapshot, demand)
        if isinstance(result, Placement):
            result = survey(snapshot, demand, result)
            self.drawn = (snapshot, result)
            return placed(result, explain(result, snapshot, demand))
        found = alternatives(snapshot, demand, self._known(snapshot)) if result.code in _CURABLE else ()
        answer = {"reason": str(result.code), "message": explain(result, snapshot, demand)}
        words = [explain_alternatives([item]) for item in found]
        if result.code is Reason.OUT_OF_DEVICE_MEMORY and (cut := cut_that_fits(result, snapshot, demand)):
            words.append(cut)
        return {**answer, "alternatives": words}

    def _demand(self, obj: Object, snapshot: Snapshot) -> GangDemand:
        job = job_from(obj)
        template = translate.template_of(obj)
        priority = self._priorities.get(job.spec.scheduling.priority_class_name or "", 0)
        demand = translate.demand(job, template, self._specs, priority=priority)
        return demand.with_eligible(
            {
                pool.name: translate.eligible_rows(snapshot, pool, self._nodes, template.get("spec") or {})
                for pool in snapshot.pools
                if pool.name in demand.pools
            }
        )

    def _known(self, snapshot: Snapshot) -> Running:
        """What is known about the jobs that hold devices: when they end, and what stopping or moving them costs."""
        ends: dict[str, float] = {}
        victims: list[Victim] = []
        movable: list[Movable] = []
        for obj, placement, lost in self._running:
            demand = self._demand(obj, snapshot)
            start = (obj.get("status") or {}).get("startTime")
            limit = (obj["spec"].get("runPolicy") or {}).get("activeDeadlineSeconds")
            if start and limit is not None:
                ends[demand.key] = max(0.0, seconds_of(start) + float(limit) - self._now)
            held = int(snapshot.holders[demand.key].workers.sum())
            slices = demand.slices[0].size if demand.slices else 1
            victims.append(Victim(demand.key, demand.priority, lost, max(0, held - demand.fewest), slices))
            movable.append(Movable(demand, lost + _RESTART_SECONDS, placement))
        return Running(ends, tuple(victims), tuple(movable))

    def _hold(self, obj: Object) -> str:
        """Claim what a running job's status says; its key, empty if it holds nothing."""
        status = obj.get("status") or {}
        placement = status.get("placement") or {}
        if not worker_count(placement) or status.get("state") in _FINISHED:
            return ""
        key = f"{obj['metadata'].get('namespace', 'default')}/{obj['metadata']['name']}"
        held = translate.placement_of(key, placement)
        specs = [self._specs[name] for name in held.pools if name in self._specs]
        self._state.claim(key, held, translate.request_in(translate.template_of(obj), specs), stores_of(obj))
        self._running.append((obj, held, _lost(obj)))
        return key

    def _use(self, pod: Object, held: list[str]) -> None:
        """Book a pod that no held job covers."""
        node = (pod.get("spec") or {}).get("nodeName")
        job = (pod["metadata"].get("labels") or {}).get(LABEL_JOB, "")
        key = f"{pod['metadata'].get('namespace', 'default')}/{job}"
        if node and not pods.is_over(pod) and key not in held:
            name = f"{pod['metadata'].get('namespace', 'default')}/{pod['metadata']['name']}"
            self._state.add_foreign(name, node, pods.request_of(pod["spec"]))


def _lost(obj: Object) -> float:
    """Seconds of work since the last checkpoint; all of it, if there is none."""
    progress = (obj.get("status") or {}).get("progress") or {}
    steps, seconds = progress.get("step") or 0, progress.get("stepSeconds") or 0.0
    every = ((obj["spec"].get("storage") or {}).get("checkpoint") or {}).get("everySteps")
    return float(seconds) * (steps % every if every else steps)


def _whole(value: object, obj: Object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(
            f"must be a whole number, found {value!r}", field="value", obj=f"PriorityClass {obj['metadata']['name']}"
        )
    return value


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InputError(f"can't be written: {exc}", obj=path) from exc


def _read(path: str) -> str:
    file = Path(path)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise InputError(f"is larger than {_MOST_BYTES // 2**20} MiB", obj=path)
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"can't be read: {exc}", obj=path) from exc


def _job(text: str, source: str) -> Object:
    """The one TrainingJob in a file; other objects beside it are passed over."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as exc:
        raise InputError(f"not YAML: {' '.join(str(exc).split())}", obj=source) from exc
    jobs = [d for d in documents if isinstance(d, dict) and d.get("kind") == "TrainingJob"]
    if len(jobs) != 1:
        raise InputError(f"must hold one TrainingJob, found {len(jobs)}", obj=source)
    metadata = jobs[0].get("metadata")
    if isinstance(metadata, dict):
        metadata.setdefault("namespace", "default")
    return jobs[0]


def _complete(node: Object) -> Object:
    """A node as it would report itself: ready unless it says else, with the usual capacity where it says none."""
    status = node.get("status") or {}
    given = {**(status.get("capacity") or {}), **(status.get("allocatable") or {})}
    conditions = status.get("conditions") or [{"type": "Ready", "status": "True"}]
    return {**node, "status": {**status, "allocatable": {**_CAPACITY, **given}, "conditions": conditions}}
