"""What the demo promises, checked against what the cluster did: pure functions from objects to verdict and table.

In: the final TrainingJob objects, the workers' pods and last log lines, and what was seen on the way (`Observation`).
Out: a report (plain JSON values) with one entry per job and one per check. Nothing here talks to a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

# The loss must be at least this much below the unigram model's, in nats per byte, to count as "clearly below".
MARGIN_NATS: Final = 0.3
# How far the emulated step may be from the predicted one.
AGREEMENT: Final = 0.1

Object = Mapping[str, Any]


@dataclass
class Observation:
    """What the demo saw while the jobs ran; filled in by the poller, read by the checks.

    Attributes:
        waiting_message: the sentence of the wide job's `Scheduled=False` condition while the first job ran.
        waiting_event: the same from an event on the wide job.
        refusals: per broken manifest, what the API server or the `Accepted` condition said.
        partial_gangs: moments at which a gang ran with only some of its pods there, as text.
    """

    waiting_message: str = ""
    waiting_event: str = ""
    refusals: dict[str, str] = field(default_factory=dict)
    partial_gangs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One promise: what it is, whether it held, and the figures that show it."""

    name: str
    held: bool
    detail: str


def last_json_line(log: str) -> dict[str, Any]:
    """The last line of `log` that is a JSON object; empty if there is none."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                return value
    return {}


def condition(job: Object, kind: str) -> Object:
    """The condition of that type, or an empty mapping."""
    for entry in job.get("status", {}).get("conditions", []):
        if entry.get("type") == kind:
            return entry  # type: ignore[no-any-return]
    return {}


def job_row(job: Object) -> dict[str, Any]:
    """The figures of one job for table and report; what is not known is None."""
    status = job.get("status", {})
    placement = status.get("placement") or {}
    progress = status.get("progress") or {}
    return {
        "job": job["metadata"]["name"],
        "state": status.get("state"),
        "domain": placement.get("domain"),
        "workersReady": status.get("ready"),
        "predictedStepSeconds": placement.get("predictedStepSeconds"),
        "emulatedStepSeconds": progress.get("stepSeconds"),
        "mfu": status.get("mfu"),
        "firstLoss": progress.get("firstLoss"),
        "lastLoss": progress.get("loss"),
        "message": status.get("message"),
    }


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_training(name: str, job: Object, finals: Sequence[Mapping[str, Any]]) -> list[Check]:
    """The training job's promises: it ended, learned, and all ranks hold the same parameters.

    Args:
        name: the job's name.
        job: the TrainingJob as it ended.
        finals: the last JSON line of each worker's log, by rank.
    """
    workers = int(job.get("spec", {}).get("workers", 0))
    devices = workers * int(job.get("spec", {}).get("acceleratorsPerWorker", 0))
    state = job.get("status", {}).get("state")
    checks = [Check(f"{name} succeeded", state == "Succeeded", f"state {state}")]
    losses = [(final.get("lastLoss"), final.get("unigramLoss")) for final in finals]
    learned = len(losses) == workers and all(
        _number(last) and _number(unigram) and last < unigram - MARGIN_NATS for last, unigram in losses
    )
    detail = ", ".join(
        f"rank {rank}: loss {_cell(last, '.4f')}, unigram {_cell(unigram, '.4f')}"
        for rank, (last, unigram) in enumerate(losses)
    )
    checks.append(
        Check(f"{name} learned more than byte frequencies (by {MARGIN_NATS} nats)", learned, detail or "no final line")
    )
    digests = [digest for final in finals for digest in final.get("digests", [])]
    identical = len(digests) == devices and len(set(digests)) == 1
    checks.append(
        Check(
            f"{name}: parameters bit-identical on all {devices} devices",
            identical,
            f"{len(digests)} digests, {len(set(digests))} distinct: {', '.join(sorted({d[:16] for d in digests}))}",
        )
    )
    row = job_row(job)
    timed = all(_number(row[key]) and row[key] > 0 for key in ("predictedStepSeconds", "emulatedStepSeconds", "mfu"))
    checks.append(
        Check(
            f"{name}: emulated step within {AGREEMENT:.0%} of the predicted one, and an MFU",
            timed and abs(row["emulatedStepSeconds"] / row["predictedStepSeconds"] - 1) <= AGREEMENT,
            f"predicted {_seconds(row['predictedStepSeconds'])}, emulated {_seconds(row['emulatedStepSeconds'])}, "
            f"MFU {_cell(row['mfu'], '.2e')}",
        )
    )
    return checks


def check_waiting(first: Object, wide: Object, pods: Sequence[Object], seen: Observation) -> list[Check]:
    """The wide job's promises: it waited and said why, then started by itself, all workers at once.

    Args:
        first: the job that held the devices, as it ended.
        wide: the job that waited, as it ended.
        pods: the wide job's pods.
        seen: what was seen on the way.
    """
    workers = int(wide.get("spec", {}).get("workers", 0))
    says_numbers = sum(character.isdigit() for character in seen.waiting_message) >= 3
    holder = first["metadata"]["name"] in seen.waiting_message
    created = sorted(pod["metadata"]["creationTimestamp"] for pod in pods)
    ended = str(first.get("status", {}).get("completionTime") or "")
    after = bool(created) and bool(ended) and created[0] >= ended
    state = wide.get("status", {}).get("state")
    return [
        Check("wide waited and its condition said why", says_numbers and holder, seen.waiting_message or "nothing"),
        Check("an event said the same", bool(seen.waiting_event), seen.waiting_event or "no event"),
        Check(
            "wide started by itself after gpt had ended",
            after,
            f"gpt ended {ended or 'never'}, first pod of wide {created[0] if created else 'never'}",
        ),
        Check(
            f"wide started all {workers} workers at once",
            len(created) == workers and not seen.partial_gangs,
            "; ".join(seen.partial_gangs) or f"{len(created)} pods created {' '.join(sorted(set(created)))}",
        ),
        Check("wide succeeded", state == "Succeeded", f"state {state}"),
    ]


def check_refusals(expected: Mapping[str, str], seen: Observation) -> list[Check]:
    """Each broken manifest was refused, naming the field.

    Args:
        expected: broken job's name -> the field that must be named.
        seen: what was said about it.
    """
    return [
        Check(
            f"{name} refused, naming {field_}",
            field_ in seen.refusals.get(name, ""),
            seen.refusals.get(name, "not refused"),
        )
        for name, field_ in expected.items()
    ]


def _cell(value: Any, form: str) -> str:
    return format(value, form) if _number(value) else "-"


def _seconds(value: Any) -> str:
    if not _number(value):
        return "-"
    return f"{value * 1e3:.3f} ms" if value < 1 else f"{value:.3f} s"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The jobs as a table of at most 100 columns for a terminal."""
    head = ("JOB", "STATE", "DOMAIN", "READY", "PREDICTED", "EMULATED", "MFU", "LOSS")
    lines = [head]
    for row in rows:
        loss = "-"
        if _number(row["firstLoss"]) and _number(row["lastLoss"]):
            loss = f"{row['firstLoss']:.2f} -> {row['lastLoss']:.2f}"
        lines.append(
            (
                str(row["job"]),
                str(row["state"] or "-"),
                str(row["domain"] or "-"),
                str(row["workersReady"] or "-"),
                _seconds(row["predictedStepSeconds"]),
                _seconds(row["emulatedStepSeconds"]),
                _cell(row["mfu"], ".2e"),
                loss,
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
