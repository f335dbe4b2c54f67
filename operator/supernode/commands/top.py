"""`supernode top`: pools and jobs as a table that renews itself; once, where there is no terminal.

Ctrl-C ends it, and what was on the terminal before is there again.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time

from supernode.cluster.client import Client
from supernode.cluster.kinds import POOLS, Json
from supernode.commands.figures import age, number, percent, span, step_time
from supernode.commands.reading import (
    add_all_namespaces,
    add_options,
    answer,
    key_of,
    list_allowed,
    list_jobs,
    run_with,
)
from supernode.commands.status import STATES
from supernode.commands.terminal import Colour, Mark, Piece, Sheet, colour_of, emit, sheet_for
from supernode.errors import UnavailableError
from supernode.handlers.goodput import counted_until

# Running jobs first; those that have ended last.
_ORDER = ("Running", "Starting", "Restarting", "Waiting", "Pending", "Suspended", "Failed", "Succeeded")
# The other screen on and the cursor off; and back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_options(parser)
    add_all_namespaces(parser)
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks (%(default)s)"
    )
    parser.add_argument("--once", action="store_true", help="one look, as where there is no terminal")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be from 0.1 to 3600")
    return value


def run(args: argparse.Namespace) -> int:
    """Read and show, again and again on a terminal."""

    async def gather(client: Client) -> Json:
        jobs, _ = await list_jobs(client, args, everywhere=args.all_namespaces)
        return facts(await list_allowed(client, POOLS), jobs, time.time())

    if args.once or args.output != "table" or not sys.stdout.isatty():
        return answer(args, gather, render)

    async def body(client: Client) -> int:
        sys.stdout.write(_ENTER)
        try:
            found = await gather(client)
            remark = ""
            while True:
                sheet = sheet_for()
                stamp = time.strftime("%H:%M:%S")
                sheet.line(Mark(f"{client.host}  {stamp}  Ctrl-C ends", Colour.DIM), Mark(remark, Colour.RED))
                render(found, sheet, time.time())
                emit(frame(sheet.text(), shutil.get_terminal_size().lines))
                await asyncio.sleep(args.interval)
                try:
                    found, remark = await gather(client), ""
                except UnavailableError:
                    # The last look stays, with a word about it: a cluster that restarts comes back.
                    remark = "  no answer; this is old"
        finally:
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()

    return run_with(args, body)


def frame(text: str, lines: int) -> str:
    """What paints `text` over the last one, without flicker, in at most `lines` lines (the last one stays free)."""
    shown = text.split("\n")
    if len(shown) > lines - 1:
        shown = [*shown[: max(lines - 2, 1)], f"... {len(shown) - max(lines - 2, 1)} more lines"]
    return _HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in shown) + _REST_OF_SCREEN


def facts(pools: list[Json] | None, jobs: list[Json], now: float) -> Json:
    """The values that are shown, at `now` (seconds since the epoch)."""
    rows = [_job(job, now) for job in jobs]
    rows.sort(key=lambda row: (_ORDER.index(row["state"]) if row["state"] in STATES else len(_ORDER), row["job"]))
    return {
        "pools": [_pool(pool) for pool in sorted(pools or [], key=lambda pool: str(pool["metadata"]["name"]))],
        "jobs": rows,
    }


def _pool(pool: Json) -> Json:
    status = pool.get("status") or {}
    return {
        "name": str(pool["metadata"]["name"]),
        "devices": int(status.get("capacity") or 0),
        "allocated": int(status.get("allocated") or 0),
        "free": int(status.get("free") or 0),
        "unhealthy": int(status.get("unhealthy") or 0),
    }


def _job(job: Json, now: float) -> Json:
    spec, status = job.get("spec") or {}, job.get("status") or {}
    progress, placement = status.get("progress") or {}, status.get("placement") or {}
    return {
        "job": key_of(job),
        "state": str(status.get("state") or "Pending"),
        "ready": str(status.get("ready") or ""),
        "devices": int(spec.get("workers") or 1) * int(spec.get("acceleratorsPerWorker") or 1),
        "pool": str(placement.get("pool") or ""),
        "domain": str(placement.get("domain") or ""),
        "step": progress.get("step"),
        "loss": progress.get("loss"),
        "stepSeconds": progress.get("stepSeconds"),
        "predictedStepSeconds": placement.get("predictedStepSeconds"),
        "mfu": status.get("mfu"),
        "goodput": counted_until(status, job["metadata"].get("creationTimestamp"), now).get("share"),
        "remainingSeconds": progress.get("remainingSeconds"),
        "stragglers": [entry.get("rank") for entry in status.get("stragglers") or []],
        "restarts": int(status.get("restarts") or 0),
        "created": job["metadata"].get("creationTimestamp"),
    }


def render(found: Json, sheet: Sheet, now: float) -> None:
    """The table form."""
    if found["pools"]:
        rows = [
            [
                pool["name"],
                bar(pool["allocated"], pool["devices"]),
                f"{pool['allocated']} of {pool['devices']}",
                Mark(str(pool["unhealthy"] or ""), Colour.RED),
            ]
            for pool in found["pools"]
        ]
        sheet.table(("POOL", "", "HELD", "UNHEALTHY"), rows)
        sheet.blank()
    if not found["jobs"]:
        sheet.line("no jobs")
        return
    sheet.table(
        (
            "JOB",
            "STATE",
            "READY",
            "DEVICES",
            "STEP",
            "LOSS",
            "STEP TIME",
            "PREDICTED",
            "MFU",
            "GOODPUT",
            "LEFT",
            "AGE",
            "RESTARTS",
            "DOMAIN",
            "POOL",
        ),
        [_row(job, now) for job in found["jobs"]],
    )


def _row(job: Json, now: float) -> list[Piece]:
    return [
        job["job"],
        Mark(job["state"], colour_of(job["state"])),
        job["ready"],
        str(job["devices"]),
        number(job["step"]),
        number(job["loss"], ".4g"),
        step_time(job["stepSeconds"] or None),  # 0: steps without work on a device
        step_time(job["predictedStepSeconds"]),
        percent(job["mfu"]),
        percent(job["goodput"]),
        "" if job["remainingSeconds"] is None else span(job["remainingSeconds"]),
        age(job["created"], now),
        Mark(str(job["restarts"] or ""), Colour.YELLOW),
        job["domain"],
        job["pool"],
    ]


def bar(part: int, whole: int, width: int = 20) -> str:
    """`[#####.....]`; a part above 0 shows at least one mark, and only the whole fills it."""
    if whole <= 0:
        return f"[{' ' * width}]"
    filled = part * width // whole
    if part > 0:
        filled = max(filled, 1)
    filled = min(filled, width)
    return f"[{'#' * filled}{'.' * (width - filled)}]"
