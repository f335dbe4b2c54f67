"""What the API machinery says no with: typed refusals that make their own metav1.Status.

Flows in: reasons and causes found by the other modules. Flows out: exceptions that the server turns into answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supernode.errors import LocalError

REQUIRED: Final = "FieldValueRequired"
INVALID: Final = "FieldValueInvalid"
TYPE_INVALID: Final = "FieldValueTypeInvalid"
NOT_SUPPORTED: Final = "FieldValueNotSupported"
DUPLICATE: Final = "FieldValueDuplicate"
FORBIDDEN: Final = "FieldValueForbidden"
TOO_LONG: Final = "FieldValueTooLong"
TOO_MANY: Final = "FieldValueTooMany"
CONFLICT: Final = "FieldManagerConflict"


@dataclass(frozen=True)
class Cause:
    """One reason of a refusal: machine-readable reason, message, and path of the field (`spec.levels[0].name`)."""

    reason: str
    message: str
    field: str

    def as_dict(self) -> dict[str, str]:
        """The form of Status.details.causes."""
        return {"reason": self.reason, "message": self.message, "field": self.field}

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class RefusedError(LocalError):
    """The API machinery refuses a request.

    Args:
        code: HTTP status.
        reason: metav1.StatusReason.
        message: the whole message; `InvalidError` makes its own once group, kind and name are known.
        causes: what is wrong, field by field.
    """

    def __init__(self, code: int, reason: str, message: str, causes: Iterable[Cause] = ()) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.causes: tuple[Cause, ...] = tuple(causes)
        super().__init__(message)

    def status(self, group: str = "", kind: str = "", name: str = "", uid: str = "") -> dict[str, Any]:
        """The metav1.Status for the object that the request was about."""
        details: dict[str, Any] = {}
        if self._has_details():
            pairs = {"name": name, "group": group, "kind": kind, "uid": uid}
            details = {key: value for key, value in pairs.items() if value}
        if self.causes:
            details["causes"] = [cause.as_dict() for cause in self.causes]
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self._message(group, kind, name),
        }
        if self.reason:
            status["reason"] = self.reason
        if details:
            status["details"] = details
        return status | {"code": self.code}

    def _has_details(self) -> bool:
        return False

    def _message(self, group: str, kind: str, name: str) -> str:
        return self.message


class InvalidError(RefusedError):
    """422: the object itself is wrong; the causes say where."""

    def __init__(self, causes: Sequence[Cause]) -> None:
        super().__init__(422, "Invalid", _joined(causes), causes)

    def _has_details(self) -> bool:
        return True

    def _message(self, group: str, kind: str, name: str) -> str:
        qualified = f"{kind}.{group}" if group else kind
        return f'{qualified} "{name}" is invalid: {_joined(self.causes)}'


class BadRequestError(RefusedError):
    """400: the body, a patch or a parameter cannot be understood."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "BadRequest", message)


class UnprocessableError(RefusedError):
    """422: a patch that is understood but cannot be carried out on this object."""

    def __init__(self, message: str) -> None:
        super().__init__(422, "Invalid", message)

    def status(self, group: str = "", kind: str = "", name: str = "", uid: str = "") -> dict[str, Any]:
        """Details are there and empty."""
        status = super().status(group, kind, name, uid)
        code = status.pop("code")
        return status | {"details": {}, "code": code}


class PatchedInvalidError(RefusedError):
    """422: what a patch made of the object cannot be decoded: a wrong type, or with Strict an unknown field."""

    def __init__(self, patched: str, why: str) -> None:
        cause = Cause(INVALID, f"Invalid value: {json.dumps(patched)}: {why}", "patch")
        super().__init__(422, "Invalid", f' "" is invalid: {cause}', (cause,))


class UntypedError(RefusedError):
    """500, as the real server: an applied configuration that does not fit the schema of its kind."""

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        listed = problems[0] if len(problems) == 1 else "errors:\n" + "\n".join(f"  {problem}" for problem in problems)
        super().__init__(500, "", f"failed to create typed patch object ({what}): {listed}")


class ApplyConflictError(RefusedError):
    """409: server-side apply would change fields that others own; one cause per field and manager."""

    def __init__(self, causes: Sequence[Cause]) -> None:
        super().__init__(409, "Conflict", _conflict_message(causes), causes)


def _joined(causes: Sequence[Cause]) -> str:
    """The causes as one text, each only once, in brackets when they are several."""
    texts = list(dict.fromkeys(str(cause) for cause in causes))
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _conflict_message(causes: Sequence[Cause]) -> str:
    """`Apply failed with N conflicts: ...`, grouped by manager as the real server does."""
    noun = "conflict" if len(causes) == 1 else "conflicts"
    fields: dict[str, list[str]] = {}
    for cause in causes:
        fields.setdefault(cause.message.removeprefix("conflict with "), []).append(cause.field)
    if len(causes) == 1:
        return f"Apply failed with 1 conflict: {causes[0].message}: {causes[0].field}"
    lines = [f"conflicts with {manager}:\n" + "\n".join(f"- {f}" for f in names) for manager, names in fields.items()]
    return f"Apply failed with {len(causes)} {noun}: " + "\n".join(lines)
