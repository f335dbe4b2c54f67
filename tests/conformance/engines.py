"""The API servers that the suite runs against: the embedded one, and the real kube-apiserver.

An `Engine` is what a test may know: where the server listens, a token that may do everything, a kubeconfig.
The real one is started from `KUBEBUILDER_ASSETS` (envtest's own convention): etcd and kube-apiserver, and
kube-controller-manager where the folder has it, because collecting garbage and emptying namespaces is its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HISTORY = 400  # changes that the embedded server remembers here
ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
# What the controller manager does that the embedded server has built in; everything else stays off.
CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)


@dataclass(frozen=True)
class Engine:
    """One running API server."""

    name: str
    url: str
    token: str
    kubeconfig: Path
    controllers: bool  # garbage, namespaces and default service accounts are looked after


def write_kubeconfig(path: Path, url: str, token: str) -> Path:
    """A kubeconfig for `url`; certificates are not checked (the real server signs its own)."""
    cluster: dict[str, object] = {"server": url}
    if url.startswith("https:"):
        cluster["insecure-skip-tls-verify"] = True
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def embedded(directory: Path) -> Iterator[Engine]:
    """The embedded server, in a thread with its own event loop, as `supernode local up` runs it in its own process."""
    from supernode.local.server import ApiServer, make_certificate

    token = secrets.token_hex(8)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded-api-server", daemon=True)
    thread.start()
    # A short history, so that it can be outrun in a test.
    server = ApiServer(token=token, certificate=make_certificate(), history=HISTORY)
    url = asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
    try:
        kubeconfig = write_kubeconfig(directory / "embedded.kubeconfig", url, token)
        yield Engine("embedded", url, token, kubeconfig, True)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
        # Closed TLS connections still say goodbye: a loop that ends before leaves their sockets open.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.3), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def _wait_for(url: str, context: ssl.SSLContext | None, deadline: float, process: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=context):
                return
        except (urllib.error.URLError, OSError) as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not come up: {exc}") from exc
            time.sleep(0.1)


@contextlib.contextmanager
def _process(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def real(directory: Path) -> Iterator[Engine]:
    """etcd and kube-apiserver, and kube-controller-manager where there is one."""
    assets = Path(ASSETS)
    client, peer, secure = free_ports(3)
    token = secrets.token_hex(8)
    key, tokens = directory / "sa.key", directory / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    url = f"https://127.0.0.1:{secure}"
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    etcd = [str(assets / "etcd"), "--unsafe-no-fsync", f"--data-dir={directory / 'etcd'}"]
    etcd += [f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}"]
    etcd += [f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}"]
    etcd += [f"--initial-cluster=default=http://127.0.0.1:{peer}", "--log-level=error"]
    server = [str(assets / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={secure}"]
    server += ["--bind-address=127.0.0.1", f"--cert-dir={directory / 'certs'}", "--authorization-mode=RBAC,Node"]
    server += ["--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"]
    server += [f"--service-account-signing-key-file={key}", f"--token-auth-file={tokens}"]
    server += ["--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true"]
    server += ["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"]
    kubeconfig = write_kubeconfig(directory / "real.kubeconfig", url, token)
    manager_binary = assets / "kube-controller-manager"
    manager = [str(manager_binary), f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]
    manager += [f"--controllers={','.join(CONTROLLERS)}", "--bind-address=127.0.0.1"]
    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + 90
        started = stack.enter_context(_process(etcd, directory / "etcd.log"))
        _wait_for(f"http://127.0.0.1:{client}/health", None, deadline, started)
        started = stack.enter_context(_process(server, directory / "kube-apiserver.log"))
        _wait_for(f"{url}/readyz", context, deadline, started)
        if manager_binary.exists():
            stack.enter_context(_process(manager, directory / "kube-controller-manager.log"))
        yield Engine("real", url, token, kubeconfig, manager_binary.exists())


STARTERS = {"embedded": embedded, "real": real}
