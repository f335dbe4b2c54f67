"""Where the embedded server answers differently from kube-apiserver, and why that is accepted.

A difference that stands here is allowed; one that stands here and does not occur any more fails the suite.
`step` is the index of the request in its scenario, None for every one; `path` is the start of a JSON pointer into the
answer (`/body/...`, `/status`, `/warnings`). The scenario `*` means all of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accepted:
    """One accepted difference."""

    scenario: str
    step: int | None
    path: str
    reason: str

    def covers(self, scenario: str, step: int, difference: str) -> bool:
        """Whether it explains a difference (as `normal.differences` words it)."""
        where = difference.partition(": ")[0]
        return (
            self.scenario in ("*", scenario)
            and self.step in (None, step)
            and (
                where == self.path
                or where.startswith(self.path.rstrip("/") + "/")
                or (self.path.startswith("*") and where.endswith(self.path[1:]))
            )
        )


EXCEPTIONS: tuple[Accepted, ...] = ()
