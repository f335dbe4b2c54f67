"""Lists: selection, paging at one revision, and what resourceVersion asks for.

A page token carries the revision of the first page, so that all pages show one moment; the store's history answers
for it as long as it reaches back that far, after that the client gets 410 and a token to go on inconsistently.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from supernode.local.machinery.refusals import Cause
from supernode.local.server import statuses
from supernode.local.server.kinds import Served
from supernode.local.server.selection import Selector
from supernode.local.server.statuses import Object, StatusError
from supernode.local.server.store import ObjectKey, Store, Stored

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True)
class Page:
    """What a list answers."""

    items: list[Stored]
    metadata: Object


def revision_of(text: str, current: int) -> int | None:
    """The resourceVersion of a query: None when it is absent or 0 ("any").

    Raises:
        StatusError: 400 not a number, 504 in the future.
    """
    if text in ("", "0"):
        return None
    if not text.isdigit():
        raise statuses.bad_request(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: invalid syntax')
    revision = int(text)
    if revision > current:
        details = {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }
        message = f"Too large resource version: {revision}, current: {current}"
        raise statuses.StatusError(504, "Timeout", message, details)
    return revision


def _encode_token(revision: int, after: ObjectKey) -> str:
    raw = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": "/".join(after)})
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def _decode_token(token: str) -> tuple[int, ObjectKey]:
    try:
        value = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = str(value["start"]).partition("/")
        return int(value["rv"]), (namespace, name)
    except (binascii.Error, ValueError, KeyError, TypeError) as exc:
        raise statuses.bad_request("continue key is not valid: " + str(exc)) from exc


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", "")
    if text and not text.lstrip("-").isdigit():
        raise statuses.bad_request(f'limit: Invalid value: "{text}": invalid syntax')
    return max(int(text or 0), 0)


def list_page(
    store: Store, served: Served, namespace: str | None, selector: Selector, query: Mapping[str, str]
) -> Page:
    """One page of a list.

    Raises:
        StatusError: 400 for wrong parameters, 410 when the asked-for moment is forgotten.
    """
    limit, token = _limit(query), query.get("continue", "")
    match, version = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
    _check(match, version, token)
    after: ObjectKey | None = None
    if token:
        revision, after = _decode_token(token)
        revision = store.revision if revision < 0 else revision
    else:
        asked = revision_of(version, store.revision)
        revision = asked if asked is not None and match == "Exact" else store.revision
    found = _at(store, served, revision, token, after)
    chosen = [
        (key, stored)
        for key, stored in found
        if (namespace is None or key[0] == namespace)
        and (after is None or key > after)
        and (not selector or selector.matches(stored.obj))
    ]
    metadata: Object = {"resourceVersion": str(revision)}
    if served.custom is not None:
        metadata["continue"] = ""  # custom lists say it even when there is nothing more
    if limit and len(chosen) > limit:
        metadata["continue"] = _encode_token(revision, chosen[limit - 1][0])
        if not selector:
            metadata["remainingItemCount"] = len(chosen) - limit
        chosen = chosen[:limit]
    return Page([stored for _, stored in chosen], metadata)


def _at(
    store: Store, served: Served, revision: int, token: str, after: ObjectKey | None
) -> list[tuple[ObjectKey, Stored]]:
    if revision == store.revision:
        return [
            ((stored.obj["metadata"].get("namespace", ""), stored.obj["metadata"]["name"]), stored)
            for stored in store.items(served.store)
        ]
    found = store.snapshot(served.store, revision)
    if found is not None:
        return found
    if not token or after is None:
        raise statuses.expired("The resourceVersion for the provided list is too old.")
    refusal = statuses.expired(_TOO_OLD)
    refusal.metadata = {"continue": _encode_token(-1, after)}
    raise refusal


def _check(match: str, version: str, token: str) -> None:
    field = "resourceVersionMatch"
    if match and match not in ("Exact", "NotOlderThan"):
        raise list_refusal(statuses.not_supported(field, match, ("Exact", "NotOlderThan", "")))
    if match and not version:
        raise list_refusal(statuses.forbidden_value(field, f"{field} is forbidden unless resourceVersion is provided"))
    if match == "Exact" and version == "0":
        why = f'{field} "exact" is forbidden for resourceVersion "0"'
        raise list_refusal(statuses.forbidden_value(field, why))
    if token and match:
        raise list_refusal(statuses.forbidden_value(field, f"{field} is forbidden when continue is provided"))
    if token and version not in ("", "0"):
        raise statuses.bad_request("specifying resource version is not allowed when using continue")


def list_refusal(cause: Cause) -> StatusError:
    """422 for parameters of a list or watch."""
    details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause.as_dict()]}
    return StatusError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {cause}', details)
