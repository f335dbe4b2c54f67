"""A real API server for wire tests: etcd and kube-apiserver from KUBEBUILDER_ASSETS, no controller manager.

Nothing collects garbage and nothing runs pods here, on purpose: what the operator promises may not lean on either.
Two users: an administrator, and `operator`, who has only the rights that a test gives him.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
OPERATOR_USER = "operator"


@dataclass(frozen=True)
class ControlPlane:
    """One running control plane: kubeconfigs of its two users."""

    url: str
    admin: Path
    operator: Path
    audit: Path

    def used(self, user: str) -> set[tuple[str, str, str]]:
        """(verb, API group, resource[/subresource]) of every request that this user has made, refused ones too."""
        found = set()
        for line in self.audit.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                what = event.get("objectRef")
                if what and event["user"]["username"] == user:
                    name = what["resource"] + (f"/{what['subresource']}" if "subresource" in what else "")
                    found.add((event["verb"], what.get("apiGroup", ""), name))
        return found


def write_kubeconfig(path: Path, url: str, token: str, authority: Path | None = None) -> Path:
    cluster: dict[str, object] = {"server": url}
    if authority is not None:
        cluster["certificate-authority"] = str(authority)
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


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


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


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=context):
                return
        except (urllib.error.URLError, OSError) as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not come up: {exc}\n{log.read_text()[-2000:]}") from exc
            time.sleep(0.1)


@contextlib.contextmanager
def control_plane(directory: Path) -> Iterator[ControlPlane]:
    """Start it, wait until it answers, stop it at the end."""
    assets = Path(ASSETS)
    client, peer, secure = _ports(3)
    admin, operator = secrets.token_hex(8), secrets.token_hex(8)
    key, tokens = directory / "sa.key", directory / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text(f'{admin},admin,admin,"system:masters"\n{operator},{OPERATOR_USER},{OPERATOR_USER}\n')
    url = f"https://127.0.0.1:{secure}"
    etcd = [str(assets / "etcd"), "--unsafe-no-fsync", f"--data-dir={directory / 'etcd'}"]
    etcd += [f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}"]
    etcd += [f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}"]
    etcd += [f"--initial-cluster=default=http://127.0.0.1:{peer}", "--log-level=error"]
    server = [str(assets / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={secure}"]
    server += ["--bind-address=127.0.0.1", f"--cert-dir={directory / 'certs'}", "--authorization-mode=RBAC,Node"]
    server += ["--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"]
    server += [f"--service-account-signing-key-file={key}", f"--token-auth-file={tokens}"]
    server += ["--service-cluster-ip-range=10.96.0.0/16"]
    policy, audit = directory / "audit.yaml", directory / "audit.log"
    rules = [{"level": "Metadata", "users": [OPERATOR_USER]}, {"level": "None"}]
    policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    audit.touch()
    server += [f"--audit-policy-file={policy}", f"--audit-log-path={audit}", "--audit-log-mode=blocking-strict"]
    server += ["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"]
    with contextlib.ExitStack() as stack:
        log = directory / "etcd.log"
        started = stack.enter_context(_process(etcd, log))
        _await(f"http://127.0.0.1:{client}/health", started, log)
        log = directory / "kube-apiserver.log"
        started = stack.enter_context(_process(server, log))
        _await(f"{url}/readyz", started, log)
        authority = directory / "certs" / "apiserver.crt"
        yield ControlPlane(
            url,
            write_kubeconfig(directory / "admin.kubeconfig", url, admin, authority),
            write_kubeconfig(directory / "operator.kubeconfig", url, operator, authority),
            audit,
        )
