"""Other people's clients on the embedded server: Helm, kopf; and what it does on purpose to test ours."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from supernode.local.server import ApiServer, Faults, make_certificate

TOKEN = "t"
MAPS = "/api/v1/namespaces/default/configmaps"


def _kubeconfig(path: Path, url: str, pem: str) -> Path:
    authority = path.with_suffix(".pem")
    authority.write_text(pem)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


def _server(kubeconfig: Path) -> str:
    url: str = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    return url


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Path]:
    """A server with TLS; the value is its kubeconfig."""
    certificate = make_certificate()
    server = ApiServer(token=TOKEN, certificate=certificate)
    url = await server.start()
    yield _kubeconfig(tmp_path / "kubeconfig", url, certificate.pem)
    await server.stop()


async def _start(faults: Faults | None = None, history: int = 4096) -> tuple[ApiServer, aiohttp.ClientSession]:
    server = ApiServer(token=TOKEN, faults=faults, history=history)
    url = await server.start()
    return server, aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"})


async def _python(script: str, kubeconfig: Path, *arguments: str) -> str:
    """Run a script beside the server, which lives in this event loop."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(script),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


KOPF = """
    import asyncio, kopf

    stop = None

    @kopf.on.create("configmaps", labels={"mine": "yes"})
    def made(patch, **_):
        patch.metadata.annotations["seen"] = "yes"

    @kopf.on.delete("configmaps", labels={"mine": "yes"})
    def gone(**_):
        stop.set()

    async def main():
        global stop
        stop = asyncio.Event()
        await asyncio.wait_for(kopf.operator(namespaces=["default"], stop_flag=stop), 60)

    asyncio.run(main())
"""


async def test_kopf_runs_on_it(secure: Path) -> None:
    url = _server(secure)
    running = asyncio.create_task(_python(KOPF, secure))
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        body = {"metadata": {"name": "a", "labels": {"mine": "yes"}}}
        async with client.post(MAPS, json=body, ssl=False) as answer:
            assert answer.status == 201
        async with asyncio.timeout(60):
            while True:
                async with client.get(f"{MAPS}/a", ssl=False) as answer:
                    meta = (await answer.json())["metadata"]
                if meta.get("annotations", {}).get("seen") == "yes" and meta.get("finalizers"):
                    break
                await asyncio.sleep(0.1)
        async with client.delete(f"{MAPS}/a", ssl=False) as answer:
            assert "deletionTimestamp" in (await answer.json())["metadata"], "kopf's finalizer holds it"
        await running
        async with client.get(f"{MAPS}/a", ssl=False) as answer:
            assert answer.status == 404


HELM = """
    import sys
    import helm_python as helm

    config = helm.Config(kubeconfig_path=sys.argv[1], namespace="shop")
    config.install(helm.Chart.load(sys.argv[2]), "one", namespace="shop", create_namespace=True)
    print(config.status("one")["status"])
    config.close()
"""


@pytest.mark.helm
async def test_helm_installs_a_chart(secure: Path, tmp_path: Path) -> None:
    pytest.importorskip("helm_python", reason="needs helm-python-sdk")
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: small\nversion: 1.0.0\n")
    template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-map}\ndata: {a: b}\n"
    (chart / "templates" / "map.yaml").write_text(template)
    assert (await _python(HELM, secure, str(secure), str(chart))).endswith("deployed\n")
    url = _server(secure)
    async with (
        aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
        client.get("/api/v1/namespaces/shop/configmaps/one-map", ssl=False) as answer,
    ):
        found = await answer.json()
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


async def test_faults_are_injected_and_exempt_clients_spared() -> None:
    faults = Faults(seed=1, error=1.0, exempt=("calm",))
    server, client = await _start(faults)
    async with client:
        async with client.get("/api/v1/namespaces") as answer:
            assert answer.status == 500
            assert (await answer.json())["reason"] == "InternalError"
        async with client.get("/api/v1/namespaces", headers={"User-Agent": "calm/1"}) as answer:
            assert answer.status == 200
        async with client.get("/version") as answer:
            assert answer.status == 200
    await server.stop()
    assert faults.counts == {"error": 1}


async def test_a_lost_answer_was_a_write_all_the_same() -> None:
    server, client = await _start(Faults(lost_answer=1.0))
    async with client:
        async with client.post(MAPS, json={"metadata": {"name": "a"}}) as answer:
            assert answer.status == 500
        async with client.get(f"{MAPS}/a") as answer:
            assert answer.status == 200
    await server.stop()


async def test_watches_are_dropped_and_expire() -> None:
    server, client = await _start(Faults(drop_watch=1.0, drop_after=0.05))
    async with client, client.get(MAPS, params={"watch": "1"}) as answer:
        assert await answer.content.read() == b""
    await server.stop()
    server, client = await _start(Faults(expire_watch=1.0))
    async with client, client.get(MAPS, params={"watch": "1"}) as answer:
        event = json.loads(await answer.content.readline())
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    await server.stop()


async def test_a_watch_from_too_long_ago_gets_410() -> None:
    server, client = await _start(history=3)
    async with client:
        for number in range(6):
            async with client.post(MAPS, json={"metadata": {"name": f"m{number}"}}) as answer:
                assert answer.status == 201
        async with client.get(MAPS, params={"watch": "1", "resourceVersion": "1"}) as answer:
            assert json.loads(await answer.content.readline())["object"]["code"] == 410
    await server.stop()


async def test_stopping_ends_open_watches() -> None:
    server, client = await _start()
    async with client, client.get(MAPS, params={"watch": "1", "resourceVersion": "0"}) as answer:
        assert answer.status == 200
        async with asyncio.timeout(10):
            await server.stop()
            assert await answer.content.read() == b""


async def test_logs_come_from_the_node_of_the_pod() -> None:
    async def log(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(f"{request.path} {request.query_string}\n".encode())
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", log)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    server, client = await _start()
    async with client:
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        async with client.post("/api/v1/nodes", json={"metadata": {"name": "n"}, "status": status}) as answer:
            assert answer.status == 201
        pods = "/api/v1/namespaces/default/pods"
        spec = {"nodeName": "n", "containers": [{"name": "c", "image": "python"}]}
        async with client.post(pods, json={"metadata": {"name": "p"}, "spec": spec}) as answer:
            assert answer.status == 201
        async with client.get(f"{pods}/p/log", params={"follow": "true", "tailLines": "3"}) as answer:
            assert await answer.text() == "/containerLogs/default/p/c follow=true&tailLines=3\n"
        async with client.get(f"{pods}/p/log", params={"container": "x"}) as answer:
            assert (await answer.json())["message"] == "container x is not valid for pod p"
    await server.stop()
    await runner.cleanup()
