"""Two API versions of one store: events are kept as core/v1 and shown through events.k8s.io/v1 under its own names.

In: whole objects of one form. Out: new objects of the other. What both forms call the same is carried over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from supernode.local.server.statuses import Object
from supernode.local.server.tree import clone

# core/v1 name -> events.k8s.io/v1 name
_NAMES: Final[Mapping[str, str]] = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
_BACK: Final = {new: old for old, new in _NAMES.items()}
# Written even when empty: in core/v1, and in events.k8s.io/v1.
_CORE_ALWAYS: Final[Mapping[str, Any]] = {
    "involvedObject": {},
    "eventTime": None,
    "firstTimestamp": None,
    "lastTimestamp": None,
    "reportingComponent": "",
    "reportingInstance": "",
    "source": {},
}
_NEW_ALWAYS: Final[Mapping[str, Any]] = {
    "eventTime": None,
    "deprecatedFirstTimestamp": None,
    "deprecatedLastTimestamp": None,
    "deprecatedSource": {},
    "regarding": {},
}


def show_event(event: Object) -> Object:
    """A stored event as events.k8s.io/v1 has it."""
    shown = {_NAMES.get(name, name): value for name, value in event.items() if value != ""}
    return {**clone(dict(_NEW_ALWAYS)), **shown}


def keep_event(event: Object) -> Object:
    """An events.k8s.io/v1 event as it is stored."""
    return {**clone(dict(_CORE_ALWAYS)), **{_BACK.get(name, name): value for name, value in event.items()}}


@dataclass(frozen=True)
class View:
    """How a resource's objects differ from what is stored."""

    show: Callable[[Object], Object]
    keep: Callable[[Object], Object]


EVENTS: Final = View(show_event, keep_event)


def regarding(name: str) -> Callable[[Object], str]:
    """Reads a field of what a stored event is about."""
    return lambda event: str((event.get("involvedObject") or {}).get(name, ""))


def reporter(event: Object) -> str:
    """Who reported a stored event."""
    return str(event.get("reportingComponent") or "")
