"""A scenario: requests in order, sent to a server in a namespace of their own, and what came back, normalised.

NAMESPACE in a path or body stands for that namespace; `{VERSION}` and `{UID}` for resourceVersion and uid of the last
answer that had them. A step may wait until the server's own controllers have done something.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.normal import Normal
from tests.conformance.wire import Answer, Wire


@dataclass(frozen=True)
class Step:
    """One request."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    wait: int = 0  # HTTP status to wait for (GET only)
    keep: str = ""  # only this part of the body is compared (a JSON pointer), when the rest is the server's own


@dataclass(frozen=True)
class Scenario:
    """Requests that belong together."""

    name: str
    steps: Sequence[Step]
    controllers: bool = False  # needs garbage collection or namespace emptying


def pointer(value: Any, path: str) -> Any:
    """The part of a JSON value that a pointer names, None if it is not there."""
    for step in path.split("/")[1:]:
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _fill(value: Any, known: dict[str, str]) -> Any:
    if value is None:
        return None
    if isinstance(value, bytes):
        for name, each in known.items():
            value = value.replace(name.encode(), each.encode())
        return value
    text = json.dumps(value)
    for name, each in known.items():
        text = text.replace(name, each)
    return json.loads(text)


def _send(wire: Wire, step: Step, known: dict[str, str]) -> Answer:
    path = step.path
    for name, each in known.items():
        path = path.replace(name, each)
    headers = {name.replace("-", "_"): value for name, value in step.headers.items()}
    if step.wait:
        return wire.until(path, lambda answer: answer.status == step.wait)
    return wire.call(step.method, path, _fill(step.body, known), **headers)


def play(wire: Wire, scenario: Scenario) -> list[dict[str, Any]]:
    """The normalised answers to a scenario's steps."""
    namespace = f"s-{secrets.token_hex(4)}"
    made = wire.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    assert made.status == 201, made
    normal, known, answers = Normal(namespace), {"NAMESPACE": namespace}, []
    try:
        for step in scenario.steps:
            answer = _send(wire, step, known)
            meta = answer.body.get("metadata") if isinstance(answer.body, dict) else None
            for name, key in (("{VERSION}", "resourceVersion"), ("{UID}", "uid"), ("{CONTINUE}", "continue")):
                if isinstance(meta, dict) and meta.get(key):
                    known[name] = meta[key]
            body = pointer(answer.body, step.keep) if step.keep else answer.body
            entry: dict[str, Any] = {"status": answer.status, "body": normal.value(body)}
            if answer.warnings:
                entry["warnings"] = [normal.text(each) for each in answer.warnings]
            answers.append(entry)
    finally:
        wire.delete(f"/api/v1/namespaces/{namespace}")
    return answers
