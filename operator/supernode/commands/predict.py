"""`supernode predict`: step time, parts, memory and MFU of the jobs in a CSV file, or the best way to cut them.

In: a CSV file, one job a row (columns: `predict_rows.COLUMNS`). Out: a table of seconds and one of memory, or with
`--json` (or `-o json`) one object a line; rows that are wrong are named on standard error by line and column, and the
others are still done. Exit status 0 if every row was done, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from supernode.commands.chips import table
from supernode.commands.documents import FORMATS, document
from supernode.commands.predict_rows import Job, RowError, Unknown, jobs
from supernode.errors import InputError
from supernode.steptime.memory import Memory
from supernode.steptime.model import Parallelism
from supernode.steptime.predict import PARTS, StepTime, predict
from supernode.steptime.search import Found, search

_GIB: Final = 2**30
_MOST_BYTES: Final = 64 * 2**20
_HEADER: Final = ("LINE", "MODEL", "CHIP", "DEVICES", "STEP_S", *(f"{name.upper()}_S" for name in PARTS))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--csv", required=True, metavar="FILE", help="one job a row; - reads standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument(
        "-o", "--output", choices=FORMATS, default="table", help="json: the same as --json; yaml: one document a row"
    )
    parser.add_argument(
        "--search", action="store_true", help="find the best parallelism of each row's model and devices"
    )


def run(args: argparse.Namespace) -> int:
    """Predict and print.

    Raises:
        InputError: the file can't be read, or has no header.
    """
    bad = 0
    form = "json" if args.json else args.output
    done: list[tuple[Job, StepTime]] = []
    for row in jobs(_read(args.csv), args.csv):
        try:
            if isinstance(row, Unknown):
                print(f"supernode predict: {row}", file=sys.stderr)
                continue
            if isinstance(row, RowError):
                raise row
            if args.search:
                _print_search(row, row.guard(_searched), form)
            else:
                step = row.guard(_predicted)
                done.append((row, step))
                if form != "table":
                    _print_object(_object(row, step), form)
        except RowError as exc:
            bad += 1
            print(f"supernode predict: {exc}", file=sys.stderr)
    if not args.search and form == "table":
        _print_table(done)
    return 1 if bad else 0


def _predicted(job: Job) -> StepTime:
    return predict(job.chip, job.model, job.cut(), job.wiring())


def _searched(job: Job) -> tuple[Found, ...]:
    return search(*job.question())


def _read(path: str) -> str:
    """The text of the file.

    Raises:
        InputError: it can't be read, is too large, or is not text.
    """
    try:
        data = sys.stdin.buffer.read(_MOST_BYTES + 1) if path == "-" else Path(path).read_bytes()
        if len(data) > _MOST_BYTES:
            raise InputError(f"{path} is larger than {_MOST_BYTES // 2**20} MiB; split it")
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} is not UTF-8 text: {exc.reason} at byte {exc.start}") from exc


def _object(job: Job, step: StepTime) -> dict[str, Any]:
    """What `--json` says of one row."""
    return {
        "line": job.line,
        "model": job.name,
        "chip": job.chip.name,
        "devices": job.devices,
        "step_s": step.seconds,
        "parts": asdict(step.parts),
        "mfu": step.mfu,
        "memory_gib": step.memory_bytes / _GIB,
        "memory_parts_gib": {name: part / _GIB for name, part in step.memory._asdict().items()},
        "memory_limit_gib": None if step.memory_limit is None else step.memory_limit / _GIB,
        "fits": step.fits,
        "calibrated": step.calibrated and not job.notes,
        "notes": [*step.notes, *job.notes],
        "measured_s": job.measured,
        "error_pct": _error(job, step),
    }


def _error(job: Job, step: StepTime) -> float | None:
    return None if job.measured is None else (step.seconds / job.measured - 1) * 100


def _print_table(done: Sequence[tuple[Job, StepTime]]) -> None:
    """All rows, then the mean error and the assumptions."""
    if not done:
        return
    rows: list[Sequence[str]] = [(*_HEADER, "MEM_GIB", "FITS", "MFU_%", "MEASURED_S", "ERROR_%")]
    errors, notes = [], []
    for job, step in done:
        error = _error(job, step)
        mark = "" if step.calibrated and not job.notes else "*"
        rows.append(
            (
                str(job.line),
                job.name,
                job.chip.name + mark,
                str(job.devices),
                f"{step.seconds:.4g}",
                *(f"{getattr(step.parts, name):.3g}" for name in PARTS),
                f"{step.memory_bytes / _GIB:.1f}",
                "yes" if step.fits else "no",
                f"{step.mfu * 100:.1f}",
                "-" if job.measured is None else f"{job.measured:.4g}",
                "-" if error is None else f"{error:+.1f}",
            )
        )
        if error is not None:
            errors.append(abs(error))
        notes += [f"{job.chip.name}: {note}" for note in (*step.notes, *job.notes)]
    print(table(rows))
    _print_memory(done)
    if errors:
        print(f"\nmean absolute error of {len(errors)} measured rows: {sum(errors) / len(errors):.2f} %")
    for note in dict.fromkeys(notes):
        print(f"* {note}")


def _print_memory(done: Sequence[tuple[Job, StepTime]]) -> None:
    """What the fullest device of each row holds."""
    rows: list[Sequence[str]] = [("LINE", "MODEL", *(f"{name.upper()}_GIB" for name in Memory._fields), "SUM", "LIMIT")]
    for job, step in done:
        limit = "unknown" if step.memory_limit is None else f"{step.memory_limit / _GIB:.1f}"
        parts = (f"{part / _GIB:.1f}" for part in step.memory)
        rows.append((str(job.line), job.name, *parts, f"{step.memory_bytes / _GIB:.1f}", limit))
    print("\nmemory of the fullest device")
    print(table(rows))


def _print_object(found: object, form: str) -> None:
    """One row: a line of JSON, or a document of YAML."""
    print(json.dumps(found) if form == "json" else f"---\n{document(found, form)}")


def _print_search(job: Job, found: Sequence[Found], form: str) -> None:
    """The top ten of one row, and why."""
    if form != "table":
        _print_object(_search_object(job, found), form)
        return
    print(f"{job.name}: {job.devices} x {job.chip.name}, {job.batch} samples a step, {found[0].tried} cuts compared")
    header = (
        "",
        "TP",
        "PP",
        "DP",
        "CP",
        "EP",
        "INTERLEAVE",
        "MICRO",
        "RECOMPUTE",
        "ZERO",
        "STEP_S",
        "MFU_%",
        "MEM_GIB",
    )
    rows: list[Sequence[str]] = [(*header, "WHY")]
    whys = list(_whys(job, found))
    for place, (one, why) in enumerate(zip(found, whys, strict=True), 1):
        p = one.parallelism
        numbers = (p.tensor, p.pipeline, p.data, p.context, p.expert, p.interleave, p.micro_batch_size)
        rows.append(
            (
                str(place),
                *map(str, numbers),
                p.recompute,
                str(p.zero_stage),
                f"{one.seconds:.4g}",
                f"{one.mfu * 100:.1f}",
                f"{one.memory_bytes / _GIB:.1f}",
                why,
            )
        )
    print(table(rows))
    for note in job.notes:
        print(f"* {note}")
    print()


def _search_object(job: Job, found: Sequence[Found]) -> dict[str, Any]:
    return {
        "line": job.line,
        "model": job.name,
        "chip": job.chip.name,
        "devices": job.devices,
        "tried": found[0].tried,
        "notes": list(job.notes),
        "best": [
            {
                **_words(one.parallelism),
                "step_s": one.seconds,
                "parts": asdict(one.parts),
                "mfu": one.mfu,
                "memory_gib": one.memory_bytes / _GIB,
                "fits": one.fits,
                "why": why,
            }
            for one, why in zip(found, _whys(job, found), strict=True)
        ],
    }


def _words(p: Parallelism) -> dict[str, Any]:
    """A parallelism in the names of the CSV columns."""
    return {
        "tp": p.tensor,
        "pp": p.pipeline,
        "dp": p.data,
        "cp": p.context,
        "ep": p.expert,
        "interleave": p.interleave,
        "sequence_parallel": p.sequence_parallel,
        "recompute": p.recompute,
        "zero_stage": p.zero_stage,
        "micro_batch": p.micro_batch_size,
        "global_batch": p.batch,
    }


def _whys(job: Job, found: Sequence[Found]) -> Iterator[str]:
    """For the best, where its time goes; for each other, what costs it most against the best."""
    best = found[0]
    limit = job.chip.memory_bytes
    for one in found:
        if not one.fits and limit is not None:
            yield f"does not fit: {(one.memory_bytes - limit) / _GIB:.1f} GiB too much"
        elif one is best:
            shares = sorted(((getattr(one.parts, name), name) for name in PARTS), reverse=True)
            yield ", ".join(f"{name} {value / one.seconds * 100:.0f} %" for value, name in shares[:4] if value > 0)
        else:
            yield _against(one, best)


def _against(one: Found, best: Found) -> str:
    """What makes a cut slower than the best one."""

    def more(name: str) -> float:
        mine, theirs = one.parts, best.parts
        return float(getattr(mine, name) - getattr(theirs, name))

    worst = max(PARTS, key=more)
    if one.seconds <= best.seconds * 1.0005:
        return "as fast; cut further" if _ways(one.parallelism) > _ways(best.parallelism) else "as fast"
    return f"{(one.seconds / best.seconds - 1) * 100:.1f} % slower: {worst} +{more(worst):.3g} s"


def _ways(p: Parallelism) -> int:
    return p.tensor * p.pipeline * p.context * p.interleave
