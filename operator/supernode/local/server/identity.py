"""Who asks: the cluster's administrator, or a service account with a token from this server.

Tokens of service accounts are random and kept with what they stand for; one is good while its account (and the pod it
is bound to) exists and its time has not run out.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from supernode.local.server.clock import Clock
from supernode.local.server.store import Store

MASTERS: Final = "system:masters"
_PREFIX: Final = "Bearer "


@dataclass(frozen=True)
class User:
    """An authenticated caller."""

    name: str
    groups: tuple[str, ...]
    uid: str = ""


ANONYMOUS: Final = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True)
class _Grant:
    namespace: str
    name: str
    uid: str
    until: float
    pod: tuple[str, str] | None  # name and uid of the pod it is bound to


class Identities:
    """Tokens and what they stand for.

    Args:
        token: the administrator's.
        store: where service accounts and pods are.
        clock: for expiry.
    """

    def __init__(self, token: str, store: Store, clock: Clock) -> None:
        self._token = token.encode()
        self._store = store
        self._clock = clock
        self._grants: dict[str, _Grant] = {}

    def issue(self, namespace: str, name: str, uid: str, seconds: int, pod: tuple[str, str] | None) -> str:
        """A new token for a service account."""
        now = self._clock.seconds()
        self._grants = {token: grant for token, grant in self._grants.items() if grant.until > now}
        token = f"sa-{secrets.token_urlsafe(32)}"
        self._grants[token] = _Grant(namespace, name, uid, now + seconds, pod)
        return token

    def user(self, authorization: str) -> User | None:
        """Who a header stands for: anonymous without one, None when it is wrong."""
        if not authorization:
            return ANONYMOUS
        if not authorization.startswith(_PREFIX):
            return None
        return self.of_token(authorization[len(_PREFIX) :].strip())

    def of_token(self, token: str) -> User | None:
        """Who a token stands for, or None."""
        if hmac.compare_digest(token.encode(), self._token):
            return User("kubernetes-admin", (MASTERS, "system:authenticated"))
        grant = self._grants.get(token)
        if grant is None or grant.until <= self._clock.seconds():
            return None
        account = self._store.get(("", "serviceaccounts"), (grant.namespace, grant.name))
        if account is None or account.obj["metadata"]["uid"] != grant.uid:
            return None
        if grant.pod is not None:
            pod = self._store.get(("", "pods"), (grant.namespace, grant.pod[0]))
            if pod is None or pod.obj["metadata"]["uid"] != grant.pod[1]:
                return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{grant.namespace}", "system:authenticated")
        return User(f"system:serviceaccount:{grant.namespace}:{grant.name}", groups, grant.uid)
