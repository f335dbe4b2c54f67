"""`supernode emulator trace`: what all devices of a job did when, as one file for Perfetto or chrome://tracing.

Flows in: addresses of sidecars' HTTP ports, or files with what they said. Flows out: one trace file, and a line per
device. Not here: what is recorded (`supernode.emulator.trace`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from supernode import names
from supernode.errors import InputError

_SECONDS: Final = 10.0
#: Bytes of the largest trace that is read.
LARGEST: Final = 1 << 30
# Pods are inside the cluster: a proxy towards the world, from the environment, does not lead there.
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
    if "://" in source or not path.is_file():
        return fetch(_address(source), source)
    try:
        return json.loads(path.read_bytes())
    except OSError as exc:
        raise InputError(f"{source} cannot be read: {exc}") from exc
    except ValueError as exc:
        raise InputError(f"{source} is not JSON: {exc}") from exc


def fetch(url: str, source: str = "") -> Any:
    """The trace that a sidecar's HTTP port gives.

    Args:
        url: of its /trace.
        source: what the person wrote, for the message.

    Raises:
        InputError: it gives none.
    """
    said = source or url
    try:
        with _DIRECT.open(url, timeout=_SECONDS) as answer:
            return json.loads(answer.read(LARGEST))
    except (OSError, http.client.HTTPException) as exc:
        raise InputError(f"{said} gives no trace: {exc}; is it a sidecar's HTTP port, or a file?") from exc
    except ValueError as exc:
        raise InputError(f"{said} is not JSON: {exc}") from exc


def _address(source: str) -> str:
    if "://" in source:
        if not source.startswith(("http://", "https://")):
            raise InputError(f"{source} is neither an http address nor a file")
        return source if source.rstrip("/").endswith("/trace") else f"{source.rstrip('/')}/trace"
    host = source if source.rpartition(":")[2].isdecimal() and ":" in source else f"{source}:{names.PORT_EMULATOR_HTTP}"
    return f"http://{host}/trace"
