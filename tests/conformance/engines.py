"""The API servers that the suite runs against: the embedded one, and the real kube-apiserver.

An `Engine` is what a test may know: where the server listens, a token that may do everything, a kubeconfig.
The real one is started from `KUBEBUILDER_ASSETS` (envtest's own convention): etcd and kube-apiserver, and
kube-controller-manager where the folder has it, because collecting garbage and emptying namespaces is its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.builders.kube import ASSETS, api_server, process, write_kubeconfig

HISTORY = 400  # changes that the embedded server remembers here
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


@contextlib.contextmanager
def real(directory: Path) -> Iterator[Engine]:
    """etcd and kube-apiserver, and kube-controller-manager where there is one."""
    token = secrets.token_hex(8)
    manager_binary = Path(ASSETS) / "kube-controller-manager"
    with contextlib.ExitStack() as stack:
        tokens = {token: 'admin,admin,"system:masters"'}
        url = stack.enter_context(api_server(directory, tokens, ["--allow-privileged=true"]))
        kubeconfig = write_kubeconfig(directory / "real.kubeconfig", url, token)
        manager = [str(manager_binary), f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        manager += [f"--controllers={','.join(CONTROLLERS)}", "--bind-address=127.0.0.1"]
        if manager_binary.exists():
            stack.enter_context(process(manager, directory / "kube-controller-manager.log"))
        yield Engine("real", url, token, kubeconfig, manager_binary.exists())


STARTERS = {"embedded": embedded, "real": real}
