"""One pod on one of our nodes, from its admission to its removal from the API.

In: the pod as the API has it (again at each change). Out: processes, and the pod's status in the API. The order is a
kubelet's: volumes, init containers one by one, sidecars in between each started before the next, then all containers;
at the end containers first, sidecars in reverse order.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from pathlib import Path
from typing import Any, Final

from supernode.errors import ClusterError, LocalError
from supernode.local.agent import volumes
from supernode.local.agent.access import PodAccess
from supernode.local.agent.container import Container, timestamp
from supernode.local.agent.environment import ConfigError
from supernode.local.agent.sandbox import Sandbox
from supernode.local.agent.status import PodFacts, pod_status, with_own_conditions
from supernode.local.agent.status_writer import StatusWriter

Object = dict[str, Any]

# Sidecars get at least this long to end after the containers, as in a kubelet.
_SIDECAR_GRACE: Final = 2.0
_RETRY_LIMIT: Final = 10.0
_log = logging.getLogger(__name__)


class PodRunner:
    """Runs one pod. `start` once, `update` at each change, `terminate` or `vanish` to end it."""

    def __init__(self, pod: Object, access: PodAccess) -> None:
        self.pod = pod
        self.containers: list[Container] = []
        self.admitted = False
        self.finished = asyncio.Event()
        self._access = access
        self._start_time = (pod.get("status") or {}).get("startTime") or timestamp()
        self._resumed = bool((pod.get("status") or {}).get("startTime"))
        self._failure: tuple[str, str] | None = None
        self._prepared = False
        self._refreshing = asyncio.Lock()
        self._terminating = asyncio.Event()
        self._deadline: float | None = None
        self._changed = asyncio.Event()
        self._writer = StatusWriter(access.client, self.key, self.uid)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sandbox = self._make_sandbox()

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return str(self.pod["metadata"]["uid"])

    @property
    def log_directory(self) -> Path:
        """Where the pod's logs are, until it is gone from the API."""
        return self._access.log_directory

    @property
    def active(self) -> bool:
        """Whether the pod holds resources of its node."""
        return self.admitted and not self.finished.is_set()

    def container(self, name: str) -> Container | None:
        """A container by name."""
        return next((entry for entry in self.containers if entry.name == name), None)

    def start(self, after: asyncio.Event | None) -> None:
        """Begin; `after` is the end of an earlier pod of the same name, whose address this one has too."""
        self._keep(self._life(after))
        self._keep(self._writer.run(self._changed, self._status, self._leaves))

    def update(self, pod: Object) -> None:
        """The API has a newer version of the pod."""
        told = [self.pod["metadata"].get(name) for name in ("labels", "annotations")]
        self.pod = pod
        self._sandbox.pod = self._effective(pod)
        if self._prepared and told != [pod["metadata"].get(name) for name in ("labels", "annotations")]:
            self._keep(self._refresh_volumes())
        if pod["metadata"].get("deletionTimestamp"):
            grace = pod["metadata"].get("deletionGracePeriodSeconds")
            self.terminate(float(30 if grace is None else grace))
        self._changed.set()

    def terminate(self, grace: float) -> None:
        """End the pod; a second call may shorten the grace period (seconds)."""
        deadline = time.monotonic() + grace
        if self._deadline is not None and deadline >= self._deadline:
            return
        first = self._deadline is None
        self._deadline = deadline
        self._terminating.set()
        for container in self.containers:
            if container.role != "sidecar" or not first:
                if first and "running" in container.state:
                    self._event("Normal", "Killing", f"Stopping container {container.name}", container.name)
                self._keep(container.stop(grace))

    def vanish(self) -> None:
        """The pod is no longer in the API: end it quickly, write nothing."""
        self._writer.stop()
        self.terminate(min(_SIDECAR_GRACE, float(self.pod["spec"].get("terminationGracePeriodSeconds") or 0)))
        self._changed.set()

    async def cancel(self) -> None:
        """Stop everything at once, for the end of the agent; processes are killed by the warden."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- life --------------------------------------------------------------------------------------------------------

    async def _life(self, after: asyncio.Event | None) -> None:
        try:
            if after is not None:
                await after.wait()
            await self._run()
        except LocalError as exc:
            self._failure = ("AgentError", str(exc))
        except Exception as exc:
            _log.exception("pod %s/%s", *self.key)
            self._failure = ("AgentError", f"{type(exc).__name__}: {exc}")
        finally:
            await self._stop_sidecars()
            await asyncio.to_thread(self._clean)
            self.finished.set()
            self._changed.set()

    async def _run(self) -> None:
        lost = self._resumed and self._take_over()
        if lost:
            return
        self._failure = await self._access.admit(self.pod)
        if self._failure is not None:
            self._event("Warning", *self._failure)
            return
        spec = self.pod["spec"]
        roles = [
            ("sidecar" if entry.get("restartPolicy") == "Always" else "init", entry)
            for entry in spec.get("initContainers") or []
        ]
        roles += [("main", entry) for entry in spec["containers"]]
        restarts = self._earlier_restarts()
        for role, entry in roles:
            container = Container(entry, role, self._sandbox, self._access.services, self._changed.set)
            container.restarts = restarts.get(entry["name"], 0)
            self.containers.append(container)
        self._changed.set()
        if seconds := spec.get("activeDeadlineSeconds"):
            self._keep(self._limit(float(seconds)))
        if not await self._make_volumes():
            return
        self._prepared = True
        self._changed.set()
        policy = spec.get("restartPolicy") or "Always"
        if not await self._initialise(policy):
            return
        main = [container for container in self.containers if container.role == "main"]
        for container in main:
            self._keep(container.supervise(container.spec.get("restartPolicy") or policy))
        await asyncio.gather(*(container.finished.wait() for container in main))

    async def _initialise(self, policy: str) -> bool:
        """Init containers in order; False if the pod ends here."""
        for container in self.containers:
            if container.role == "main":
                break
            if self._terminating.is_set():
                return False
            if container.role == "sidecar":
                self._keep(container.supervise("Always"))
                await self._first(container.has_started, container.finished, self._terminating)
            else:
                self._keep(container.supervise("Never" if policy == "Never" else "OnFailure"))
                await container.finished.wait()
                if container.exit_code != 0:
                    return False
        return not self._terminating.is_set()

    async def _stop_sidecars(self) -> None:
        for container in reversed(self.containers):
            if container.role != "sidecar" or container.finished.is_set():
                continue
            if self._deadline is not None:
                grace = max(self._deadline - time.monotonic(), _SIDECAR_GRACE)
            else:
                grace = float(self.pod["spec"].get("terminationGracePeriodSeconds") or 30)
            await container.stop(grace)

    def _volume_context(self) -> volumes.VolumeContext:
        return volumes.VolumeContext(
            directory=self._access.directory,
            memory_directory=self._access.memory_directory,
            lookup=self._access.lookup,
            token=self._token,
            rewrite=self._access.rewrite,
            allocatable=self._access.allocatable,
        )

    async def _refresh_volumes(self) -> None:
        """Labels or annotations have changed: the files that tell of them follow."""
        async with self._refreshing:
            try:
                await volumes.refresh_volumes(self._sandbox.pod, self._volume_context())
            except (ConfigError, OSError) as exc:
                self._event("Warning", "FailedMount", f"MountVolume.SetUp failed: {exc}")

    async def _make_volumes(self) -> bool:
        context = self._volume_context()
        delay = 0.5
        while not self._terminating.is_set():
            try:
                self._sandbox.volumes = await volumes.make_volumes(self._sandbox.pod, context)
                await self._give_kubeconfig()
            except (ConfigError, ClusterError) as exc:
                self._event("Warning", "FailedMount", f"MountVolume.SetUp failed: {exc}")
                await self._pause(delay)
                delay = min(delay * 2, _RETRY_LIMIT)
            else:
                return True
        return False

    async def _give_kubeconfig(self) -> None:
        """A pod with a service account of its own gets a kubeconfig; the variable is set in all its containers."""
        spec = self.pod["spec"]
        account = spec.get("serviceAccountName") or "default"
        mounted = any(
            mount["mountPath"].rstrip("/") == volumes.SERVICE_ACCOUNT_PATH
            for entry in (*spec["containers"], *(spec.get("initContainers") or []))
            for mount in entry.get("volumeMounts") or []
        )
        if spec.get("automountServiceAccountToken") is False or (account == "default" and not mounted):
            return
        token = await self._token(account, "", 24 * 3600)
        path = self._access.directory / "kubeconfig"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(self._access.kubeconfig(token))
        self._sandbox.kubeconfig = path

    async def _token(self, account: str, audience: str, seconds: int) -> str:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds, "audiences": [audience] if audience else []},
        }
        path = f"/api/v1/namespaces/{self.key[0]}/serviceaccounts/{account}/token"
        answer = await self._access.client.create(path, body)
        return str(answer["status"]["token"])

    async def _limit(self, seconds: float) -> None:
        await self._first(self.finished, seconds=seconds)
        if not self.finished.is_set() and not self._terminating.is_set():
            self._failure = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
            self._event("Normal", *self._failure)
            self.terminate(float(self.pod["spec"].get("terminationGracePeriodSeconds") or 30))

    def _take_over(self) -> bool:
        """A pod that another agent had started: its processes are gone. True if that is its end."""
        if (self.pod["spec"].get("restartPolicy") or "Always") != "Never":
            return False
        statuses = (self.pod.get("status") or {}).get("containerStatuses") or []
        if not any("waiting" not in entry.get("state", {}) for entry in statuses):
            return False
        message = "The node agent was restarted and the pod's processes are gone"
        for entry in self.pod["spec"]["containers"]:
            container = Container(entry, "main", self._sandbox, self._access.services, self._changed.set)
            old: Object = next((status["state"] for status in statuses if status["name"] == entry["name"]), {})
            lost = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": message}}
            container.state = old if "terminated" in old else lost
            self.containers.append(container)
        self._failure = ("NodeAgentRestarted", message)
        return True

    def _earlier_restarts(self) -> dict[str, int]:
        status = self.pod.get("status") or {}
        entries = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        return {
            entry["name"]: int(entry.get("restartCount") or 0) + ("waiting" not in entry.get("state", {}))
            for entry in entries
        }

    # --- status ------------------------------------------------------------------------------------------------------

    def _leaves(self) -> bool:
        """Whether the pod has ended and is to be removed from the API."""
        return self.finished.is_set() and bool(self.pod["metadata"].get("deletionTimestamp"))

    def _status(self) -> Object:
        facts = PodFacts(
            address=self._access.address if self.admitted else "",
            host=self._access.host,
            start_time=self._start_time,
            prepared=self._prepared,
            finished=self.finished.is_set(),
            failure=self._failure,
            now=timestamp(),
        )
        # Copied, because containers change their states while this one is being sent.
        pod = {**self.pod, "status": with_own_conditions(self.pod.get("status") or {}, self._writer.sent)}
        return copy.deepcopy(pod_status(pod, self.containers, facts))

    # --- small parts --------------------------------------------------------------------------------------------------

    def _make_sandbox(self) -> Sandbox:
        access = self._access
        return Sandbox(
            pod=self._effective(self.pod),
            address=access.address,
            directory=access.directory,
            log_directory=access.log_directory,
            lookup=access.lookup,
            allocatable=access.allocatable,
            rewrite=access.rewrite,
            event=self._event,
        )

    def _effective(self, pod: Object) -> Object:
        """The pod with the addresses that its containers may ask for."""
        own = {
            "podIP": self._access.address,
            "podIPs": [{"ip": self._access.address}],
            "hostIP": self._access.host,
            "hostIPs": [{"ip": self._access.host}],
        }
        return {**pod, "status": {**(pod.get("status") or {}), **own}}

    def _clean(self) -> None:
        volumes.remove(self._access.directory)
        volumes.remove(self._access.memory_directory)

    def _event(self, kind: str, reason: str, message: str, container: str = "") -> None:
        self._access.event(self.pod, kind, reason, message, container)

    async def _pause(self, seconds: float) -> None:
        await self._first(self._terminating, seconds=seconds)

    async def _first(self, *events: asyncio.Event, seconds: float | None = None) -> None:
        """Wait for the first of some events, or the time."""
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("pod %s/%s lost a task", *self.key, exc_info=error)
