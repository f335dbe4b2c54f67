"""`supernode emulator trace`: what all devices of a job did when, as one file for Perfetto or chrome://tracing.

Flows in: addresses of sidecars' HTTP ports, or files with what they said. Flows out: one trace file, and a line per
device. Not here: what is recorded (`supernode.emulator.trace`).
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from supernode import names
from supernode.errors import InputError

_SECONDS: Final = 10.0
_LARGEST: Final = 1 << 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags of the subcommand."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help=f"HOST[:PORT] of a sidecar (default port {names.PORT_EMULATOR_HTTP}), its URL, or a file; one per worker",
    )
    parser.add_argument("--output", "-o", default="trace.json", help="file to write, - for the terminal")


def run(args: argparse.Namespace) -> int:
    """Gather what the sidecars of a job remember of their devices' work, as one trace for ui.perfetto.dev."""
    from supernode.emulator.trace_files import merge, summary

    trace = merge([(source, _read(source)) for source in args.sources])
    if args.output == "-":
        print(json.dumps(trace))
        return 0
    write(trace, args.output)
    for line in summary(trace):
        print(line)
    for source in trace["otherData"]["sources"]:
        dropped = source.get("droppedEvents") or {}
        for rank, count in dropped.items():
            print(f"rank {rank}: {count} earlier events were kept no longer", file=sys.stderr)
    print(f"wrote {args.output}: open it in https://ui.perfetto.dev or chrome://tracing")
    return 0


def write(trace: Mapping[str, Any], path: str) -> None:
    """Write a trace to a file; InputError when that cannot be."""
    try:
        Path(path).write_text(json.dumps(trace) + "\n", encoding="utf-8")
    except OSError as exc:
        raise InputError(f"cannot write {path}: {exc}") from exc


def _read(source: str) -> Any:
    path = Path(source)
    try:
        if "://" not in source and path.is_file():
            return json.loads(path.read_bytes())
        with urllib.request.urlopen(_address(source), timeout=_SECONDS) as answer:  # noqa: S310 - see `_address`
            return json.loads(answer.read(_LARGEST))
    except (OSError, urllib.error.URLError) as exc:
        raise InputError(f"{source} gives no trace: {exc}; is it a sidecar's HTTP port, or a file?") from exc
    except ValueError as exc:
        raise InputError(f"{source} is not JSON: {exc}") from exc


def _address(source: str) -> str:
    if "://" in source:
        if not source.startswith(("http://", "https://")):
            raise InputError(f"{source} is neither an http address nor a file")
        return source if source.rstrip("/").endswith("/trace") else f"{source.rstrip('/')}/trace"
    host = source if source.rpartition(":")[2].isdecimal() and ":" in source else f"{source}:{names.PORT_EMULATOR_HTTP}"
    return f"http://{host}/trace"
