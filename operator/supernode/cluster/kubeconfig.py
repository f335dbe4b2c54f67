"""Which kubeconfig is meant, and the namespace that its current context works in, as kubectl has it.

Flows in: an explicit path or the environment. Flows out: paths and a name. Not here: credentials; the official
client reads those.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import yaml

from supernode.errors import ClusterError

_DEFAULT_NAMESPACE: Final = "default"
_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def kubeconfig_path(explicit: str | None = None) -> str | None:
    """The path, or several joined as in $KUBECONFIG; None for a pod's service account.

    Raises:
        ClusterError: there is no such file.
    """
    if explicit is None and "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    # The library reads $KUBECONFIG once, at import: ask the environment of now.
    path = explicit or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if not any(Path(part).expanduser().is_file() for part in path.split(os.pathsep) if part):
        raise ClusterError(f"no kubeconfig at {path}; give --kubeconfig or set KUBECONFIG")
    return path


def current_namespace(explicit: str | None = None) -> str:
    """The namespace of the current context; `default` where it names none.

    Raises:
        ClusterError: no kubeconfig, or one that can't be read.
    """
    path = kubeconfig_path(explicit)
    if path is None:
        return (_POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.is_file() else "") or _DEFAULT_NAMESPACE
    current = ""
    contexts: dict[str, dict[str, Any]] = {}
    for part in path.split(os.pathsep):
        file = Path(part).expanduser()
        if not part or not file.is_file():
            continue
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            # The first file that says something wins, as for kubectl.
            current = current or str(content.get("current-context") or "")
            for entry in content.get("contexts") or []:
                contexts.setdefault(str(entry["name"]), entry.get("context") or {})
        except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as exc:
            raise ClusterError(f"the kubeconfig {file} can't be read: {' '.join(str(exc).split())}") from exc
    return str(contexts.get(current, {}).get("namespace") or _DEFAULT_NAMESPACE)
