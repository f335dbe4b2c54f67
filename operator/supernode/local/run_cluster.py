"""A whole local cluster: API server, nodes, controllers, the operator; started in order, and taken down in reverse.

In: a `Plan`. Out: a running cluster, and nothing at all after `stop`. Not here: the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from supernode.errors import ClusterError, LocalError, NotFoundError
from supernode.local.agent.agent import AgentSettings, NodeAgent
from supernode.local.agent.images import ImageTable
from supernode.local.agent.sandbox import BackOff
from supernode.local.agent.supervise import Warden
from supernode.local.apply import apply_objects
from supernode.local.client import KubeClient
from supernode.local.cluster_file import ClusterFile
from supernode.local.controllers.deployments import DeploymentController
from supernode.local.controllers.loop import Controller
from supernode.local.controllers.nodelife import NodeLifecycle
from supernode.local.controllers.replicasets import ReplicaSetController
from supernode.local.controllers.scheduler import DefaultScheduler
from supernode.local.engines import Engine, make_engine
from supernode.local.kubeconfig import kubeconfig
from supernode.local.operator_process import SupervisedProcess, operator_command
from supernode.local.state_directory import Record, StateDirectory
from supernode.names import LEASE_NAME, LEASE_NAMESPACE

Object = dict[str, Any]

_LEASE_SECONDS: Final = 60.0
_READY_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What cluster to run.

    Attributes:
        engine: name of the engine.
        cluster: its nodes, and objects to apply.
        crds: custom resource definitions to install; empty for a bare cluster.
        operator: run the operator.
        kubeconfig: further file to write the kubeconfig to, or None.
        images: further images: name -> command.
        back_off: restart delays of containers.
    """

    engine: str
    cluster: ClusterFile
    crds: tuple[Object, ...] = ()
    operator: bool = True
    kubeconfig: Path | None = None
    images: dict[str, Sequence[str]] = field(default_factory=dict)
    back_off: BackOff = field(default_factory=BackOff)


class LocalCluster:
    """One cluster: `await start()`, `await wait()` until it breaks, `await stop()`.

    Args:
        plan: what to run.
        state: its directory, with the lock taken.
        say: told about progress, one line each.
    """

    def __init__(self, plan: Plan, state: StateDirectory, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.state = state
        self._say = say
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self._engine: Engine | None = None
        self._operator: SupervisedProcess | None = None

    async def start(self) -> Record:
        """Start everything, and return when it is ready. Call `stop` also when this fails."""
        plan, state = self.plan, self.state
        self._record("starting")
        warden = Warden(state.mark)
        await warden.start()
        self._stack.push_async_callback(warden.stop)
        engine = self._engine = make_engine(plan.engine, state.path, warden)
        self._say(f"starting the API server ({plan.engine})")
        self._stack.push_async_callback(engine.stop)
        await engine.start()
        self._write_kubeconfigs(engine)
        client = KubeClient(engine.connection)
        self._stack.push_async_callback(client.close)
        if plan.crds:
            self._say(f"installing {len(plan.crds)} custom resource definitions")
            await apply_objects(client, plan.crds)
        self._start_controllers(engine)
        self._say(f"starting {len(plan.cluster.nodes)} nodes")
        settings = AgentSettings(state.path, state.memory, ImageTable(plan.images), plan.back_off, engine.kubelet_tls)
        agent = NodeAgent(engine.connection, plan.cluster.nodes, settings, warden)
        self._stack.push_async_callback(agent.stop)
        await agent.start()
        await self._nodes_ready(client)
        if plan.cluster.objects:
            self._say(f"applying {len(plan.cluster.objects)} objects of the cluster file")
            await self._apply_known(client)
        if plan.operator:
            self._say("starting the operator")
            self._operator = SupervisedProcess(
                operator_command(state.kubeconfig), state.operator_log, warden, {"KUBECONFIG": str(state.kubeconfig)}
            )
            self._operator.start()
            self._stack.push_async_callback(self._operator.stop)
            await self._operator_leads(client)
        return self._record("ready")

    async def wait(self) -> str:
        """Return, with a message, when the cluster has broken by itself."""
        if self._engine is None:
            raise LocalError("the cluster has not been started")
        return await self._engine.failed()

    async def stop(self) -> None:
        """Take everything down in reverse, and remove all files."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._stack.aclose()
        finally:
            await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        self.state.remove()
        extra = self.plan.kubeconfig
        if extra is not None and is_ours(extra, self.state.name):
            extra.unlink(missing_ok=True)

    def _start_controllers(self, engine: Engine) -> None:
        wanted: list[Callable[[KubeClient], Controller]] = []
        if "workloads" in engine.missing_controllers:
            wanted += [DeploymentController, ReplicaSetController]
        if "scheduler" in engine.missing_controllers:
            wanted.append(DefaultScheduler)
        if "nodelife" in engine.missing_controllers:
            wanted.append(NodeLifecycle)
        client = KubeClient(engine.connection, user_agent="supernode-controllers")
        self._stack.push_async_callback(client.close)
        for make in wanted:
            self._begin(make(client).run())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_complain)
        self._tasks.append(task)

    def _write_kubeconfigs(self, engine: Engine) -> None:
        connection = engine.connection
        name = context_name(self.state.name)
        text = yaml.safe_dump(kubeconfig(name, connection.url, connection.token or "", connection.ca), sort_keys=False)
        for path in filter(None, (self.state.kubeconfig, self.plan.kubeconfig)):
            if path.exists() and not is_ours(path, self.state.name):
                raise LocalError(f"{path} is a kubeconfig for something else; choose another --kubeconfig")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(text)

    async def _nodes_ready(self, client: KubeClient) -> None:
        wanted = {node["metadata"]["name"] for node in self.plan.cluster.nodes}
        async with _limit(_READY_SECONDS, "the nodes did not become Ready"):
            while True:
                nodes = (await client.get("/api/v1/nodes")).get("items") or []
                if wanted <= {node["metadata"]["name"] for node in nodes if node_ready(node)}:
                    return
                await asyncio.sleep(0.1)

    async def _apply_known(self, client: KubeClient) -> None:
        skipped = await apply_objects(client, self.plan.cluster.objects, skip_unknown=not self.plan.crds)
        for obj in skipped:
            self._say(f"  skipped {obj['kind']} {obj['metadata']['name']}: a bare cluster has no such kind")

    async def _operator_leads(self, client: KubeClient) -> None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases/{LEASE_NAME}"
        async with _limit(_LEASE_SECONDS, f"the operator did not take its lease; its log: {self.state.operator_log}"):
            while True:
                with contextlib.suppress(NotFoundError):
                    if (await client.get(path)).get("spec", {}).get("holderIdentity"):
                        return
                if self._operator is not None and self._operator.restarts >= 2:
                    raise LocalError(f"the operator keeps ending; its log: {self.state.operator_log}{self._log_end()}")
                await asyncio.sleep(0.1)

    def _log_end(self) -> str:
        lines = self.state.operator_log.read_text(errors="replace").strip().splitlines()[-5:]
        return "".join(f"\n  {line}" for line in lines)

    def _record(self, state: str) -> Record:
        record = Record(
            name=self.state.name,
            pid=os.getpid(),
            engine=self.plan.engine,
            url=self._engine.connection.url if self._engine and state == "ready" else "",
            kubeconfig=str(self.plan.kubeconfig or self.state.kubeconfig),
            nodes=len(self.plan.cluster.nodes),
            started=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            operator=self.plan.operator,
            operator_log=str(self.state.operator_log) if self.plan.operator else "",
            log=str(self.state.log),
            state=state,
        )
        self.state.write(record)
        return record


def context_name(name: str) -> str:
    """Name of a cluster's kubeconfig context."""
    return f"supernode-{name}"


def is_ours(path: Path, name: str) -> bool:
    """Whether a kubeconfig file is one that we wrote for this cluster."""
    try:
        config = yaml.safe_load(path.read_text())
        return [entry["name"] for entry in config["contexts"]] == [context_name(name)]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False


def node_ready(node: Object) -> bool:
    """Whether a node's Ready condition is True."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


@contextlib.asynccontextmanager
async def _limit(seconds: float, message: str) -> Any:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise LocalError(f"{message} within {seconds:g} s") from exc
    except ClusterError as exc:
        raise LocalError(f"{message}: {exc}") from exc


def _complain(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a controller of the local cluster has ended", exc_info=error)
