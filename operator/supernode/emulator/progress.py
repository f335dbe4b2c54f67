"""How far the training of this pod has come: what the worker reports, and the device time between reports.

Flows in: reports (step, loss, tokens ...) with the device time at that moment. Flows out: the JSON that /progress, the
metrics and the termination message show. A step's time is the device time between two reports, divided by the steps
between them; the median over all steps is published. Not here: who reads it.
"""

from __future__ import annotations

import json
import math
import statistics
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from supernode.errors import ProtocolError

#: Bytes of a termination message that a kubelet keeps.
MESSAGE_BYTES: Final = 4096
#: Steps whose times the median is taken over, the latest ones.
_STEPS: Final = 4096
#: The same for the time of a rank's own work: few enough to show soon that it has become slow.
_OWN_STEPS: Final = 32
_EXTRA: Final = 32


@dataclass(frozen=True, slots=True)
class Report:
    """One report of the worker, checked."""

    step: int
    loss: float | None
    tokens: int | None
    digest: str | None
    steps: int | None = None
    checkpoint: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def checked(fields: object) -> Report:
    """A report from the wire.

    Raises:
        ProtocolError: a field of the wrong type.
    """
    if not isinstance(fields, dict):
        raise ProtocolError(f"a report must be an object, not {type(fields).__name__}")
    rest = dict(fields)
    step, loss, tokens = rest.pop("step", None), rest.pop("loss", None), rest.pop("tokens", None)
    digest = rest.pop("digest", None)
    steps, checkpoint = rest.pop("steps", None), rest.pop("checkpoint", None)
    if not _whole(step):
        raise ProtocolError(f"report: step must be a whole number of 0 or more, not {step!r}")
    if loss is not None and (isinstance(loss, bool) or not isinstance(loss, int | float)):
        raise ProtocolError(f"report: loss must be a number, not {loss!r}")
    if tokens is not None and not _whole(tokens):
        raise ProtocolError(f"report: tokens must be a whole number of 0 or more, not {tokens!r}")
    for name, value in (("steps", steps), ("checkpoint", checkpoint)):
        if value is not None and not _whole(value):
            raise ProtocolError(f"report: {name} must be a whole number of 0 or more, not {value!r}")
    if digest is not None and not (isinstance(digest, str) and len(digest) <= 256):
        raise ProtocolError("report: digest must be a string of at most 256 characters")
    plain = all(isinstance(value, str | int | float | bool | None) for value in rest.values())
    if len(rest) > _EXTRA or not plain or len(json.dumps(rest)) > MESSAGE_BYTES // 2:
        raise ProtocolError(f"report: at most {_EXTRA} extra fields, each a number or text, {MESSAGE_BYTES // 2} bytes")
    return Report(step, None if loss is None else float(loss), tokens, digest, steps, checkpoint, rest)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


class Progress:
    """The state; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step = 0
        self._first_loss: float | None = None
        self._loss: float | None = None
        self._tokens = 0
        self._digest: str | None = None
        self._extra: dict[str, Any] = {}
        self._updated: datetime | None = None
        self._device_seconds = 0.0
        self._steps: int | None = None
        self._checkpoint: tuple[int, datetime] | None = None
        self._times: list[float] = []
        self._own: list[float] = []
        self._previous: tuple[int, float, float] | None = None

    def report(
        self, report: Report, device_seconds: float, own_seconds: float = 0.0, now: datetime | None = None
    ) -> None:
        """Take in a report.

        Args:
            report: what the worker says; tokens count from the start of the job.
            device_seconds: device time of the furthest device, now.
            own_seconds: of these, what its devices did themselves, without collectives; of the one that did most.
            now: wall time, for `updatedAt` and `checkpointAt` only.
        """
        now = now or datetime.now(UTC)
        with self._lock:
            if self._previous is not None and report.step > self._previous[0]:
                step, seconds, own = self._previous
                self._times.append((device_seconds - seconds) / (report.step - step))
                self._own.append((own_seconds - own) / (report.step - step))
                del self._times[:-_STEPS], self._own[:-_OWN_STEPS]
            if self._previous is None or report.step != self._previous[0]:
                self._previous = (report.step, device_seconds, own_seconds)
            self._step = report.step
            if report.loss is not None:
                self._first_loss = report.loss if self._first_loss is None else self._first_loss
                self._loss = report.loss
            self._tokens = self._tokens if report.tokens is None else report.tokens
            self._digest = self._digest if report.digest is None else report.digest
            self._steps = self._steps if report.steps is None else report.steps
            if report.checkpoint is not None and (self._checkpoint is None or self._checkpoint[0] != report.checkpoint):
                self._checkpoint = (report.checkpoint, now)
            self._extra.update(report.extra)
            while len(self._extra) > _EXTRA:
                del self._extra[next(iter(self._extra))]
            self._device_seconds = device_seconds
            self._updated = now

    def snapshot(self) -> dict[str, Any]:
        """The published JSON object; a number that JSON does not have (NaN, infinity) is null."""
        with self._lock:
            return {
                "step": self._step,
                "firstLoss": _finite(self._first_loss),
                "loss": _finite(self._loss),
                "tokens": self._tokens,
                "steps": self._steps,
                "stepSeconds": statistics.median(self._times) if self._times else None,
                "ownSeconds": statistics.median(self._own) if self._own else None,
                "deviceSeconds": self._device_seconds,
                "checkpointStep": None if self._checkpoint is None else self._checkpoint[0],
                "checkpointAt": None if self._checkpoint is None else _stamp(self._checkpoint[1]),
                "digest": self._digest,
                "updatedAt": None if self._updated is None else _stamp(self._updated),
                "extra": {
                    key: _finite(value) if isinstance(value, float) else value for key, value in self._extra.items()
                },
            }

    def message(self) -> str:
        """The same as text of at most `MESSAGE_BYTES` bytes; the extra fields go first if it is too long."""
        fields = self.snapshot()
        text = json.dumps(fields, separators=(",", ":"))
        if len(text.encode()) > MESSAGE_BYTES:
            text = json.dumps({**fields, "extra": {}}, separators=(",", ":"))
        return text


def _stamp(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}Z"


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
