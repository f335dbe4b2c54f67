"""Refusals and warnings as HTTP answers."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from supernode.local.server.negotiation import JSON
from supernode.local.server.statuses import StatusError
from supernode.local.server.store import encode


def refuse(refusal: StatusError, warnings: Iterable[str] = ()) -> web.Response:
    """The answer that says no."""
    response = web.Response(status=refusal.code, body=encode(refusal.body), content_type=JSON)
    seconds = (refusal.details or {}).get("retryAfterSeconds")
    if seconds is not None:
        response.headers["Retry-After"] = str(seconds)
    warn(response, (*refusal.warnings, *warnings))
    return response


def warn(response: web.Response, warnings: Iterable[str]) -> None:
    """Say something beside the answer (RFC 7234's Warning header, which kubectl prints)."""
    for warning in warnings:
        escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{escaped}"')
