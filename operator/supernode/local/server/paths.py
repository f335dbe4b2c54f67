"""What a path means: group, version, namespace, resource, name, subresource.

In: the path of a request. Out: `Place`, or None for a path that is no resource (health, discovery, OpenAPI).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from supernode.local.server import statuses


@dataclass(frozen=True)
class Place:
    """A path taken apart. `namespace` is None where the path names none; `rest` follows a subresource (`proxy/...`)."""

    group: str
    version: str
    namespace: str | None
    plural: str
    name: str = ""
    subresource: str = ""
    rest: tuple[str, ...] = ()
    watch: bool = False  # the old /watch/ prefix


def parse(path: str) -> Place | None:
    """The place that a path names, or None."""
    parts = [unquote(part) for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    watch = rest[0] == "watch" and len(rest) > 1
    if watch:
        rest = rest[1:]
    namespace: str | None = None
    # /namespaces/NAME and its subresources are the namespace itself; anything else below it is inside.
    if (
        rest[0] == "namespaces"
        and len(rest) >= 3
        and not (not group and rest[2] in ("status", "finalize") and len(rest) == 3)
    ):
        namespace, rest = rest[1], rest[2:]
    plural, *more = rest
    name = more[0] if more else ""
    subresource = more[1] if len(more) > 1 else ""
    return Place(group, version, namespace, plural, name, subresource, tuple(more[2:]), watch)


def verb_of(method: str, place: Place, *, watch: bool) -> str:
    """What a request wants with a place, in the words of roles.

    Raises:
        StatusError: 405, the method means nothing here.
    """
    match method:
        case "GET" | "HEAD":
            if place.watch or (watch and not place.subresource):
                return "watch"
            return "get" if place.name else "list"
        case "POST":
            return "create"
        case "PUT":
            return "update"
        case "PATCH":
            return "patch"
        case "DELETE":
            return "delete" if place.name else "deletecollection"
    raise statuses.method_not_allowed()
