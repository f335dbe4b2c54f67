"""`supernode trace JOB` where pods have addresses of a network: the API server passes the question on to them."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.builders.manifests import a_job
from tests.wire.controlplane import ControlPlane
from tests.wire.operatorlab import install_definitions

from supernode import names
from supernode.chips import find_chip
from supernode.cli import main
from supernode.cluster.client import Client
from supernode.cluster.kinds import JOBS, PODS, Json, Kind
from supernode.emulator.client import connect
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.server import Server, ServerConfig

pytestmark = pytest.mark.envtest

NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
CHIP = find_chip("hygon-bw1000")


@pytest.fixture
def address() -> str:
    """An address of this machine that others could use: an API server reaches no pod at 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


@pytest.fixture
def sidecars(directory: Path, address: str) -> Callable[[int], Server]:
    """One device each, with a kernel in its trace."""

    def start(rank: int) -> Server:
        # They never find each other: what a device did alone is there all the same.
        fabric = FabricConfig(rank, 3, 1, listen_port=0, rendezvous="127.0.0.1:1", secret=b"x" * 32, chip=CHIP)
        server = Server(ServerConfig(CHIP, 1, directory / f"{rank}.sock", fabric, http_host=address))
        server.start()
        with connect(server.config.socket, environment={}) as emulator:
            emulator.devices[0].full(8, 1.0).numpy()
        return server

    return start


def a_pod(job: Json, rank: int, port: int | None) -> Json:
    """A worker's pod; without a port: one without an emulator."""
    metadata = {
        "name": f"{job['metadata']['name']}-worker-{rank}",
        "labels": {
            names.LABEL_JOB_UID: job["metadata"]["uid"],
            names.LABEL_RANK: str(rank),
            names.LABEL_ATTEMPT: "0",
        },
    }
    sidecar = {
        "name": names.EMULATOR_CONTAINER,
        "image": "supernode",
        "restartPolicy": "Always",
        "ports": [{"name": "emulator", "containerPort": port}],
    }
    spec = {"containers": [{"name": "worker", "image": "supernode"}], "initContainers": [sidecar] if port else []}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_the_api_server_is_the_way_to_the_emulators(
    real_cluster: ControlPlane,
    sidecars: Callable[[int], Server],
    address: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    servers = [sidecars(0), sidecars(1)]

    async def prepare() -> None:
        client = await Client.connect(str(real_cluster.admin))
        try:
            await install_definitions(client)
            await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            job = await client.create(JOBS, a_job(namespace=namespace), namespace)
            ports: list[Any] = [server.http and server.http.port for server in servers]
            for rank, port in enumerate([*ports, None]):
                pod = await client.create(PODS, a_pod(job, rank, port), namespace)
                where = {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}
                await client.patch(PODS, pod["metadata"]["name"], {"status": where}, namespace, subresource="status")
        finally:
            await client.close()

    def trace(*arguments: str) -> tuple[int, str, str]:
        asked = ["--kubeconfig", str(real_cluster.admin), "-n", namespace, *arguments]
        status = main(["trace", "gpt", *asked])
        return status, *capsys.readouterr()

    try:
        asyncio.run(prepare())
        out = tmp_path / "job.json"
        status, told, errors = trace("--file", str(out), "-o", "json")
        assert status == 0
        assert errors == "rank 2: no trace: its devices are hardware; only emulated ones keep a trace\n"
        assert [(device["rank"], device["events"]) for device in json.loads(told)["devices"]] == [(0, 2), (1, 2)]
        done = [(e["pid"], e["name"]) for e in json.loads(out.read_text())["traceEvents"] if e["ph"] == "X"]
        assert done == [(0, "full"), (0, "copy to host"), (1, "full"), (1, "copy to host")]
    finally:
        for server in servers:
            server.stop()
    # Those that do not answer are said, one by one, and nothing is written.
    status, told, errors = trace("--rank", "0,1", "--file", str(tmp_path / "none.json"))
    assert (status, told, len(errors.splitlines())) == (1, "", 2)
    assert errors.startswith("rank 0: no trace: ")
    assert not (tmp_path / "none.json").exists()
