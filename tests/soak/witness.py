"""What the operator did, seen in the changes of the jobs: so that a schedule that never preempts is not taken for one.

In: each change of a job. Out: notes in the ledger.
"""

from __future__ import annotations

from tests.builders.placements import workers_in
from tests.soak.ledger import Ledger

from supernode.cluster.kinds import Json


def watch_job(ledger: Ledger, was: Json | None, now: Json) -> None:
    """Note what this change of a job means."""
    old, new = (was or {}).get("status") or {}, now.get("status") or {}
    state, before = new.get("state"), old.get("state")
    if state != before:
        names = {"Suspended": "suspended", "Succeeded": "succeeded", "Failed": "failed by policy"}
        if state in names:
            ledger.note(names[state])
    if (new.get("restarts") or 0) > (old.get("restarts") or 0):
        ledger.note("gang restarted")
    if _reason(new) == "WaitingForQuota" != _reason(old):
        ledger.note("waits for quota")
    plan = old.get("disruption") or {}
    if plan.get("kind") == "Repair" and plan.get("deadline") and old.get("placement") and not new.get("placement"):
        ledger.note("released whole")
    _disruption(ledger, old.get("disruption") or {}, new.get("disruption") or {})
    _placement(ledger, old, new, now["spec"]["workers"])


def _disruption(ledger: Ledger, old: Json, new: Json) -> None:
    kind = new.get("kind")
    if kind and (kind, new.get("by")) != (old.get("kind"), old.get("by")):
        message = str(new.get("message"))
        if kind == "Preemption":
            ledger.note("quota reclaimed" if "gives borrowed devices back" in message else "preemption")
            if new.get("workers"):
                ledger.note("shrunk for others")
        elif kind == "Resize":
            ledger.note("grown" if new.get("by") == "growth" else "scaled")
    if kind == "Repair" and new.get("deadline") and not old.get("deadline"):
        ledger.note("held wounded")


def _placement(ledger: Ledger, old: Json, new: Json, wanted: int) -> None:
    was, now = old.get("placement") or {}, new.get("placement") or {}
    if not now or now == was:
        return
    places = [(each["node"], tuple(each["devices"])) for each in workers_in(now)]
    left = [(each["node"], tuple(each["devices"])) for each in workers_in(was)]
    if len({each["pool"] for each in now.get("stages") or []}) > 1:
        ledger.note("stages over two pools")
    if not left:
        ledger.note("gang placed")
        if len(places) < wanted:
            ledger.note("started small")
        return
    kind = (old.get("disruption") or {}).get("kind")
    stayed = sum(before == after for before, after in zip(left, places, strict=False))
    if kind == "Migration" and places != left:
        ledger.note("moved to make room")
    elif kind == "Repair" and 0 < stayed < len(places):
        alone = was.get("attempt") == now.get("attempt")
        ledger.note("worker replaced alone" if alone else "repaired in place")


def _reason(status: Json) -> str:
    return next((c.get("reason", "") for c in status.get("conditions") or [] if c["type"] == "Scheduled"), "")
