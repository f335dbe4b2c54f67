"""Who may do what: role-based access control over the stored roles and bindings.

Evaluated per request for everyone but the administrator, as `--authorization-mode=RBAC` does. The rules that every
authenticated user has on a real cluster (discovery, reviews of oneself) are built in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from supernode.local.server.identity import MASTERS, User
from supernode.local.server.statuses import Object
from supernode.local.server.store import Store

_RBAC: Final = "rbac.authorization.k8s.io"
_PUBLIC: Final = ("/healthz", "/livez", "/readyz", "/version", "/version/")
_DISCOVERY: Final = ("/api", "/apis", "/openapi", "/api/", "/apis/", "/openapi/")
_SELF: Final = frozenset({"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"})


@dataclass(frozen=True)
class Action:
    """What somebody wants to do with a resource, or with a path that is none."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def target(self) -> str:
        """Resource and subresource as rules name them."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def refusal(self, user: User) -> str:
        """Why a 403 says no."""
        if self.path:
            return f'User "{user.name}" cannot {self.verb} path "{self.path}"'
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'User "{user.name}" cannot {self.verb} resource "{self.target}" in API group "{self.group}" {where}'


def _has(values: list[str], wanted: str) -> bool:
    return "*" in values or wanted in values


def _permits(rule: Object, action: Action) -> bool:
    if not _has(rule.get("verbs") or [], action.verb):
        return False
    if action.path:
        return any(
            each in ("*", action.path) or (each.endswith("*") and action.path.startswith(each[:-1]))
            for each in rule.get("nonResourceURLs") or ()
        )
    resources = rule.get("resources") or []
    named = _has(resources, action.target) or (bool(action.subresource) and f"*/{action.subresource}" in resources)
    if not named or not _has(rule.get("apiGroups") or [], action.group):
        return False
    names = rule.get("resourceNames") or []
    return not names or action.name in names


def _applies(subject: Object, user: User, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
    return name == user.name if kind == "User" else kind == "Group" and name in user.groups


class Access:
    """Answers whether an action is allowed.

    Args:
        store: where roles and bindings are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def rules(self, user: User, namespace: str) -> Iterator[Object]:
        """Every rule that holds for a user, cluster-wide and in a namespace."""
        for binding in self._store.items((_RBAC, "clusterrolebindings")):
            if any(_applies(each, user, "") for each in binding.obj.get("subjects") or ()):
                yield from self._role(binding.obj["roleRef"], "")
        if not namespace:
            return
        for binding in self._store.items((_RBAC, "rolebindings"), namespace):
            if any(_applies(each, user, namespace) for each in binding.obj.get("subjects") or ()):
                yield from self._role(binding.obj["roleRef"], namespace)

    def _role(self, reference: Object, namespace: str) -> Iterator[Object]:
        key = ("", reference["name"])
        plural = "clusterroles"
        if reference.get("kind") == "Role":
            key, plural = (namespace, reference["name"]), "roles"
        role = self._store.get((_RBAC, plural), key)
        if role is not None:
            yield from role.obj.get("rules") or ()

    def allows(self, user: User, action: Action) -> bool:
        """Whether the user may do it."""
        if MASTERS in user.groups:
            return True
        if action.path in _PUBLIC and action.verb == "get":
            return True
        if "system:authenticated" in user.groups:
            if action.path in _DISCOVERY or action.path.startswith(_DISCOVERY[3:]):
                return action.verb == "get"
            if action.resource in _SELF and action.verb == "create":
                return True
        return any(_permits(rule, action) for rule in self.rules(user, action.namespace))
