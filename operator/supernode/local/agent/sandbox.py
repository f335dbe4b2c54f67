"""What containers share: the services of the agent, the state of their pod, and how a command is set up in it.

In: a pod and a container's spec. Out: a `Launch` (argument vector, environment, directory) or a `StartError` with the
reason that a kubelet gives. Not here: running it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from supernode.errors import LocalError
from supernode.local.agent.environment import ConfigError, Lookup, container_environment
from supernode.local.agent.images import ImageTable, resolve_program
from supernode.local.agent.substitute import PathMap, expand_references
from supernode.local.agent.supervise import Warden
from supernode.local.agent.volumes import mounts_of, path_map
from supernode.names import ENV_TERMINATION_LOG

Object = dict[str, Any]

_TERMINATION_PATH: Final = "/dev/termination-log"
# Variables of the agent that its pods' processes need to run the same interpreter and libraries.
_INHERITED: Final = ("PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "TZ")


@dataclass(frozen=True)
class BackOff:
    """Seconds between restarts of a failing container: the first is immediate, then `base`, doubling up to `limit`;
    a run of `reset` seconds starts over. Kubernetes' figures are the defaults."""

    base: float = 10.0
    limit: float = 300.0
    reset: float = 600.0


@dataclass(frozen=True)
class Services:
    """What all pods of an agent share."""

    warden: Warden
    images: ImageTable
    http: aiohttp.ClientSession
    back_off: BackOff


@dataclass
class Sandbox:
    """One pod's place on this machine. `pod` carries the newest spec and metadata, and our own address in its status.

    Attributes:
        pod: the pod.
        address: its address.
        directory: its directory; logs are elsewhere, they outlive it.
        log_directory: where its containers' logs go.
        lookup: finds secrets and config maps of its namespace.
        allocatable: its node's allocatable resources.
        rewrite: replaces names of pods by addresses.
        event: records an event on the pod: (type, reason, message, container or "").
        volumes: directories of its volumes, once they are made.
        kubeconfig: file for `KUBECONFIG`, if the pod has a service account token.
    """

    pod: Object
    address: str
    directory: Path
    log_directory: Path
    lookup: Lookup
    allocatable: Mapping[str, str]
    rewrite: Callable[[str], str]
    event: Callable[[str, str, str, str], None]
    volumes: dict[str, Path] = field(default_factory=dict)
    kubeconfig: Path | None = None

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return str(self.pod["metadata"]["uid"])

    @property
    def hostname(self) -> str:
        """The pod's host name."""
        return str(self.pod["spec"].get("hostname") or self.pod["metadata"]["name"])


class StartError(LocalError):
    """A container cannot be started now. `reason` is what its waiting state shows."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True)
class Launch:
    """A command, ready to run.

    Attributes:
        argv: argument vector.
        environment: all variables.
        directory: working directory.
        paths: the container's path map, for commands run in it later (probes, hooks).
    """

    argv: list[str]
    environment: dict[str, str]
    directory: Path
    paths: PathMap
    rewrite: Callable[[str], str]

    def command(self, argv: Sequence[str]) -> list[str]:
        """Another command in the same container."""
        return resolve_program([self.paths.apply(self.rewrite(argument)) for argument in argv])


async def prepare(container: Object, sandbox: Sandbox, services: Services) -> Launch:
    """Work out what to run for a container; StartError when it cannot be run (yet)."""
    image = services.images.find(container["image"])
    if image is None:
        reason = "ErrImageNeverPull" if container.get("imagePullPolicy") == "Never" else "ErrImagePull"
        raise StartError(reason, services.images.unknown(container["image"]))
    home = sandbox.directory / "c" / container["name"]
    temporary = sandbox.directory / "tmp"
    for needed in (home, temporary):
        needed.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        own = await container_environment(sandbox.pod, container, sandbox.lookup, sandbox.allocatable)
        mounts = mounts_of(container, sandbox.volumes, own)
    except ConfigError as exc:
        raise StartError("CreateContainerConfigError", str(exc)) from exc
    paths = path_map(mounts, container.get("terminationMessagePath") or _TERMINATION_PATH, termination_file(home))
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "HOSTNAME": sandbox.hostname,
        # For programs that would write to /dev/termination-log, which is not theirs on a shared machine.
        ENV_TERMINATION_LOG: str(termination_file(home)),
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        **image.environment,
    }
    if sandbox.kubeconfig is not None:
        environment["KUBECONFIG"] = str(sandbox.kubeconfig)
    environment |= {name: paths.apply(sandbox.rewrite(value)) for name, value in own.items()}
    head = [expand_references(text, own) for text in container.get("command") or ()] or list(image.entrypoint)
    # Arguments of the image's entry point itself are real paths already.
    argv = [*head, *(expand_references(text, own) for text in container.get("args") or ())]
    argv = resolve_program([paths.apply(sandbox.rewrite(argument)) for argument in argv])
    directory = _directory(paths.apply(container.get("workingDir") or ""), home)
    return Launch(argv, environment, directory, paths, sandbox.rewrite)


def termination_file(home: Path) -> Path:
    """The file that stands for a container's termination message path."""
    return home / ".termination-log"


def _directory(wanted: str, home: Path) -> Path:
    """A working directory: as named if this machine has it, else made inside the container's own directory."""
    if not wanted:
        return home
    directory = Path(wanted)
    if not directory.is_dir():
        directory = home / wanted.lstrip("/")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def find_program(argv: Sequence[str], environment: Mapping[str, str], directory: Path) -> str | None:
    """The path of a program, looked up in the container's own PATH; None when there is none."""
    name = argv[0]
    if "/" in name:
        path = directory / name
        return str(path) if path.is_file() and os.access(path, os.X_OK) else None
    return shutil.which(name, path=environment.get("PATH"))
