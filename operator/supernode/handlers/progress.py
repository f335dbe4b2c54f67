"""How far each job is: asks the sidecars while the job runs, and reads rank 0's last words when it has ended.

Flows in: running jobs and their pods. Flows out: `status.progress`, the MFU, and which ranks are slow. Rank 0 is asked
every time, of the others a few at a time, in turn. What a sidecar says is untrusted: only known fields of the right
type and size are taken over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable
from typing import Final

import aiohttp

from supernode.api.conditions import seconds_of
from supernode.api.job import TrainingJob
from supernode.cluster import pods, translate
from supernode.cluster.assignment import workers_of
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.cluster.observe import Observer
from supernode.errors import InputError
from supernode.handlers.asking import Target, gang_of, targets
from supernode.handlers.context import Context
from supernode.handlers.sizes import model_at
from supernode.handlers.stragglers import Pace, likes_of, pace_of
from supernode.names import PORT_EMULATOR_HTTP
from supernode.steptime.model import flops_per_step

logger = logging.getLogger(__name__)

# Seconds between two questions to one job; more when many are asked, so that asking stays cheap.
INTERVAL: Final = 2.0
SECONDS_PER_QUESTION: Final = 0.02
# Seconds that a sidecar may take to answer, and bytes that it may answer with.
TIMEOUT: Final = 2.0
LONGEST_ANSWER: Final = 16384
# Questions in flight at a time.
IN_FLIGHT: Final = 16
_LARGEST: Final = 2**53
# Largest figure that a number of no fixed unit may be (a loss, say).
_MOST: Final = 1e30
_DIGEST: Final = re.compile(r"[0-9A-Za-z:+/=_.-]{1,128}", re.ASCII)
# Fields of a status that change from report to report.
_TOLD: Final = ("progress", "mfu", "goodput")


def read_report(text: str | bytes) -> Json | None:
    """`status.progress` from a sidecar's JSON; None when it is none. Unknown and odd fields are left out."""
    given = _object_in(text)
    if given is None:
        return None
    result: Json = {}
    for name in ("step", "tokens", "steps", "checkpointStep"):
        value = given.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
            result[name] = value
    for name in ("firstLoss", "loss", "stepSeconds"):
        value = given.get(name)
        # Compared, not asked isfinite: an integer may have more digits than a float can take.
        if isinstance(value, int | float) and not isinstance(value, bool) and -_MOST <= value <= _MOST:
            # Six digits are what the figure is worth, and what fits a column.
            result[name] = float(f"{value:.6g}")
    digest = given.get("digest")
    if isinstance(digest, str) and _DIGEST.fullmatch(digest):
        result["digest"] = digest
    for name in ("updatedAt", "checkpointAt"):
        stamp = given.get(name)
        if isinstance(stamp, str) and len(stamp) <= 40 and _is_time(stamp):
            result[name] = stamp
    return result if "step" in result else None


def own_seconds(text: str | bytes) -> float | None:
    """What a rank's own work takes of a step, from its sidecar's JSON; None where it does not say."""
    value = (_object_in(text) or {}).get("ownSeconds")
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
        return None
    return float(value)


def utilisation(
    model: TrainingJob, step_seconds: float, observer: Observer, placement: Json, tokens: float | None = None
) -> float | None:
    """Model FLOP/s utilisation: useful FLOP/s over the peak FLOP/s of all devices; None when a figure is unknown.

    `tokens`: of one step, as the worker has counted them; None = as many as the job's parallelism says.
    """
    workers = workers_of(placement)
    shape = translate.model_shape(model.spec)
    # What the ranks that are placed train together: of a gang with fewer workers that may be a smaller batch.
    cut = translate.parallelism(model_at(model, len(workers) or model.spec.workers).spec)
    if shape is None or cut is None or step_seconds <= 0:
        return None
    peak = 0.0
    for worker in workers:
        spec = observer.view.specs.get(worker.pool)
        if spec is None:
            return None
        try:
            peak += spec.chip.peak_flops(shape.dtype) * len(worker.devices)
        except InputError:
            return None
    batch = cut.batch if tokens is None else tokens / shape.sequence_length
    return flops_per_step(shape, 1) * batch / (step_seconds * peak) if peak > 0 else None


class Reports:
    """The latest report of each job, by uid."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[int, Json]] = {}
        # uid -> (attempt, time, step) of the first report, to see how fast wall time goes by.
        self._first: dict[str, tuple[int, float, int]] = {}
        self._left: dict[str, tuple[int, int]] = {}
        # uid -> (attempt, rank -> seconds of its own work in a step)
        self._own: dict[str, tuple[int, dict[int, float]]] = {}

    def put(self, uid: str, attempt: int, report: Json, now: float = 0.0) -> bool:
        """Keep a report that came now; True when it says something new."""
        if self._reports.get(uid) == (attempt, report):
            return False
        self._reports[uid] = (attempt, report)
        known = self._first.get(uid)
        if known is None or known[0] != attempt or report["step"] < known[2]:
            known = self._first[uid] = (attempt, now, report["step"])
        done, steps = report["step"] - known[2], report.get("steps")
        self._left.pop(uid, None)
        if steps is not None and done > 0 and now > known[1]:
            left = max(0, steps - report["step"]) * (now - known[1]) / done
            self._left[uid] = (attempt, math.ceil(min(left, _LARGEST)))
        return True

    def put_own(self, uid: str, attempt: int, rank: int, seconds: float) -> None:
        """Keep what a rank's own work takes of a step."""
        known = self._own.get(uid)
        if known is None or known[0] != attempt:
            known = self._own[uid] = (attempt, {})
        known[1][rank] = seconds

    def pace(self, obj: Json, model: TrainingJob | None) -> Pace:
        """How the ranks of a job compare."""
        status = obj.get("status") or {}
        placement = status.get("placement") or {}
        uid, attempt = obj["metadata"]["uid"], placement.get("attempt")
        known = self._own.get(uid)
        if model is None or known is None or known[0] != attempt:
            return Pace()
        report = self._reports.get(uid)
        step = report[1].get("stepSeconds") if report is not None and report[0] == attempt else None
        slow = {entry.get("rank") for entry in status.get("stragglers") or []}
        nodes = {worker.rank: worker.node for worker in workers_of(placement)}
        return pace_of(known[1], likes_of(model, placement), nodes, step, slow)

    def forget(self, uid: str) -> None:
        """The job is gone."""
        for known in (self._reports, self._first, self._left, self._own):
            known.pop(uid, None)

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
            left = self._left.get(uid)
            if report is not None and left is not None and left[0] == attempt:
                report = {**report, "remainingSeconds": left[1]}
        elif "steps" in report:
            report["remainingSeconds"] = 0 if report["step"] >= report["steps"] else None
        if report is None:
            return None, None
        mfu = None
        if model is not None and "stepSeconds" in report:
            steps, tokens = report["step"], report.get("tokens")
            counted = tokens / steps if tokens and steps else None
            mfu = utilisation(model, report["stepSeconds"], observer, placement, counted)
        # Three digits are what the figure is worth, and what fits a column: none can be formatted there.
        return report, None if mfu is None else float(f"{mfu:.3g}")


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
        self._turn = 0

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            slots = asyncio.Semaphore(IN_FLIGHT)
            while True:
                asked = self._targets()
                await asyncio.gather(*(self._ask(session, slots, target) for target in asked))
                await asyncio.sleep(max(INTERVAL, len(asked) * SECONDS_PER_QUESTION))

    def _targets(self) -> list[Target]:
        """Rank 0 and some others of every running job with emulated devices."""
        self._turn += 1
        stores, specs = self._context.stores, self._context.observer.view.specs
        found = (gang_of(key, obj, specs) for key, obj in stores.jobs.objects().items())
        return targets([gang for gang in found if gang is not None], stores.pods, self._turn)

    async def _ask(self, session: aiohttp.ClientSession, slots: asyncio.Semaphore, target: Target) -> None:
        key, uid, attempt, rank, address = target
        host = f"[{address}]" if ":" in address else address
        async with slots:
            try:
                async with session.get(f"http://{host}:{PORT_EMULATOR_HTTP}/progress", allow_redirects=False) as answer:
                    text = await answer.content.read(LONGEST_ANSWER) if answer.status == 200 else b""
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                # Not reachable from here, or not there yet: its last words will still come with the pod's status.
                logger.debug("no progress from %s: %s", address, exc)
                return
        own = own_seconds(text)
        if own is not None:
            self._reports.put_own(uid, attempt, rank, own)
        report = read_report(text) if rank == 0 else None
        if report is not None and self._reports.put(uid, attempt, report, self._context.now()):
            self._touch(key)


def tells_only(old: Json, new: Json) -> bool:
    """Whether two versions of a job differ only in what is told of its progress, by which nothing is decided."""

    def rest(obj: Json) -> tuple[Json, Json, str | None]:
        metadata = {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}
        status = obj.get("status") or {}
        # A checkpoint ends the wait of a gang that is to stop.
        saved = (status.get("progress") or {}).get("checkpointAt")
        return metadata, {name: value for name, value in status.items() if name not in _TOLD}, saved

    return old["metadata"].get("generation", 0) == new["metadata"].get("generation", 0) and rest(old) == rest(new)


def _object_in(text: str | bytes) -> Json | None:
    """The JSON object that a text is; None if it is none, brackets nested deeper than anybody reads included."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def _is_time(text: str) -> bool:
    try:
        seconds_of(text)
    except ValueError:
        return False
    return "T" in text and (text.endswith("Z") or "+" in text)
