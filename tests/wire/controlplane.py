"""A real API server for wire tests: etcd and kube-apiserver from KUBEBUILDER_ASSETS, no controller manager.

Nothing collects garbage and nothing runs pods here, on purpose: what the operator promises may not lean on either.
Two users: an administrator, and `operator`, who has only the rights that a test gives him.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.builders.kube import api_server, write_kubeconfig

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


@contextlib.contextmanager
def control_plane(directory: Path) -> Iterator[ControlPlane]:
    """Start it, wait until it answers, stop it at the end."""
    admin, operator = secrets.token_hex(8), secrets.token_hex(8)
    policy, audit = directory / "audit.yaml", directory / "audit.log"
    rules = [{"level": "Metadata", "users": [OPERATOR_USER]}, {"level": "None"}]
    policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    audit.touch()
    flags = [f"--audit-policy-file={policy}", f"--audit-log-path={audit}", "--audit-log-mode=blocking-strict"]
    # As many clusters have it: who makes an object that blocks the deletion of its owner needs a right for that.
    flags += ["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]
    tokens = {admin: 'admin,admin,"system:masters"', operator: f"{OPERATOR_USER},{OPERATOR_USER}"}
    with api_server(directory, tokens, flags) as url:
        authority = directory / "certs" / "apiserver.crt"
        yield ControlPlane(
            url,
            write_kubeconfig(directory / "admin.kubeconfig", url, admin, authority),
            write_kubeconfig(directory / "operator.kubeconfig", url, operator, authority),
            audit,
        )
