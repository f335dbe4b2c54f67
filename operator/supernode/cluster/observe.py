"""Keeps the scheduler's state equal to what the API server holds: nodes, pools, groups, gangs, everyone's pods.

Flows in: the stores' changes. Flows out: read-only Snapshots, and what is wrong with pools and groups as values.
Changes are only noted as they come, and applied together when a snapshot is asked for: one cycle, one view.

Who holds what is decided here: a job holds its `status.placement` from the moment that is written until the job is
released, or has finished and none of its pods runs any more. Every other pod with a node counts as foreign.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from supernode.api.group import SuperNodeGroup
from supernode.api.pool import AcceleratorPool
from supernode.api.read import group_from, pool_from
from supernode.api.rules import Problem
from supernode.api.validate import validate_group, validate_pool
from supernode.cluster import nodes, pods, translate
from supernode.cluster.assignment import nodes_of, worker_count
from supernode.cluster.belonging import Belonging, index
from supernode.cluster.cache import Key, Store
from supernode.cluster.kinds import Json
from supernode.cluster.storage import stores_of
from supernode.errors import InputError
from supernode.names import LABEL_JOB
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.state import PoolSpec, State

logger = logging.getLogger(__name__)

_FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Stores:
    """What the API server holds, by kind."""

    jobs: Store
    pools: Store
    groups: Store
    nodes: Store
    pods: Store
    classes: Store = field(default_factory=Store)


@dataclass(slots=True)
class View:
    """The API's pools and groups, read and checked; remade when one of them changes.

    `problems` and `node_problems` are by pool or group name; `taken` names the nodes that a pool selects but an
    older pool has.
    """

    pools: dict[str, AcceleratorPool] = field(default_factory=dict)
    specs: dict[str, PoolSpec] = field(default_factory=dict)
    groups: dict[str, SuperNodeGroup] = field(default_factory=dict)
    pool_problems: dict[str, Problem] = field(default_factory=dict)
    group_problems: dict[str, Problem] = field(default_factory=dict)
    node_problems: dict[str, str] = field(default_factory=dict)
    pool_of_node: dict[str, str] = field(default_factory=dict)
    taken: dict[str, dict[str, str]] = field(default_factory=dict)


class Observer:
    """The one owner of a `State`, fed by stores.

    Args:
        stores: what the API server holds; this listens to all of them.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._state = State()
        self.view = View()
        self._nodes: set[str] = set()
        self._jobs: set[Key] = set()
        # Nodes whose pods must be counted again.
        self._recount: set[str] = set()
        self._wiring_changed = True
        # Whether that is still to be told, even if a snapshot has applied it.
        self._rewired = True
        # (namespace, name) of a job or pod -> what it was claimed for, to see whether that changed.
        self._claims: dict[str, tuple[str, Json]] = {}
        # Claims made in this cycle that the API may not show yet.
        self._held: set[str] = set()
        # node -> pods on it that have not ended; node -> those of them that no gang's claim covers
        self._pods_on: dict[str, set[Key]] = {}
        self._foreign: dict[str, set[str]] = {}
        self._owner: dict[str, str] = {}
        self._belonging = Belonging(stores.jobs, stores.pods)
        stores.nodes.listen(self._on_node)
        stores.jobs.listen(self._on_job)
        stores.pods.listen(self._on_pod)
        stores.pools.listen(self._on_wiring)
        stores.groups.listen(self._on_wiring)

    # --- noting changes --------------------------------------------------------------------------------------------
    def _on_node(self, old: Json | None, new: Json | None) -> None:
        if old is None or new is None or not nodes.same(old, new):
            self._nodes.add(((new or old) or {})["metadata"]["name"])

    def _on_job(self, old: Json | None, new: Json | None) -> None:
        metadata = ((new or old) or {})["metadata"]
        self._jobs.add((metadata.get("namespace", ""), metadata["name"]))

    def _on_pod(self, old: Json | None, new: Json | None) -> None:
        for pod, present in ((old, False), (new, True)):
            if pod is None:
                continue
            key = (pod["metadata"].get("namespace", ""), pod["metadata"]["name"])
            if pods.job_uid(pod):
                self._jobs.add((key[0], (pod["metadata"].get("labels") or {}).get(LABEL_JOB, "")))
            node = _holds_on(pod)
            if node:
                index(self._pods_on, node, key, present=present)
        before, after = (("", "") if p is None else (_holds_on(p), p["metadata"].get("uid")) for p in (old, new))
        if before != after:
            self._recount |= {before[0], after[0]} - {""}

    def _on_wiring(self, old: Json | None, new: Json | None) -> None:
        if old is None or new is None or _wired(old) != _wired(new):
            self._wiring_changed = self._rewired = True

    # --- reading -----------------------------------------------------------------------------------------------------
    def pods_of(self, uid: str) -> list[Json]:
        """All pods of a job."""
        return self._belonging.pods_of(uid)

    def uids_with_pods(self) -> list[str]:
        """Uids of all jobs, past and present, of which a pod is there."""
        return self._belonging.uids()

    def take_rewired(self) -> bool:
        """Whether pools or groups have changed since this was asked last: then every job must be looked at again."""
        rewired, self._rewired = self._rewired, False
        return rewired

    def node(self, name: str) -> Json | None:
        """The node, or None if the cluster has none of that name."""
        return self._stores.nodes.get(("", name))

    def snapshot(self) -> Snapshot:
        """Apply what was noted and give the cluster as it is now."""
        if self._wiring_changed:
            self._rewire()
        for name in sorted(self._nodes):
            self._apply_node(name)
        self._nodes.clear()
        # Releases first: what one gang gave up another may hold already.
        jobs = sorted(self._jobs)
        self._jobs.clear()
        due = [job for job in jobs if self._release_if_changed(job)]
        for job in due:
            self._claim(job)
        # All are forgotten before any is counted: a pod made again on another node has the same name.
        for node in self._recount:
            self._forget_pods(node)
        for node in sorted(self._recount):
            self._count_pods(node)
        self._recount.clear()
        return self._state.snapshot()

    # --- the claims of this very cycle -----------------------------------------------------------------------------
    def hold(self, key: Key, uid: str, placement: Placement, request: Mapping[str, int], status: Json) -> None:
        """A gang was placed just now: it holds its place before anybody has written it down.

        Raises:
            InputError: somebody else holds a part of it.
        """
        name = f"{key[0]}/{key[1]}"
        self._state.claim(name, placement, request, stores_of(self._stores.jobs.get(key) or {}))
        self._claims[name] = (uid, status)
        self._held.add(name)

    def written(self, key: Key) -> None:
        """It is written down: from now on what the API shows is what is held, even if that is nothing any more."""
        self._held.discard(f"{key[0]}/{key[1]}")
        self._jobs.add(key)

    def drop(self, key: Key) -> None:
        """The placement was not written after all."""
        name = f"{key[0]}/{key[1]}"
        self._held.discard(name)
        self._state.release(name)
        self._claims.pop(name, None)
        self._jobs.add(key)

    # --- applying ----------------------------------------------------------------------------------------------------
    def _rewire(self) -> None:
        """Read all pools and groups again; then every node."""
        view = View()
        for obj in self._stores.pools.objects().values():
            name = obj["metadata"]["name"]
            try:
                pool = pool_from(_without_status(obj))
                problems = validate_pool(pool)
                if problems:
                    view.pool_problems[name] = problems[0]
                    continue
                view.specs[name] = translate.pool_spec(pool)
                view.pools[name] = pool
            except InputError as exc:
                view.pool_problems[name] = Problem(exc.field, exc.message)
        for obj in self._stores.groups.objects().values():
            name = obj["metadata"]["name"]
            try:
                group = group_from(_without_status(obj))
                problems = validate_group(group)
                if problems:
                    view.group_problems[name] = problems[0]
                    continue
                self._state.set_group(translate.group_spec(group))
                view.groups[name] = group
            except InputError as exc:
                view.group_problems[name] = Problem(exc.field, exc.message)
        for name in self.view.pools.keys() - view.pools.keys():
            self._state.remove_pool(name)
        for name in self.view.groups.keys() - view.groups.keys():
            self._state.remove_group(name)
        changed = {
            name
            for name in view.specs.keys() | self.view.specs.keys()
            if view.specs.get(name) != self.view.specs.get(name)
        }
        for name in changed & view.specs.keys():
            self._state.set_pool(view.specs[name])
        self.view = view
        self._claim_again(changed)
        self._wiring_changed = False
        self._nodes.update(name for _, name in self._stores.nodes.objects())

    def _claim_again(self, pools: set[str]) -> None:
        """What a gang takes depends on its pool: of pools that have changed, claim anew."""
        for name, (_, status) in list(self._claims.items()):
            if pools.intersection(str(status.get("pool")).split(",")) and name not in self._held:
                self._state.release(name)
                del self._claims[name]
                namespace, _, job = name.partition("/")
                self._jobs.add((namespace, job))
        self._recount.update(self._foreign)

    def _apply_node(self, name: str) -> None:
        view = self.view
        before = self._owner.pop(name, None)
        view.node_problems.pop(name, None)
        for losers in view.taken.values():
            losers.pop(name, None)
        node = self._stores.nodes.get(("", name))
        if node is None:
            view.pool_of_node.pop(name, None)
            self._owner_changed(name, before, "")
            self._state.remove_node(name)
            return
        selecting = translate.pools_selecting(node, translate.by_age(list(view.pools.values())))
        owner = selecting[0] if selecting else ""
        for loser in selecting[1:]:
            view.taken.setdefault(loser, {})[name] = owner
        view.pool_of_node.pop(name, None)
        if owner:
            view.pool_of_node[name] = owner
            self._owner[name] = owner
        self._owner_changed(name, before, owner)
        info = translate.node_info(node, view.specs.get(owner), list(view.groups.values()))
        try:
            self._state.apply_node(info)
        except InputError as exc:
            view.node_problems[name] = str(exc)
            self._state.remove_node(name)

    def _owner_changed(self, node: str, before: str | None, after: str) -> None:
        """How the pods of others hold their devices depends on the node's pool."""
        if (before or "") != after:
            self._recount.add(node)

    def _claimed(self, job: Key) -> tuple[str, Json] | None:
        """(uid, placement status) that a job holds by the API, or None."""
        obj = self._stores.jobs.get(job)
        if obj is None or translate.managed_elsewhere(obj):
            return None
        status = obj.get("status") or {}
        placement = status.get("placement")
        if not placement or not worker_count(placement):
            return None
        uid = obj["metadata"]["uid"]
        if status.get("state") in _FINISHED and all(pods.is_over(pod) for pod in self.pods_of(uid)):
            return None
        return uid, placement

    def _release_if_changed(self, job: Key) -> bool:
        """Release a claim that the API no longer shows; True if there is one to make."""
        name = f"{job[0]}/{job[1]}"
        wanted = self._claimed(job)
        held = self._claims.get(name)
        if wanted is None and name in self._held:
            return False  # its status is on its way
        self._held.discard(name)
        if wanted == held:
            return False
        if held is not None:
            self._state.release(name)
            del self._claims[name]
            self._recount |= self._touched(*held)
        return wanted is not None

    def _touched(self, uid: str, status: Json) -> set[str]:
        """Nodes of a placement and of the job's pods."""
        return nodes_of(status) | {_holds_on(pod) for pod in self.pods_of(uid)} - {""}

    def _claim(self, job: Key) -> None:
        wanted = self._claimed(job)
        obj = self._stores.jobs.get(job)
        if wanted is None or obj is None:
            return
        name = f"{job[0]}/{job[1]}"
        uid, status = wanted
        for node in self._touched(uid, status):
            # A pod that was counted by itself must not stand in the way of the claim that covers it.
            self._forget_pods(node)
            self._recount.add(node)
        try:
            placement = translate.placement_of(name, status)
            self._state.claim(name, placement, self._request(obj, placement), stores_of(obj))
        except InputError as exc:
            # Two hands on one device, or a status written by somebody else: count its pods one by one instead. A pod
            # of a job that has ended may come late, from a create that outlived its sender, and is swept.
            level = logging.WARNING if (obj.get("status") or {}).get("state") in _FINISHED else logging.ERROR
            logger.log(level, "the placement in the status of job %s can't be held: %s", name, exc)
            return
        self._claims[name] = wanted

    def _request(self, obj: Json, placement: Placement) -> dict[str, int]:
        specs = [spec for name in placement.pools if (spec := self.view.specs.get(name)) is not None]
        try:
            return translate.request_in(translate.template_of(obj), specs)
        except InputError:
            return {}

    def _forget_pods(self, node: str) -> None:
        for identity in self._foreign.pop(node, ()):
            self._state.remove_foreign(identity)
            self._state.release(f"pod {identity}")

    def _count_pods(self, node: str) -> None:
        """Count the pods on a node that no gang's claim covers, always in the same order."""
        counted: set[str] = set()
        for key in sorted(self._pods_on.get(node, ())):
            pod = self._stores.pods.get(key)
            if pod is None or self._covered(key, pod):
                continue
            identity = f"{key[0]}/{key[1]}"
            counted.add(identity)
            try:
                request = pods.request_of(pod["spec"])
            except InputError:
                request = {"pods": 1}
            if not self._hold_orphan(identity, node, pod, request):
                self._state.add_foreign(identity, node, request)
        if counted:
            self._foreign[node] = counted

    def _covered(self, key: Key, pod: Json) -> bool:
        """Whether the pod's job holds its place, and the pod is of the attempt that it holds it for."""
        held = self._claims.get(f"{key[0]}/{(pod['metadata'].get('labels') or {}).get(LABEL_JOB, '')}")
        return held is not None and held[0] == pods.job_uid(pod) and held[1].get("attempt", 0) == pods.attempt_of(pod)

    def _hold_orphan(self, identity: str, node: str, pod: Json, request: Mapping[str, int]) -> bool:
        """A pod of ours that no claim covers still holds exactly the devices that its annotation names.

        As many as it requests, that is: a node gives no pod more, whatever somebody has written on it.
        """
        devices = pods.devices_of(pod)
        pool = self.view.pool_of_node.get(node, "")
        spec = self.view.specs.get(pool)
        if not devices or spec is None or request.get(spec.resource) != len(set(devices)):
            return False
        worker = WorkerPlacement(0, node, pool, devices)
        rest = {name: amount for name, amount in request.items() if name != spec.resource}
        try:
            self._state.claim(f"pod {identity}", Placement.of(identity, [worker]), rest)
        except InputError:
            return False
        return True


def _holds_on(pod: Json) -> str:
    """The node that a pod takes room on; empty for one without a node, and for one that has ended."""
    return "" if pods.is_over(pod) else str((pod.get("spec") or {}).get("nodeName") or "")


def _wired(obj: Json) -> tuple[object, ...]:
    return obj.get("spec"), obj["metadata"].get("deletionTimestamp")  # one that is going takes no new gang


def _without_status(obj: Json) -> Json:
    """Only what the user wrote: an odd status must not stop a good object."""
    return {name: value for name, value in obj.items() if name != "status"}
