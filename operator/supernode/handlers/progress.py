"""How far each job is: asks rank 0's sidecar while the job runs, and reads its last words when it has ended.

Flows in: running jobs and their pods. Flows out: `status.progress` and the MFU. What a sidecar says is untrusted:
only known fields of the right type and size are taken over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable
from typing import Any, Final

import aiohttp

from supernode.api.conditions import seconds_of
from supernode.api.job import TrainingJob
from supernode.cluster import pods, translate
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.cluster.observe import Observer
from supernode.errors import InputError
from supernode.handlers.context import Context
from supernode.names import PORT_EMULATOR_HTTP
from supernode.steptime.model import flops_per_step

logger = logging.getLogger(__name__)

# Seconds between two questions to one job; more when there are many jobs, so that asking stays cheap.
INTERVAL: Final = 2.0
SECONDS_PER_JOB: Final = 0.02
# Seconds that a sidecar may take to answer, and bytes that it may answer with.
TIMEOUT: Final = 2.0
LONGEST_ANSWER: Final = 16384
# Questions in flight at a time.
IN_FLIGHT: Final = 16
_LARGEST: Final = 2**53


def read_report(text: str | bytes) -> Json | None:
    """`status.progress` from a sidecar's JSON; None when it is none. Unknown and odd fields are left out."""
    try:
        given = json.loads(text)
    except ValueError:
        return None
    if not isinstance(given, dict):
        return None
    result: Json = {}
    for name in ("step", "tokens", "checkpointStep"):
        value = given.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
            result[name] = value
    for name in ("firstLoss", "loss", "stepSeconds"):
        value = given.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            # Six digits are what the figure is worth, and what fits a column.
            result[name] = float(f"{value:.6g}")
    digest = given.get("digest")
    if isinstance(digest, str) and len(digest) <= 128:
        result["digest"] = digest
    for name in ("updatedAt", "checkpointAt"):
        stamp = given.get(name)
        if isinstance(stamp, str) and len(stamp) <= 40 and _is_time(stamp):
            result[name] = stamp
    return result if "step" in result else None


def utilisation(
    model: TrainingJob, step_seconds: float, observer: Observer, placement: Json, tokens: float | None = None
) -> float | None:
    """Model FLOP/s utilisation: useful FLOP/s over the peak FLOP/s of all devices; None when a figure is unknown.

    `tokens`: of one step, as the worker has counted them; None = as many as the job's parallelism says.
    """
    shape = translate.model_shape(model.spec)
    cut = translate.parallelism(model.spec)
    if shape is None or cut is None or step_seconds <= 0:
        return None
    peak = 0.0
    for worker in placement.get("workers") or []:
        spec = observer.view.specs.get(worker.get("pool") or "")
        if spec is None:
            return None
        try:
            peak += spec.chip.peak_flops(shape.dtype) * len(worker.get("devices") or [])
        except InputError:
            return None
    batch = cut.batch if tokens is None else tokens / shape.sequence_length
    return flops_per_step(shape, 1) * batch / (step_seconds * peak) if peak > 0 else None


class Reports:
    """The latest report of each job, by uid."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[int, Json]] = {}

    def put(self, uid: str, attempt: int, report: Json) -> bool:
        """Keep a report; True when it says something new."""
        if self._reports.get(uid) == (attempt, report):
            return False
        self._reports[uid] = (attempt, report)
        return True

    def forget(self, uid: str) -> None:
        """The job is gone."""
        self._reports.pop(uid, None)

    def latest(self, obj: Json, model: TrainingJob | None, observer: Observer) -> tuple[Json | None, float | None]:
        """(progress, MFU) of a job: from its last words where it has ended, else from what it said last."""
        uid = obj["metadata"]["uid"]
        status = obj.get("status") or {}
        placement = status.get("placement") or {}
        attempt = placement.get("attempt")
        report: Json | None = None
        for pod in observer.pods_of(uid):
            if pods.rank_of(pod) == 0 and pods.attempt_of(pod) == attempt:
                report = read_report(pods.last_words(pod) or "null")
        if report is None:
            known = self._reports.get(uid)
            report = known[1] if known is not None and known[0] == attempt else None
        if report is None:
            return None, None
        mfu = None
        if model is not None and "stepSeconds" in report:
            steps, tokens = report["step"], report.get("tokens")
            counted = tokens / steps if tokens and steps else None
            mfu = utilisation(model, report["stepSeconds"], observer, placement, counted)
        # Six digits are more than anybody reads, and keep equal values equal.
        return report, None if mfu is None else float(f"{mfu:.6g}")


class ProgressPoller:
    """Asks the sidecars.

    Args:
        context: what handlers share.
        reports: where to put what they say.
        touch: called with a job that has something new.
    """

    def __init__(self, context: Context, reports: Reports, touch: Callable[[Key], None]) -> None:
        self._context = context
        self._reports = reports
        self._touch = touch

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            slots = asyncio.Semaphore(IN_FLIGHT)
            while True:
                targets = self._targets()
                await asyncio.gather(*(self._ask(session, slots, *target) for target in targets))
                await asyncio.sleep(max(INTERVAL, len(targets) * SECONDS_PER_JOB))

    def _targets(self) -> list[tuple[Key, str, int, str]]:
        """(job, uid, attempt, address of rank 0) of every running job with emulated devices."""
        found: list[tuple[Key, str, int, str]] = []
        observer = self._context.observer
        for key, obj in self._context.stores.jobs.objects().items():
            status: dict[str, Any] = obj.get("status") or {}
            if status.get("state") != "Running":
                continue
            placement = status.get("placement") or {}
            # Rank 0 tells; of a gang over several pools its own one counts.
            first: dict[str, Any] = next((w for w in placement.get("workers") or [] if w.get("rank") == 0), {})
            spec = observer.view.specs.get(first.get("pool") or placement.get("pool") or "")
            if spec is None or not spec.emulated:
                continue
            uid, attempt = obj["metadata"]["uid"], placement.get("attempt", 0)
            for pod in observer.pods_of(uid):
                if pods.rank_of(pod) == 0 and pods.attempt_of(pod) == attempt and pods.address_of(pod):
                    found.append((key, uid, attempt, pods.address_of(pod)))
        return found

    async def _ask(
        self, session: aiohttp.ClientSession, slots: asyncio.Semaphore, key: Key, uid: str, attempt: int, address: str
    ) -> None:
        host = f"[{address}]" if ":" in address else address
        async with slots:
            try:
                async with session.get(f"http://{host}:{PORT_EMULATOR_HTTP}/progress", allow_redirects=False) as answer:
                    text = await answer.content.read(LONGEST_ANSWER) if answer.status == 200 else b""
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                # Not reachable from here, or not there yet: its last words will still come with the pod's status.
                logger.debug("no progress from %s: %s", address, exc)
                return
        report = read_report(text)
        if report is not None and self._reports.put(uid, attempt, report):
            self._touch(key)


def _is_time(text: str) -> bool:
    try:
        seconds_of(text)
    except ValueError:
        return False
    return "T" in text and (text.endswith("Z") or "+" in text)
