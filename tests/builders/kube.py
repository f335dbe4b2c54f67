"""etcd and kube-apiserver from KUBEBUILDER_ASSETS, as child processes of a test."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from supernode.local.engines.envtest import free_ports, new_service_account_key

ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
START_SECONDS = 90


def write_kubeconfig(path: Path, url: str, token: str, authority: Path | None = None) -> Path:
    """A kubeconfig for `url`; without an authority, certificates are not checked."""
    cluster: dict[str, object] = {"server": url}
    if authority is not None:
        cluster["certificate-authority"] = str(authority)
    elif url.startswith("https:"):
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


@contextlib.contextmanager
def process(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child that writes to `log`, ended at the end."""
    with log.open("wb") as output:
        child = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def wait_for(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Until `url` answers; an error with the end of the log if the child ends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=context):
                return
        except (urllib.error.URLError, OSError) as exc:
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not come up: {exc}\n{log.read_text()[-2000:]}") from exc
            time.sleep(0.1)


@contextlib.contextmanager
def api_server(directory: Path, tokens: Mapping[str, str], flags: Sequence[str] = ()) -> Iterator[str]:
    """etcd and kube-apiserver without a controller manager; gives the URL.

    Args:
        directory: for data, keys and logs; the server's own certificate is `certs/apiserver.crt` below it, and the
            file `etcd-url` says where etcd listens.
        tokens: bearer token -> what follows it in the token file: `user,uid` or `user,uid,"groups"`.
        flags: further ones of kube-apiserver.
    """
    assets = Path(ASSETS)
    client, peer, secure = free_ports(3)
    (directory / "etcd-url").write_text(f"http://127.0.0.1:{client}")
    key, token_file = directory / "sa.key", directory / "tokens.csv"
    key.write_text(new_service_account_key())
    token_file.write_text("".join(f"{token},{rest}\n" for token, rest in tokens.items()))
    url = f"https://127.0.0.1:{secure}"
    etcd = [str(assets / "etcd"), "--unsafe-no-fsync", f"--data-dir={directory / 'etcd'}"]
    etcd += [f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}"]
    etcd += [f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}"]
    etcd += [f"--initial-cluster=default=http://127.0.0.1:{peer}", "--log-level=error"]
    server = [str(assets / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={secure}"]
    server += ["--bind-address=127.0.0.1", f"--cert-dir={directory / 'certs'}", "--authorization-mode=RBAC,Node"]
    server += ["--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"]
    server += [f"--service-account-signing-key-file={key}", f"--token-auth-file={token_file}"]
    server += ["--service-cluster-ip-range=10.96.0.0/16"]
    # Without a controller manager nobody makes tokens or takes the taint of a new node off.
    server += ["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition", *flags]
    with contextlib.ExitStack() as stack:
        log = directory / "etcd.log"
        wait_for(f"http://127.0.0.1:{client}/health", stack.enter_context(process(etcd, log)), log)
        log = directory / "kube-apiserver.log"
        wait_for(f"{url}/readyz", stack.enter_context(process(server, log)), log)
        yield url
