"""The objects that a placed gang becomes: pods, a headless Service, a Secret and a ConfigMap. Pure builders.

Flows in: a `GangPlan` (values only). Flows out: JSON ready to be created. Same plan, same bytes: names and content
are deterministic (but for the secret, which is random and made once per attempt), so creating twice is harmless.

Not here: requests to the server.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from supernode import names
from supernode.cluster import shares
from supernode.cluster.kinds import Json
from supernode.cluster.rendezvous import MPI_DIRECTORY, PORT_MASTER, Gang, hostfile, machinefile, variables
from supernode.quantity import parse_bytes, parse_cpu

# What the sidecar asks of its node. Kernels borrow whatever CPU is free; this only keeps the pod schedulable.
SIDECAR_CPU: Final = "50m"
SIDECAR_MEMORY: Final = "64Mi"
# Seconds between probes, and how many may fail while the sidecars find each other (two minutes).
PROBE_SECONDS: Final = 1
PROBE_FAILURES: Final = 120

TOPOLOGY_KEY: Final = "topology.json"
HOSTFILE_KEY: Final = "hostfile"
MACHINEFILE_KEY: Final = "machinefile"
SECRET_KEY: Final = "secret"  # noqa: S105 - a key's name
_MPI_VOLUME: Final = "supernode-mpi"
# Name of the file that holds the time of a request for a checkpoint.
REQUEST_FILE: Final = "checkpoint-requested"

_RESTRICTED: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One worker: its rank, node, pool and the device indices on that node."""

    rank: int
    node: str
    pool: str
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What a pod must know of a pool: the resource that it requests, and the chip to emulate (None: real devices).

    `chip` is a catalogue name, or a JSON object with the fields of ``chipSpec``.
    """

    name: str
    resource: str
    chip: str | None


@dataclass(frozen=True, slots=True)
class GangPlan:
    """A gang with its places: all that its objects are made of.

    `checkpoint_step`: of the last checkpoint that an earlier attempt has reported.
    `template` is the user's pod template, `parallelism` and `topology` are the JSON of the variables with those names.
    """

    job: str
    namespace: str
    uid: str
    attempt: int
    framework: str
    devices_per_worker: int
    workers: tuple[WorkerPlan, ...]
    pools: Mapping[str, PoolPlan]
    template: Json
    parallelism: Json
    topology: Json
    emulator_image: str
    priority_class: str = ""
    checkpoint_step: int | None = None

    @property
    def gang(self) -> Gang:
        """Names and sizes."""
        return Gang(self.job, self.namespace, len(self.workers), self.devices_per_worker)


def fabric_name(job: str, uid: str) -> str:
    """Name of the job's Secret and ConfigMap: with a part of its uid, so that nobody else's object can have it."""
    return f"{job}-fabric-{uid[:8]}"


def pod_name(job: str, rank: int) -> str:
    """Name of a worker's pod."""
    return f"{job}-worker-{rank}"


def job_labels(job: str, uid: str) -> dict[str, str]:
    """Labels on everything that belongs to a job."""
    return {names.LABEL_JOB: label_value(job), names.LABEL_JOB_UID: uid}


def label_value(name: str) -> str:
    """A name as a label value: at most 63 characters (object names may be longer)."""
    return name if len(name) <= 63 else name[:63].rstrip("-.")


def reads_fabric(plan: GangPlan) -> bool:
    """Whether a pod of the gang reads its Secret or ConfigMap: a sidecar does, and MPI reads the lists of hosts."""
    return plan.framework == "MPI" or any(pool.chip is not None for pool in plan.pools.values())


def sidecar_request() -> dict[str, int]:
    """What the sidecar adds to a worker's requests, in canonical units."""
    return {"cpu": parse_cpu(SIDECAR_CPU), "memory": parse_bytes(SIDECAR_MEMORY)}


def service(plan: GangPlan) -> Json:
    """The headless Service that gives each worker a DNS name, also before it is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(plan, plan.job),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_JOB_UID: plan.uid},
            "ports": [
                {"name": "rendezvous", "port": PORT_MASTER, "protocol": "TCP", "targetPort": PORT_MASTER},
                {"name": "fabric", "port": names.PORT_FABRIC, "protocol": "TCP", "targetPort": names.PORT_FABRIC},
                {
                    "name": "emulator",
                    "port": names.PORT_EMULATOR_HTTP,
                    "protocol": "TCP",
                    "targetPort": names.PORT_EMULATOR_HTTP,
                },
            ],
        },
    }


def secret(plan: GangPlan, value: str) -> Json:
    """The Secret that the job's sidecars share. `value` comes from a cryptographic source."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": _metadata(plan, fabric_name(plan.job, plan.uid)),
        "stringData": {SECRET_KEY: value},
    }


def topology_text(plan: GangPlan) -> str:
    """How the workers are wired, as their sidecars read it."""
    return json.dumps(plan.topology, separators=(",", ":"), sort_keys=True)


def config_map(plan: GangPlan) -> Json:
    """The ConfigMap with the wiring between the workers, and the lists of hosts for MPI."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(plan, fabric_name(plan.job, plan.uid)),
        "data": {
            TOPOLOGY_KEY: topology_text(plan),
            HOSTFILE_KEY: hostfile(plan.gang),
            MACHINEFILE_KEY: machinefile(plan.gang),
        },
    }


def pod(plan: GangPlan, worker: WorkerPlan) -> Json:
    """The pod of one worker, bound to its node.

    The user's template is kept whole; we add names, labels, the accelerators of the first container, variables that
    the user did not set himself (ours named ``SUPERNODE_*`` always), and in an emulated pool the sidecar.
    """
    pool = plan.pools[worker.pool]
    # Copied is only what is changed here; the rest is the template's own, which the pods of a gang share.
    meta = plan.template.get("metadata") or {}
    spec: Json = {**(plan.template.get("spec") or {})}
    first = {**spec["containers"][0]}
    spec["containers"] = [first, *spec["containers"][1:]]
    if first.get("resources"):
        first["resources"] = {**first["resources"]}
    spec["hostname"] = pod_name(plan.job, worker.rank)
    spec["subdomain"] = plan.job
    spec["nodeName"] = worker.node
    spec["schedulerName"] = names.SCHEDULER_NAME
    # What the user wrote as null he left out.
    spec["restartPolicy"] = spec.get("restartPolicy") or "Never"
    if plan.priority_class:
        spec["priorityClassName"] = spec.get("priorityClassName") or plan.priority_class
    _fill_worker(plan, worker, pool, spec)
    if pool.chip is not None:
        share = shares.variables_of(spec["containers"][0])
        shares.take_out(spec["containers"][0])
        sidecar = _sidecar(plan, worker, pool.chip, share)
        spec["initContainers"] = [sidecar, *(spec.get("initContainers") or [])]
        memory_volume = {"name": names.EMULATOR_VOLUME, "emptyDir": {"medium": "Memory"}}
        spec["volumes"] = [*(spec.get("volumes") or []), memory_volume]
    metadata = _metadata(plan, pod_name(plan.job, worker.rank))
    metadata["labels"] = {
        **(meta.get("labels") or {}),
        **metadata["labels"],
        names.LABEL_RANK: str(worker.rank),
        names.LABEL_ATTEMPT: str(plan.attempt),
        names.LABEL_POOL: label_value(worker.pool),
        names.LABEL_KUBEFLOW_JOB: label_value(plan.job),
        names.LABEL_KUBEFLOW_TYPE: "worker",
        names.LABEL_KUBEFLOW_INDEX: str(worker.rank),
        names.LABEL_COMPLETION_INDEX: str(worker.rank),
    }
    metadata["annotations"] = {
        **(meta.get("annotations") or {}),
        names.ANNOTATION_DEVICES: ",".join(map(str, worker.devices)),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _metadata(plan: GangPlan, name: str) -> Json:
    return {
        "name": name,
        "namespace": plan.namespace,
        "labels": job_labels(plan.job, plan.uid),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": "TrainingJob",
                "name": plan.job,
                "uid": plan.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def _fill_worker(plan: GangPlan, worker: WorkerPlan, pool: PoolPlan, spec: Json) -> None:
    """Give the first container its accelerators, variables and mounts."""
    first: Json = spec["containers"][0]
    # A failed worker's pod is deleted when its gang restarts, with its log: the last words say why in the event.
    first.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    if plan.devices_per_worker:
        resources = first["resources"] = first.get("resources") or {}
        for side in ("requests", "limits"):
            # Extended resources must be equal on both sides.
            resources[side] = {**(resources.get(side) or {}), pool.resource: str(plan.devices_per_worker)}
    parallelism = json.dumps(plan.parallelism, separators=(",", ":"), sort_keys=True)
    ours: list[tuple[str, str]] = [
        (names.ENV_JOB, plan.job),
        (names.ENV_NAMESPACE, plan.namespace),
        (names.ENV_RANK, str(worker.rank)),
        (names.ENV_WORKERS, str(len(plan.workers))),
        (names.ENV_DEVICES, str(plan.devices_per_worker)),
        (names.ENV_ATTEMPT, str(plan.attempt)),
        (names.ENV_PARALLELISM, parallelism),
        (names.ENV_CHECKPOINT_REQUEST, f"{names.REQUESTS_DIRECTORY}/{REQUEST_FILE}"),
    ]
    if plan.checkpoint_step is not None:
        ours.append((names.ENV_CHECKPOINT_STEP, str(plan.checkpoint_step)))
    wishes = list(variables(plan.framework, plan.gang, worker.rank))
    mounts = list(first.get("volumeMounts") or [])
    mounts.append({"name": names.REQUESTS_VOLUME, "mountPath": names.REQUESTS_DIRECTORY, "readOnly": True})
    spec["volumes"] = [*(spec.get("volumes") or []), _requests_volume()]
    if pool.chip is not None:
        ours.append((names.ENV_SOCKET, names.EMULATOR_SOCKET))
        wishes.append((names.ENV_VISIBLE_DEVICES, ",".join(map(str, range(plan.devices_per_worker)))))
        mounts.append({"name": names.EMULATOR_VOLUME, "mountPath": names.EMULATOR_DIRECTORY})
    if plan.framework == "MPI":
        mounts.append({"name": _MPI_VOLUME, "mountPath": MPI_DIRECTORY, "readOnly": True})
        spec["volumes"] = [
            *(spec.get("volumes") or []),
            {
                "name": _MPI_VOLUME,
                "configMap": {
                    "name": fabric_name(plan.job, plan.uid),
                    "items": [{"key": key, "path": key} for key in (HOSTFILE_KEY, MACHINEFILE_KEY)],
                },
            },
        ]
    if mounts:
        first["volumeMounts"] = mounts
    fixed = {name for name, _ in ours}
    users = [entry for entry in first.get("env") or [] if entry.get("name") not in fixed]
    set_by_user = {entry.get("name") for entry in users}
    ours += [(name, value) for name, value in wishes if name not in set_by_user]
    # Ours come first, so that the user's can refer to them as $(RANK).
    first["env"] = [*({"name": name, "value": value} for name, value in ours), *users]


def _requests_volume() -> Json:
    """What the operator asks of a running worker, as a file: the node keeps it equal to the pod's annotation."""
    path = f"metadata.annotations['{names.ANNOTATION_CHECKPOINT}']"
    item = {"path": REQUEST_FILE, "fieldRef": {"apiVersion": "v1", "fieldPath": path}}
    return {"name": names.REQUESTS_VOLUME, "downwardAPI": {"items": [item]}}


def _sidecar(plan: GangPlan, worker: WorkerPlan, chip: str, share: Mapping[str, str]) -> Json:
    """The emulator: an init container that stays (`restartPolicy: Always`), ready before the worker starts."""
    rendezvous = f"{plan.gang.address(0)}:{names.PORT_FABRIC}"
    env: list[dict[str, Any]] = [
        {"name": names.ENV_CHIP, "value": chip},
        {"name": names.ENV_DEVICES, "value": str(plan.devices_per_worker)},
        *({"name": name, "value": value} for name, value in share.items()),
        {"name": names.ENV_RANK, "value": str(worker.rank)},
        {"name": names.ENV_WORKERS, "value": str(len(plan.workers))},
        {"name": names.ENV_ATTEMPT, "value": str(plan.attempt)},
        {"name": names.ENV_RENDEZVOUS, "value": rendezvous},
        {"name": names.ENV_POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        # Said although it is the default: where volumes are directories (local cluster), only what is said is replaced.
        {"name": names.ENV_SOCKET, "value": names.EMULATOR_SOCKET},
        {
            "name": names.ENV_FABRIC_SECRET,
            "valueFrom": {"secretKeyRef": {"name": fabric_name(plan.job, plan.uid), "key": SECRET_KEY}},
        },
        {
            "name": names.ENV_TOPOLOGY,
            "valueFrom": {"configMapKeyRef": {"name": fabric_name(plan.job, plan.uid), "key": TOPOLOGY_KEY}},
        },
    ]
    return {
        "name": names.EMULATOR_CONTAINER,
        "image": plan.emulator_image,
        # The volume is the pod's own: whoever runs in the pod may connect, under whatever user its image runs.
        "args": ["emulator", "--socket-mode=666"],
        "restartPolicy": "Always",
        "env": env,
        "ports": [
            {"name": "fabric", "containerPort": names.PORT_FABRIC},
            {"name": "emulator", "containerPort": names.PORT_EMULATOR_HTTP},
        ],
        "startupProbe": {
            "httpGet": {"path": "/readyz", "port": names.PORT_EMULATOR_HTTP},
            "periodSeconds": PROBE_SECONDS,
            "failureThreshold": PROBE_FAILURES,
        },
        "resources": {"requests": {"cpu": SIDECAR_CPU, "memory": SIDECAR_MEMORY}},
        "securityContext": copy.deepcopy(_RESTRICTED),
        "volumeMounts": [{"name": names.EMULATOR_VOLUME, "mountPath": names.EMULATOR_DIRECTORY}],
    }
