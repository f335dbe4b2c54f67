"""What stands in a cell of a table: ages, labels, selectors, and the status of nodes and pods as kubectl's users know
them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

Obj = dict[str, Any]
Cell = Callable[[Obj, datetime], Any]
NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time, or None when it is none."""
    try:
        parsed = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return parsed if parsed is None or parsed.tzinfo else parsed.replace(tzinfo=UTC)


def duration(seconds: float) -> str:
    """A span of time in at most two units, as kubectl shows it: 45s, 7m16s, 3h, 2d3h, 5y."""
    left = int(seconds)
    if left < -1:
        return "<invalid>"
    left = max(left, 0)
    minutes, hours, days = left // 60, left // 3600, left // 86400
    if left < 120:
        return f"{left}s"
    if minutes < 10:
        return f"{minutes}m{left % 60}s" if left % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    years = days // 365
    return f"{years}y{days % 365}d" if days < 2920 and days % 365 else f"{years}y"


def since(text: str | None, now: datetime) -> str:
    """How long ago; `<unknown>` for no time, `<invalid>` for a broken one."""
    if not text:
        return UNKNOWN
    then = moment(text)
    return "<invalid>" if then is None else duration((now - then).total_seconds())


def created(obj: Obj, now: datetime) -> str:
    """The age of an object."""
    return since(get(obj, "metadata.creationTimestamp"), now)


def created_at(obj: Obj, _now: datetime) -> Any:
    """When the object was created."""
    return get(obj, "metadata.creationTimestamp")


def get(obj: Any, path: str, default: Any = None) -> Any:
    """What stands at a dotted path."""
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, dict) else None
        if obj is None:
            return default
    return obj


def at(path: str, default: Any = "") -> Cell:
    """A cell that shows a field."""
    return lambda obj, now: get(obj, path, default)


def pairs(values: dict[str, Any] | None) -> str:
    """Labels as text."""
    return ",".join(f"{key}={value}" for key, value in sorted((values or {}).items())) or NONE


def selector_text(selector: dict[str, Any] | None) -> str:
    """A label selector as text."""
    if selector is None:
        return NONE
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or ():
        operator, key = expression.get("operator"), expression.get("key", "")
        values = ",".join(sorted(expression.get("values") or ()))
        known = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        parts.append(known.get(str(operator), key))
    return ",".join(parts) or NONE


def containers(path: str, field: str) -> Cell:
    """A cell with one field of all containers."""
    return lambda obj, now: ",".join(container.get(field, "") for container in get(obj, path, ()))


def node_status(obj: Obj, _now: datetime) -> str:
    """Ready, NotReady or Unknown, and whether it is cordoned."""
    ready = next((c for c in get(obj, "status.conditions", ()) if c.get("type") == "Ready"), None)
    text = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    return text + (",SchedulingDisabled" if get(obj, "spec.unschedulable") else "")


def node_roles(obj: Obj, _now: datetime) -> str:
    """The roles that labels give a node."""
    roles = set()
    for key, value in get(obj, "metadata.labels", {}).items():
        if key.startswith("node-role.kubernetes.io/") and key != "node-role.kubernetes.io/":
            roles.add(key.removeprefix("node-role.kubernetes.io/"))
        elif key == "kubernetes.io/role" and value:
            roles.add(value)
    return ",".join(sorted(roles)) or NONE


def address(kind: str) -> Cell:
    """A cell with the first address of a type."""

    def cell(obj: Obj, now: datetime) -> str:
        found = (a.get("address") for a in get(obj, "status.addresses", ()) if a.get("type") == kind)
        return next(found, None) or NONE

    return cell


def _sidecars(obj: Obj) -> set[str]:
    return {c.get("name", "") for c in get(obj, "spec.initContainers", ()) if c.get("restartPolicy") == "Always"}


def pod_ready(obj: Obj, _now: datetime) -> str:
    """Ready containers of all, sidecars included."""
    sidecars = _sidecars(obj)
    ready = sum(bool(s.get("ready")) for s in get(obj, "status.containerStatuses", ()))
    ready += sum(
        bool(s.get("ready")) for s in get(obj, "status.initContainerStatuses", ()) if s.get("name") in sidecars
    )
    return f"{ready}/{len(get(obj, 'spec.containers', ())) + len(sidecars)}"


def _exit_text(state: Obj, prefix: str = "") -> str:
    if state.get("reason"):
        return prefix + str(state["reason"])
    return (
        f"{prefix}Signal:{state['signal']}" if state.get("signal") else f"{prefix}ExitCode:{state.get('exitCode', 0)}"
    )


def pod_status(obj: Obj, _now: datetime) -> str:
    """The one word that says how a pod is."""
    reason = get(obj, "status.reason") or get(obj, "status.phase", "")
    for condition in get(obj, "status.conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    sidecars = _sidecars(obj)
    starting = False
    statuses = get(obj, "status.initContainerStatuses", ())
    for index, status in enumerate(statuses):
        state = status.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended is not None and ended.get("exitCode", 0) == 0:
            continue
        if status.get("name") in sidecars and status.get("started"):
            continue
        if ended is not None:
            reason = _exit_text(ended, "Init:")
        elif waiting and waiting.get("reason") and waiting["reason"] != "PodInitializing":
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{index}/{len(get(obj, 'spec.initContainers', ()))}"
        starting = True
        break
    if not starting:
        reason = _running_status(obj, reason)
    if get(obj, "metadata.deletionTimestamp"):
        if get(obj, "status.reason") == "NodeLost":
            return "Unknown"
        if get(obj, "status.phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return str(reason)


def _running_status(obj: Obj, reason: str) -> str:
    running = False
    for status in reversed(get(obj, "status.containerStatuses", ())):
        state = status.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if waiting and waiting.get("reason"):
            reason = waiting["reason"]
        elif ended is not None:
            reason = _exit_text(ended)
        elif status.get("ready") and "running" in state:
            running = True
    if reason == "Completed" and running:
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in get(obj, "status.conditions", ()))
        return "Running" if ready else "NotReady"
    return reason


def pod_restarts(obj: Obj, now: datetime) -> str:
    """How often, and when last."""
    sidecars = _sidecars(obj)
    statuses = list(get(obj, "status.containerStatuses", ()))
    statuses += [s for s in get(obj, "status.initContainerStatuses", ()) if s.get("name") in sidecars]
    count = sum(s.get("restartCount", 0) for s in statuses)
    ends = [get(s, "lastState.terminated.finishedAt") for s in statuses]
    last = max((end for end in ends if end), default=None)
    return f"{count} ({since(last, now)} ago)" if count and last else str(count)
