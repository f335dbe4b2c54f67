"""How the workers of a gang find each other: the variables each framework reads, by its own documentation.

Pure. Flows in: the gang's names and sizes. Flows out: ordered (name, value) pairs for one worker, and an MPI hostfile.
All counts here are of processes as the framework starts them: one launcher (torchrun, msrun, mpirun ...) per pod
that drives all accelerators of the pod.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

# Port of the framework's own rendezvous, as torchrun's default.
PORT_MASTER: Final = 29500
# TensorFlow's customary worker port.
PORT_TENSORFLOW: Final = 2222
# PaddlePaddle's customary first trainer port.
PORT_PADDLE: Final = 6170
# MindSpore's customary scheduler port.
PORT_MINDSPORE: Final = 8118
# Where the hostfile is mounted, as Kubeflow's MPI operator does.
MPI_DIRECTORY: Final = "/etc/mpi"
MPI_HOSTFILE: Final = f"{MPI_DIRECTORY}/hostfile"
# The same list as MPICH and Intel MPI read it: their launcher (hydra) refuses the word `slots`.
MPI_MACHINEFILE: Final = f"{MPI_DIRECTORY}/machinefile"

#: Bytes that Linux lets one string of a program's environment have, NAME=VALUE and its end (MAX_ARG_STRLEN, execve(2)).
LONGEST_VARIABLE: Final = 32 * 4096
#: Bytes that the API server lets the data of a ConfigMap have, which holds MPI's lists of hosts beside the wiring.
LARGEST_CONFIG_MAP: Final = 2**20
_WIRING: Final = 2**18
# Workers whose names are never too long: 253 characters for a job, 63 for its namespace.
_NEVER_TOO_MANY: Final = 300

Variables = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Gang:
    """Names and sizes of a gang: `job` in `namespace`, `workers` pods with `devices` accelerators each."""

    job: str
    namespace: str
    workers: int
    devices: int

    def hostname(self, rank: int) -> str:
        """Name of a worker's pod, also its hostname."""
        return f"{self.job}-worker-{rank}"

    def address(self, rank: int) -> str:
        """DNS name of a worker in the cluster."""
        return f"{self.hostname(rank)}.{self.job}.{self.namespace}.svc"


def variables(framework: str, gang: Gang, rank: int) -> Variables:
    """What worker `rank` needs in its environment.

    Args:
        framework: a value of ``spec.framework``; ``None`` (the word) gives nothing.
        gang: names and sizes.
        rank: 0 .. workers - 1.

    Raises:
        KeyError: a framework that the API doesn't know.
    """
    return _FRAMEWORKS[framework](gang, rank)


def frameworks() -> frozenset[str]:
    """All values of ``spec.framework`` known here."""
    return frozenset(_FRAMEWORKS)


def overflow(framework: str, gang: Gang, taken: Collection[str] = ()) -> tuple[str, int, int] | None:
    """What the addresses of all workers are too long for: a variable or file, its bytes and how many it may have.

    Args:
        framework: a value of ``spec.framework``.
        gang: names and sizes.
        taken: variables that the template sets itself.
    """
    if gang.workers <= _NEVER_TOO_MANY:
        return None
    if framework == "MPI":
        size, most = len(hostfile(gang)) + len(machinefile(gang)), LARGEST_CONFIG_MAP - _WIRING
        return ("the lists of hosts", size, most) if size > most else None
    asked = (
        pair for rank in (0, gang.workers - 1) for pair in variables(framework, gang, rank) if pair[0] not in taken
    )
    name, size = max(
        ((name, len(name) + len(value) + 2) for name, value in asked), key=lambda each: each[1], default=("", 0)
    )
    return (name, size, LONGEST_VARIABLE) if size > LONGEST_VARIABLE else None


def most_workers(framework: str, gang: Gang, taken: Collection[str] = ()) -> int:
    """The largest number of workers with these names that `overflow` has nothing against."""
    fits, too_many = 1, gang.workers + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if overflow(framework, replace(gang, workers=middle), taken) is None:
            fits = middle
        else:
            too_many = middle
    return fits


def hostfile(gang: Gang) -> str:
    """An OpenMPI and DeepSpeed hostfile: a line per worker, in rank order, a slot per accelerator."""
    return "".join(f"{gang.address(rank)} slots={max(gang.devices, 1)}\n" for rank in range(gang.workers))


def machinefile(gang: Gang) -> str:
    """The same for MPICH and Intel MPI."""
    return "".join(f"{gang.address(rank)}:{max(gang.devices, 1)}\n" for rank in range(gang.workers))


def _none(gang: Gang, rank: int) -> Variables:
    return ()


def _pytorch(gang: Gang, rank: int) -> Variables:
    # torchrun reads PET_<ARGUMENT> for every argument it has (torch.distributed.argparse_util.env). RANK and
    # WORLD_SIZE count pods; torchrun gives each of its processes its own.
    master = gang.address(0)
    return (
        ("MASTER_ADDR", master),
        ("MASTER_PORT", str(PORT_MASTER)),
        ("WORLD_SIZE", str(gang.workers)),
        ("RANK", str(rank)),
        ("PET_NNODES", str(gang.workers)),
        ("PET_NODE_RANK", str(rank)),
        ("PET_NPROC_PER_NODE", str(max(gang.devices, 1))),
        ("PET_MASTER_ADDR", master),
        ("PET_MASTER_PORT", str(PORT_MASTER)),
    )


def _mpi(gang: Gang, rank: int) -> Variables:
    # OpenMPI 4 (orte) and 5 (prte), MPICH and Intel MPI (hydra) each have their own word for the list of hosts.
    return (
        ("OMPI_MCA_orte_default_hostfile", MPI_HOSTFILE),
        ("PRTE_MCA_prte_default_hostfile", MPI_HOSTFILE),
        ("HYDRA_HOST_FILE", MPI_MACHINEFILE),
        ("I_MPI_HYDRA_HOST_FILE", MPI_MACHINEFILE),
        ("DLTS_HOSTFILE", MPI_HOSTFILE),
        ("MASTER_ADDR", gang.address(0)),
        ("MASTER_PORT", str(PORT_MASTER)),
    )


def _jax(gang: Gang, rank: int) -> Variables:
    # jax.distributed.initialize() reads the address; programs hand it the other two. Kubeflow's JAXJob sets the names
    # without JAX_.
    master = gang.address(0)
    return (
        ("JAX_COORDINATOR_ADDRESS", f"{master}:{PORT_MASTER}"),
        ("JAX_NUM_PROCESSES", str(gang.workers)),
        ("JAX_PROCESS_ID", str(rank)),
        ("COORDINATOR_ADDRESS", master),
        ("COORDINATOR_PORT", str(PORT_MASTER)),
        ("NUM_PROCESSES", str(gang.workers)),
        ("PROCESS_ID", str(rank)),
    )


def _tensorflow(gang: Gang, rank: int) -> Variables:
    workers = [f"{gang.address(other)}:{PORT_TENSORFLOW}" for other in range(gang.workers)]
    config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
    return (("TF_CONFIG", json.dumps(config, separators=(",", ":"))),)


def _paddle(gang: Gang, rank: int) -> Variables:
    # The launcher takes itself for the master only where the master's address is its own IP address or 127.0.0.1 letter
    # by letter; a DNS name never is, and the job would wait for a master for ever (seen in PaddlePaddle 3.3). It takes
    # the first of the endpoints for the master too.
    hosts = [gang.address(other) if other or rank else "127.0.0.1" for other in range(gang.workers)]
    endpoints = [f"{host}:{PORT_PADDLE}" for host in hosts]
    return (
        ("PADDLE_MASTER", f"{hosts[0]}:{PORT_MASTER}"),
        ("PADDLE_NNODES", str(gang.workers)),
        ("PADDLE_RANK", str(rank)),
        ("PADDLE_NPROC_PER_NODE", str(max(gang.devices, 1))),
        ("PADDLE_JOB_ID", gang.job),
        ("PADDLE_TRAINER_ID", str(rank)),
        ("PADDLE_TRAINERS_NUM", str(gang.workers)),
        ("PADDLE_TRAINER_ENDPOINTS", ",".join(endpoints)),
        ("PADDLE_CURRENT_ENDPOINT", endpoints[rank]),
    )


def _mindspore(gang: Gang, rank: int) -> Variables:
    # Dynamic cluster start: the scheduler lives on rank 0, every accelerator is one worker process.
    return (
        ("MS_SCHED_HOST", gang.address(0)),
        ("MS_SCHED_PORT", str(PORT_MINDSPORE)),
        ("MS_WORKER_NUM", str(gang.workers * max(gang.devices, 1))),
        ("MS_ROLE", "MS_WORKER"),
        ("MS_NODE_RANK", str(rank)),
    )


_FRAMEWORKS: Final[dict[str, Callable[[Gang, int], Variables]]] = {
    "None": _none,
    "PyTorch": _pytorch,
    "MPI": _mpi,
    "JAX": _jax,
    "TensorFlow": _tensorflow,
    "PaddlePaddle": _paddle,
    "MindSpore": _mindspore,
}
