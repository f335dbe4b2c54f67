"""Numbers and times in few characters, for tables. Pure."""

from __future__ import annotations

import contextlib

from supernode.api.conditions import seconds_of


def age(since: str | None, now: float) -> str:
    """How long ago an RFC 3339 time was, as kubectl says it: 42s, 5m, 3h, 2d; empty for no time."""
    with contextlib.suppress(ValueError, TypeError):
        return span(now - seconds_of(since or ""))
    return ""


def until(time: str | None, now: float) -> str:
    """How long from now an RFC 3339 time is; empty for one that has passed, and for no time."""
    with contextlib.suppress(ValueError, TypeError):
        left = seconds_of(time or "") - now
        return span(left) if left > 0 else ""
    return ""


def span(seconds: float) -> str:
    """Seconds in one or two units: 42s, 5m, 90m, 3h, 2d4h, 120d."""
    whole = max(int(seconds), 0)
    if whole < 120:
        return f"{whole}s"
    if whole < 3 * 3600:
        return f"{whole // 60}m"
    if whole < 48 * 3600:
        return f"{whole // 3600}h"
    days, hours = divmod(whole // 3600, 24)
    return f"{days}d{hours}h" if hours and days < 8 else f"{days}d"


def step_time(seconds: object) -> str:
    """Seconds of one step with three figures and a unit; empty if there are none."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return ""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def percent(share: object) -> str:
    """A share of 0 to 1; small ones with three figures, so that 0.0004 is not nothing. Empty if there is none."""
    if not isinstance(share, int | float) or isinstance(share, bool):
        return ""
    return f"{share:.1%}" if share >= 0.01 or share == 0 else f"{share * 100:.2g}%"


def number(value: object, spec: str = "g") -> str:
    """A number as `spec` formats it; empty for anything else."""
    return format(value, spec) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def count(amount: int, word: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{amount} {word}" if amount == 1 else f"{amount} {word}s"
