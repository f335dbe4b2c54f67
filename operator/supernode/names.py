"""Every name that crosses a border of Supernode: API group, labels, annotations, variables, ports, files.

Data only. A name that a user can meet is documented in docs/names.md, which is generated from this file
(each constant's comment line is its description); a test compares the two both ways.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "supernode.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
# The operator's Lease is the same whatever namespace it is installed in.
LEASE_NAMESPACE: Final = "kube-system"

# --- labels on pods, services, secrets and config maps of a job -----------------------------------------------
# Name of the TrainingJob.
LABEL_JOB: Final = "supernode.dev/job"
# UID of the TrainingJob, so that a job made again under the same name is not mistaken for the old one.
LABEL_JOB_UID: Final = "supernode.dev/job-uid"
# Rank of the worker, from 0.
LABEL_RANK: Final = "supernode.dev/rank"
# Attempt the pod belongs to; a restarted gang has the next number.
LABEL_ATTEMPT: Final = "supernode.dev/attempt"
# AcceleratorPool the worker runs in.
LABEL_POOL: Final = "supernode.dev/pool"
# Kubeflow's name for the job, so that other tools understand our pods.
LABEL_KUBEFLOW_JOB: Final = "training.kubeflow.org/job-name"
# Kubeflow's name for what a pod is in its job: always `worker`.
LABEL_KUBEFLOW_TYPE: Final = "training.kubeflow.org/replica-type"
# Kubeflow's name for the rank.
LABEL_KUBEFLOW_INDEX: Final = "training.kubeflow.org/replica-index"
# Kubernetes' own name for the rank.
LABEL_COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"

# --- labels on nodes (the examples use them; a pool or group may select by any other) ---------------------------
# Chip of the node's accelerators, a catalogue name.
LABEL_CHIP: Final = "supernode.dev/chip"
# SuperNodeGroup the node is wired into.
LABEL_GROUP: Final = "supernode.dev/group"
# Spine switch domain of the node.
LABEL_SPINE: Final = "supernode.dev/spine"
# Super-node of the node.
LABEL_SUPERNODE: Final = "supernode.dev/supernode"

# --- annotations ------------------------------------------------------------------------------------------------
# Device indices on the node that a worker holds, such as `0,1`.
ANNOTATION_DEVICES: Final = "supernode.dev/devices"

# On a worker's pod: when its gang was asked to save a checkpoint (RFC 3339); the gang is about to be stopped.
ANNOTATION_CHECKPOINT: Final = "supernode.dev/checkpoint-requested"
# On a job that waits: how many gangs may move (1 to 16) to make room for it; the operator takes it off.
ANNOTATION_DEFRAGMENT: Final = "supernode.dev/defragment"
# On a node: indices of devices that must not be used, such as `0,4-7`.
ANNOTATION_UNHEALTHY: Final = "supernode.dev/unhealthy-devices"

# --- variables in the worker container ----------------------------------------------------------------------------
# Path of the emulator's Unix socket (emulated pools only).
ENV_SOCKET: Final = "SUPERNODE_EMULATOR_SOCKET"
# Name of the job.
ENV_JOB: Final = "SUPERNODE_JOB"
# Namespace of the job.
ENV_NAMESPACE: Final = "SUPERNODE_NAMESPACE"
# Rank of this worker, from 0 (in worker and sidecar).
ENV_RANK: Final = "SUPERNODE_RANK"
# Number of workers in the job (in worker and sidecar).
ENV_WORKERS: Final = "SUPERNODE_WORKERS"
# Accelerators of this worker (in worker and sidecar).
ENV_DEVICES: Final = "SUPERNODE_DEVICES"
# Attempt this pod belongs to, from 0.
ENV_ATTEMPT: Final = "SUPERNODE_ATTEMPT"
# File that is empty until the gang is asked to save a checkpoint; then it holds the time of the request (RFC 3339).
ENV_CHECKPOINT_REQUEST: Final = "SUPERNODE_CHECKPOINT_REQUEST"
# Steps done at the last checkpoint that an earlier attempt has reported; absent when there is none.
ENV_CHECKPOINT_STEP: Final = "SUPERNODE_CHECKPOINT_STEP"
# Parallelism as JSON: tensor, pipeline, data, context, expert, microBatchSize, globalBatchSize, ...; of a gang that is
# placed by stages also stages (pool and layers of each) and rankOrder.
ENV_PARALLELISM: Final = "SUPERNODE_PARALLELISM"
# Devices that a process may use, as on a real DCU.
ENV_VISIBLE_DEVICES: Final = "HIP_VISIBLE_DEVICES"

# --- variables in the emulator sidecar --------------------------------------------------------------------------
# Chip to emulate: a catalogue name, or a JSON object with the fields of chipSpec.
ENV_CHIP: Final = "SUPERNODE_CHIP"
# Percent of the chip's compute units that each device has (1 to 100); default: 100.
ENV_DEVICE_CORES: Final = "SUPERNODE_DEVICE_CORES"
# Memory of each device in MiB; default: the chip's.
ENV_DEVICE_MEMORY: Final = "SUPERNODE_DEVICE_MEMORY_MIB"
# host:port where rank 0's sidecar gathers the addresses of all sidecars.
ENV_RENDEZVOUS: Final = "SUPERNODE_RENDEZVOUS"
# Address that this sidecar listens on (the pod's).
ENV_POD_IP: Final = "SUPERNODE_POD_IP"
# Secret shared by the sidecars of one job; never logged.
ENV_FABRIC_SECRET: Final = "SUPERNODE_FABRIC_SECRET"  # noqa: S105 (a name, not a secret)
# JSON: the link levels between the job's workers, and each worker's domain per level.
ENV_TOPOLOGY: Final = "SUPERNODE_TOPOLOGY"
# Seconds that a collective waits for a rank before it fails with that rank's name.
ENV_FABRIC_TIMEOUT: Final = "SUPERNODE_FABRIC_TIMEOUT"
# auto: collectives go through memory between pods on one host, through TCP to others; tcp: through TCP only.
ENV_FABRIC_TRANSPORT: Final = "SUPERNODE_FABRIC_TRANSPORT"
# Pieces of work that each emulated device keeps for a trace; 0: none.
ENV_TRACE_EVENTS: Final = "SUPERNODE_TRACE_EVENTS"

# --- variables of the local cluster -----------------------------------------------------------------------------
# Directory of all local clusters of a user, instead of /tmp/supernode-UID; short, because Unix sockets lie below it.
ENV_LOCAL_DIRECTORY: Final = "SUPERNODE_LOCAL_DIR"
# Set in every process of a local cluster, so that none is left behind when it ends.
ENV_LOCAL_MARK: Final = "SUPERNODE_LOCAL_MARK"
# File for a container's termination message, set in every container of a local cluster.
ENV_TERMINATION_LOG: Final = "TERMINATION_LOG"

# --- ports and files in a pod ---------------------------------------------------------------------------------
# TCP port of the sidecar's fabric (collectives between pods).
PORT_FABRIC: Final = 29400
# HTTP port of the sidecar: /metrics, /healthz, /readyz, /progress, /trace.
PORT_EMULATOR_HTTP: Final = 29401
# HTTP port of the operator's metrics.
PORT_OPERATOR_METRICS: Final = 9090
# HTTP port of the operator's /healthz and /readyz.
PORT_OPERATOR_HEALTH: Final = 8081
# Directory shared by worker and sidecar (an emptyDir in memory): socket and shared tensors.
EMULATOR_DIRECTORY: Final = "/var/run/supernode"
# Unix socket at which the sidecar serves the worker.
EMULATOR_SOCKET: Final = f"{EMULATOR_DIRECTORY}/emulator.sock"

# --- other names ----------------------------------------------------------------------------------------------
# Name of the sidecar container.
EMULATOR_CONTAINER: Final = "supernode-emulator"
# Name of the volume that sidecar and worker share.
EMULATOR_VOLUME: Final = "supernode-emulator"
# Name of the volume with what the operator asks of a running worker.
REQUESTS_VOLUME: Final = "supernode-requests"
# Where that volume is mounted in the first container.
REQUESTS_DIRECTORY: Final = "/etc/supernode"
# `spec.managedBy` of the jobs that this operator looks after.
MANAGER: Final = "supernode.dev/operator"
# `schedulerName` of a job's pods: the operator itself, which sets their node.
SCHEDULER_NAME: Final = "supernode"
# Field manager of what the operator writes, as `--show-managed-fields` shows it.
FIELD_MANAGER: Final = "supernode"
# Finalizer of jobs and of emulated pools: it goes when the last pod is gone, or the devices are withdrawn.
FINALIZER: Final = "supernode.dev/finalizer"
# Lease in kube-system that makes one operator active per cluster.
LEASE_NAME: Final = "supernode-operator"
