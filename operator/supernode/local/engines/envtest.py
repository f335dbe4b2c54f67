"""The envtest engine: real etcd and kube-apiserver as child processes, and the controllers where they are there.

In: the folder of programs named by `KUBEBUILDER_ASSETS` (controller-runtime's envtest convention). Out: a running API
server on 127.0.0.1 with https, an administrator's token, and the certificate that the node agent's endpoint may serve
with. Nothing here needs openssl: kube-apiserver makes its own certificate, and a service account key is made by hand.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import signal
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from supernode.errors import LocalError
from supernode.local.agent.supervise import Warden, signal_group
from supernode.local.client import Connection, KubeClient
from supernode.local.kubeconfig import kubeconfig

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1
# PKCS "EC PRIVATE KEY" (RFC 5915) for P-256: version 1, 32 bytes, the curve's name. The public part is optional.
_EC_KEY_HEAD: Final = bytes.fromhex("30310201010420")
_EC_KEY_TAIL: Final = bytes.fromhex("a00a06082a8648ce3d030107")
# Order of the P-256 group (FIPS 186-4); a private key lies in [1, order - 1].
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def find_assets() -> Path:
    """The folder that `KUBEBUILDER_ASSETS` names; LocalError when it lacks etcd or kube-apiserver."""
    value = os.environ.get("KUBEBUILDER_ASSETS", "")
    folder = Path(value) if value else None
    missing = [name for name in ("etcd", "kube-apiserver") if folder is None or not (folder / name).is_file()]
    if folder is None or missing:
        where = f"{value} lacks {' and '.join(missing)}" if value else "KUBEBUILDER_ASSETS is not set"
        raise LocalError(f"the envtest engine needs etcd and kube-apiserver: {where}; get them with setup-envtest")
    return folder


def new_service_account_key() -> str:
    """A fresh P-256 private key as PEM."""
    number = 1 + secrets.randbelow(_P256_ORDER - 1)
    encoded = base64.encodebytes(_EC_KEY_HEAD + number.to_bytes(32, "big") + _EC_KEY_TAIL).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{encoded}-----END EC PRIVATE KEY-----\n"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for entry in sockets:
            entry.bind(("127.0.0.1", 0))
        return [int(entry.getsockname()[1]) for entry in sockets]
    finally:
        for entry in sockets:
            entry.close()


class EnvtestEngine:
    """etcd, kube-apiserver and, where present, kube-controller-manager and kube-scheduler.

    Args:
        assets: folder of the programs.
        directory: for data, certificates and logs.
        warden: starts the processes.
    """

    def __init__(self, assets: Path, directory: Path, warden: Warden) -> None:
        self._assets = assets
        self._directory = directory
        self._warden = warden
        self._token = secrets.token_urlsafe(24)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._connection: Connection | None = None
        self._tls: ssl.SSLContext | None = None
        self._has_controllers = (assets / "kube-controller-manager").is_file()
        self._has_scheduler = (assets / "kube-scheduler").is_file()

    @property
    def connection(self) -> Connection:
        """How to reach it."""
        if self._connection is None:
            raise LocalError("the API server has not been started")
        return self._connection

    @property
    def kubelet_tls(self) -> ssl.SSLContext | None:
        """The API server's own certificate: it does not check a kubelet's unless told to by which authority."""
        return self._tls

    @property
    def missing_controllers(self) -> frozenset[str]:
        """Ours stand in for what the folder lacks."""
        missing = set() if self._has_controllers else {"workloads", "nodelife"}
        return frozenset(missing if self._has_scheduler else missing | {"scheduler"})

    async def start(self) -> None:
        """Start all programs, and return when the API server is ready."""
        certificates = self._directory / "certificates"
        await asyncio.to_thread(self._write_files, certificates)
        client_port, peer_port, port = free_ports(3)
        await self._spawn("etcd", _etcd_flags(self._directory / "etcd", client_port, peer_port))
        await self._spawn("kube-apiserver", self._server_flags(certificates, client_port, port))
        authority = certificates / "apiserver.crt"
        async with asyncio.timeout(_START_SECONDS):
            while not authority.exists():
                await self._check()
            ca = _last_certificate(authority.read_text())
            self._connection = Connection(f"https://127.0.0.1:{port}", self._token, ca)
            async with KubeClient(self._connection) as client:
                while not await client.ready():
                    await self._check()
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(authority, certificates / "apiserver.key")
        config = self._directory / "admin.kubeconfig"
        config.touch(mode=0o600)
        config.write_text(yaml.safe_dump(kubeconfig("envtest", self._connection.url, self._token, ca)))
        if self._has_controllers:
            await self._spawn("kube-controller-manager", _manager_flags(config, certificates))
        if self._has_scheduler:
            await self._spawn("kube-scheduler", [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"])

    async def stop(self) -> None:
        """End all programs, the API server before its store."""
        for name in reversed(self._processes):
            process = self._processes[name]
            if process.returncode is None:
                signal_group(process.pid, signal.SIGTERM)
                try:
                    async with asyncio.timeout(_STOP_SECONDS):
                        await process.wait()
                except TimeoutError:
                    signal_group(process.pid, signal.SIGKILL)
                    await process.wait()
            await self._warden.finish(process.pid)
        self._processes.clear()

    async def failed(self) -> str:
        """Return when one of the programs has ended."""
        waits = {asyncio.create_task(process.wait()): name for name, process in self._processes.items()}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        task = done.pop()
        return self._story(waits[task], task.result())

    async def _check(self) -> None:
        """Wait a moment; LocalError if a program has ended."""
        await asyncio.sleep(_POLL_SECONDS)
        for name, process in self._processes.items():
            if process.returncode is not None:
                raise LocalError(self._story(name, process.returncode))

    def _story(self, name: str, code: int) -> str:
        log = self._directory / f"{name}.log"
        last = log.read_text(errors="replace").strip().splitlines()[-3:]
        return f"{name} ended with exit code {code}; its log {log} ends with: {' | '.join(last) or 'nothing'}"

    async def _spawn(self, name: str, flags: Sequence[str]) -> None:
        log = os.open(self._directory / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._processes[name] = await self._warden.spawn(
                [str(self._assets / name), *flags],
                environment={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._directory)},
                directory=self._directory,
                output=log,
            )
        except OSError as exc:
            raise LocalError(f"cannot start {self._assets / name}: {exc}") from exc
        finally:
            os.close(log)

    def _write_files(self, certificates: Path) -> None:
        certificates.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = {
            "service-account.key": new_service_account_key(),
            "tokens.csv": f'{self._token},admin,admin,"system:masters"\n',
        }
        for name, content in files.items():
            path = certificates / name
            path.touch(mode=0o600)
            path.write_text(content)

    def _server_flags(self, certificates: Path, etcd_port: int, port: int) -> list[str]:
        # Without a controller manager nobody makes service accounts' tokens, and nobody takes the taint of a node that
        # was not ready at first off again.
        without = [] if self._has_controllers else ["ServiceAccount", "TaintNodesByCondition"]
        return [
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={certificates}",
            f"--token-auth-file={certificates / 'tokens.csv'}",
            "--authorization-mode=RBAC,Node",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={certificates / 'service-account.key'}",
            f"--service-account-signing-key-file={certificates / 'service-account.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            *([f"--disable-admission-plugins={','.join(without)}"] if without else []),
        ]


def _etcd_flags(data: Path, client_port: int, peer_port: int) -> list[str]:
    return [
        f"--data-dir={data}",
        f"--listen-client-urls=http://127.0.0.1:{client_port}",
        f"--advertise-client-urls=http://127.0.0.1:{client_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
        # The data does not outlive the cluster.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _manager_flags(config: Path, certificates: Path) -> list[str]:
    return [
        f"--kubeconfig={config}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--service-account-private-key-file={certificates / 'service-account.key'}",
        f"--root-ca-file={certificates / 'apiserver.crt'}",
        # Services lead nowhere here, and a real API server refuses endpoints on loopback addresses, as all pods have.
        "--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller",
    ]


def _last_certificate(pem: str) -> str:
    """The authority: kube-apiserver writes its own certificate first, and that of its authority last."""
    marker = "-----BEGIN CERTIFICATE-----"
    return marker + pem.rsplit(marker, 1)[1]
