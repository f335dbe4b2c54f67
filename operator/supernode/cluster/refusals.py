"""The one place where an HTTP answer of the API server becomes an error of ours."""

from __future__ import annotations

import contextlib
import json
from typing import Final

from supernode.cluster.protobuf import MAGIC
from supernode.cluster.protobuf_reading import read_status
from supernode.errors import (
    BadRequestError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    UnavailableError,
)
from supernode.plaintext import plain

# Bound on what an answer says in an error of ours; an admission webhook may say anything.
LONGEST: Final = 2000
_ERRORS: Final[dict[int, type[ClusterError]]] = {
    400: BadRequestError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    405: BadRequestError,
    406: BadRequestError,
    409: ConflictError,
    410: GoneError,
    413: BadRequestError,
    415: BadRequestError,
    422: BadRequestError,
}


def error_from(method: str, path: str, status: int, body: bytes, retry_after: str | None) -> ClusterError:
    """The error for an answer with status 400 or above: its class by the status, its words from the body."""
    reason, said, seconds = "", "", None
    try:
        # In protobuf where that was asked for.
        parsed = read_status(body) if body.startswith(MAGIC) else json.loads(body)
        if isinstance(parsed, dict):
            reason = str(parsed.get("reason") or "")
            said = str(parsed.get("message") or "")
            details = parsed.get("details")
            if isinstance(details, dict) and isinstance(details.get("retryAfterSeconds"), int):
                seconds = float(details["retryAfterSeconds"])
    except ValueError:
        said = body[:200].decode(errors="replace")
    if retry_after is not None:
        with contextlib.suppress(ValueError):
            seconds = float(retry_after)
    kind = _ERRORS.get(status, UnavailableError if status == 429 or status >= 500 else ClusterError)
    words = plain(said or reason, LONGEST)
    return kind(f"{method} {path}: {status} {words}", status=status, reason=reason, retry_after=seconds)
