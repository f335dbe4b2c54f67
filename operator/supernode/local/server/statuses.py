"""What the server answers when it refuses: Status objects, worded as kubectl and client libraries expect them.

`StatusError` is raised anywhere below the HTTP surface and rendered once, there. The functions build the refusals that
occur in more than one place; their texts follow what kube-apiserver 1.37 was seen to answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from supernode.errors import LocalError
from supernode.local.machinery import refusals
from supernode.local.machinery.refusals import Cause

Object = dict[str, Any]


class StatusError(LocalError):
    """The server says no.

    Args:
        code: HTTP status.
        reason: machine-readable reason, such as `AlreadyExists`.
        message: text for people.
        details: name, group, kind, uid, causes, retryAfterSeconds.
    """

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata: Object = {}  # a continue token, where one helps
        self.warnings: tuple[str, ...] = ()  # what the client should hear beside the refusal
        super().__init__(message)

    @property
    def body(self) -> Object:
        """The Status object."""
        status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = dict(self.details)
        status["code"] = self.code
        return status


def success(name: str, group: str, plural: str, uid: str | None = None) -> Object:
    """The Status object that a delete answers with."""
    details = {"name": name, **({"group": group} if group else {}), "kind": plural, **({"uid": uid} if uid else {})}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def qualified(group: str, plural: str) -> str:
    """`deployments.apps`, or `pods` for the core group."""
    return f"{plural}.{group}" if group else plural


def _details(group: str, kind: str, name: str) -> Object:
    named = {"name": name} if name else {}
    return {**named, **({"group": group} if group else {}), "kind": kind}


def not_found(group: str, plural: str, name: str) -> StatusError:
    """404 for an object."""
    message = f'{qualified(group, plural)} "{name}" not found'
    return StatusError(404, "NotFound", message, _details(group, plural, name))


def no_such_resource() -> StatusError:
    """404 for a resource, group or version that is not served."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(group: str, plural: str, name: str) -> StatusError:
    """409 on create."""
    message = f'{qualified(group, plural)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(group, plural, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(group: str, plural: str, name: str, why: str = MODIFIED) -> StatusError:
    """409 on update, patch or delete."""
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(group, plural, name))


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(group: str, plural: str, name: str, why: str, causes: Sequence[Cause] = ()) -> StatusError:
    """403."""
    details = _details(group, plural, name)
    if causes:
        details["causes"] = [cause.as_dict() for cause in causes]
    return StatusError(403, "Forbidden", f'{qualified(group, plural)} "{name}" is forbidden: {why}', details)


def method_not_allowed() -> StatusError:
    """405."""
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message, {})


def not_served(what: str, instead: str) -> StatusError:
    """501: a real cluster has it, this one does not."""
    return StatusError(501, "NotImplemented", f"{what} is not supported by the local cluster: {instead}", {})


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    """406: nothing that the client accepts can be produced."""
    message = f"406: Not Acceptable\n\nAvailable representations: {', '.join(accepted)}"
    return StatusError(406, "NotAcceptable", message, {})


def unsupported_media_type(sent: str, accepted: Sequence[str]) -> StatusError:
    """415: the body is of a type that cannot be read."""
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", message, {"causes": []} if not sent else None)


def expired(message: str) -> StatusError:
    """410: list again."""
    return StatusError(410, "Expired", message)


def too_many_requests(message: str, seconds: int) -> StatusError:
    """429, with how long to wait."""
    return StatusError(429, "TooManyRequests", message, {"retryAfterSeconds": seconds})


def internal(message: str) -> StatusError:
    """500."""
    return StatusError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return f'"{value}"' if isinstance(value, str) else str(value)


def invalid_value(field: str, value: object, why: str) -> Cause:
    """A value that may not be."""
    return Cause(refusals.INVALID, f"Invalid value: {_show(value)}: {why}", field)


def required(field: str, why: str = "") -> Cause:
    """A value that is missing."""
    return Cause(refusals.REQUIRED, f"Required value: {why}" if why else "Required value", field)


def forbidden_value(field: str, why: str) -> Cause:
    """A value that may not be set or changed."""
    return Cause(refusals.FORBIDDEN, f"Forbidden: {why}", field)


def duplicate(field: str, value: object) -> Cause:
    """A value that is there twice."""
    return Cause(refusals.DUPLICATE, f"Duplicate value: {_show(value)}", field)


def not_supported(field: str, value: object, supported: Sequence[str]) -> Cause:
    """A value outside its enumeration."""
    listed = ", ".join(f'"{each}"' for each in supported)
    return Cause(refusals.NOT_SUPPORTED, f"Unsupported value: {_show(value)}: supported values: {listed}", field)
