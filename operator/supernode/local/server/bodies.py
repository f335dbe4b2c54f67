"""Bodies and parameters of writes: what a request carries, decoded, before anybody asks what it means."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from aiohttp import web

from supernode.local.machinery import documents, fields
from supernode.local.machinery.refusals import TOO_LONG, Cause, RefusedError
from supernode.local.server import protobuf, statuses
from supernode.local.server.negotiation import JSON, PROTOBUF, YAML
from supernode.local.server.statuses import StatusError
from supernode.local.server.target import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Write

_LONGEST_MANAGER: Final = 128
PATCHES: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


def truth(text: str | None) -> bool:
    """A flag of a query: present and not said to be false."""
    return text is not None and text.lower() in ("true", "1", "")


async def read_body(request: web.Request, kind: str = "object", *, yaml_too: bool = False) -> documents.Document:
    """The decoded body of a request; 400 or 415 when it cannot be read."""
    media = request.content_type.lower()
    raw = await request.read()
    as_yaml = yaml_too or media == YAML
    if media == PROTOBUF:
        return documents.Document(protobuf.load(raw), ())
    readable = (JSON, YAML, *PATCHES, "application/octet-stream", "text/plain")
    if media not in readable:
        raise statuses.unsupported_media_type(media, (JSON, YAML, PROTOBUF))
    plain = media not in PATCHES
    try:
        document = documents.load(raw, yaml=as_yaml)
    except RefusedError as exc:
        raise (_unreadable(kind, str(exc)) if plain else _bad_patch(media, str(exc))) from exc
    if not isinstance(document.value, dict) and media != JSON_PATCH:
        if not plain:
            raise statuses.bad_request(
                f"error decoding patch: json: cannot unmarshal {type(document.value).__name__} into an object"
            )
        raise _unreadable(kind, f"json: cannot unmarshal {type(document.value).__name__}")
    return document


def write_options(request: web.Request) -> Write:
    """How the query asks for a write; 422 for an option that cannot be."""
    query = request.query
    dry_run = query.getall("dryRun", [])
    if any(each != "All" for each in dry_run):
        cause = statuses.not_supported("dryRun", dry_run, ("All",))
        raise _bad_option(request, cause)
    manager = fields.manager_from(query.get("fieldManager", ""), request.headers.get("User-Agent", ""))
    if len(query.get("fieldManager", "")) > _LONGEST_MANAGER:
        text = f"may not be more than {_LONGEST_MANAGER} bytes"
        raise _bad_option(request, Cause(TOO_LONG, f"Too long: {text}", "fieldManager"))
    if "force" in query and request.content_type.lower() != APPLY_PATCH and request.method == "PATCH":
        raise _bad_option(request, statuses.forbidden_value("force", "may not be specified for non-apply patch"))
    validation = query.get("fieldValidation", "Warn") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        cause = statuses.not_supported("fieldValidation", validation, ("", "Ignore", "Strict", "Warn"))
        raise _bad_option(request, cause)
    return Write(manager, validation, bool(dry_run), truth(query.get("force")))


def with_duplicates(write: Write, document: documents.Document) -> Write:
    """The same, knowing which keys stood twice in the body."""
    return replace(write, duplicates=tuple(document.duplicates))


def _unreadable(kind: str, why: str) -> StatusError:
    """400 for a body that is no object."""
    return statuses.bad_request(
        f"the object provided is unrecognized (must be of type {kind}): "
        f"couldn't get version/kind; json parse error: {why}"
    )


def _bad_patch(media: str, why: str) -> StatusError:
    """400 for a patch that cannot be read."""
    if media == APPLY_PATCH:
        return statuses.bad_request(f"error encoding patch: {why}")
    return statuses.bad_request("invalid JSON patch")


def _bad_option(request: web.Request, cause: Cause) -> StatusError:
    """422 for a parameter of a write."""
    kind = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}.get(
        request.method, "DeleteOptions"
    )
    details = {"group": "meta.k8s.io", "kind": kind, "causes": [cause.as_dict()]}
    return StatusError(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {cause}', details)
