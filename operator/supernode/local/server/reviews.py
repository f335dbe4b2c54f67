"""Reviews: questions about tokens and permissions that are answered and not kept."""

from __future__ import annotations

from typing import Any

from supernode.local.server.access import Access, Action
from supernode.local.server.identity import ANONYMOUS, Identities, User
from supernode.local.server.statuses import Object


def _user_info(user: User) -> Object:
    return {"username": user.name, **({"uid": user.uid} if user.uid else {}), "groups": list(user.groups)}


def _action(spec: Object) -> Action:
    path = spec.get("nonResourceAttributes")
    if path:
        return Action(path.get("verb", ""), path=path.get("path", ""))
    asked: dict[str, Any] = spec.get("resourceAttributes") or {}
    return Action(
        asked.get("verb", ""),
        asked.get("group", ""),
        asked.get("resource", ""),
        asked.get("subresource", ""),
        asked.get("namespace", ""),
        asked.get("name", ""),
    )


def answer(kind: str, review: Object, user: User, access: Access, identities: Identities) -> Object:
    """The review with its status filled in."""
    spec = review.get("spec") or {}
    status: Object
    match kind:
        case "TokenReview":
            found = identities.of_token(str(spec.get("token", "")))
            status = {"error": "invalid bearer token"} if found is None else {"authenticated": True}
            status["user"] = {} if found is None else _user_info(found)
        case "SelfSubjectReview":
            status = {"userInfo": _user_info(user)}
        case "SelfSubjectRulesReview":
            status = _rules(access, user, str(spec.get("namespace", "")))
        case "SelfSubjectAccessReview":
            status = {"allowed": access.allows(user, _action(spec))}
        case _:
            other = User(str(spec.get("user", ANONYMOUS.name)), tuple(spec.get("groups") or ()))
            status = {"allowed": access.allows(other, _action(spec))}
    return {**review, "metadata": review.get("metadata") or {}, "status": status}


def _rules(access: Access, user: User, namespace: str) -> Object:
    found = list(access.rules(user, namespace))
    if "system:masters" in user.groups:
        found = [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
            {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ]
    return {
        "resourceRules": [each for each in found if each.get("resources")],
        "nonResourceRules": [each for each in found if each.get("nonResourceURLs")],
        "incomplete": False,
    }
