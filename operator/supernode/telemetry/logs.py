"""Structured logs: one JSON object a line, with the job and cycle that a line belongs to.

Flows in: ordinary `logging` records. Flows out: lines on a stream. `bound(job=..., cycle=...)` adds ids to every
line logged inside it, also in tasks started there. Secrets are never passed to a logger.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, TextIO

from supernode.plaintext import escaped, plain

# Characters of a message, and of a traceback (its end), that a line shows: errors may quote what others wrote.
LONGEST: Final = 8192
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_ids: ContextVar[Mapping[str, str]] = ContextVar("supernode_log_ids", default=_NOTHING)


@contextlib.contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Add `ids` to every line logged inside, in this task and in those it starts."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the bound ids, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": plain(record.getMessage(), LONGEST),
            **_ids.get(),
        }
        if record.exc_info:
            line["traceback"] = escaped(self.formatException(record.exc_info)[-LONGEST:], keep="\n")[-LONGEST:]
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The same for a person's eyes: time, level, message, ids."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        ids = "".join(f" {name}={value}" for name, value in _ids.get().items())
        line = f"{stamp} {record.levelname.lower():7} {plain(record.getMessage(), LONGEST)}{ids}"
        if record.exc_info:
            line += "\n" + escaped(self.formatException(record.exc_info)[-LONGEST:], keep="\n")[-LONGEST:]
        return line


def configure(form: str, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error by default).

    Args:
        form: ``json`` or ``text``.
        level: the lowest level shown.
        stream: where to.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # Their ordinary messages are about every request and every event.
    for name in ("kopf", "asyncio", "aiohttp", "kubernetes"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
