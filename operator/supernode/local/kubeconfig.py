"""Kubeconfig documents. Pure."""

from __future__ import annotations

import base64
from typing import Any


def kubeconfig(name: str, url: str, token: str, ca: str | None, namespace: str = "default") -> dict[str, Any]:
    """A kubeconfig with one cluster, one user with a bearer token, and one context that is the current one.

    Args:
        name: name of all three.
        url: the API server.
        token: bearer token.
        ca: PEM text of the certificate authority, for https.
        namespace: the context's namespace.
    """
    cluster: dict[str, Any] = {"server": url}
    if ca:
        cluster["certificate-authority-data"] = base64.b64encode(ca.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
