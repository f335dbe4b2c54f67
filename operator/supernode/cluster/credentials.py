"""How to reach and convince the API server, for libraries that make their own connections. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Credentials:
    """An address and what to show there.

    `token` is the bare token; paths name PEM files. Never logged: `repr` hides the token.
    """

    server: str
    token: str | None
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    verify: bool
    proxy: str | None
    expires: float | None

    def __repr__(self) -> str:
        return f"Credentials(server={self.server!r})"
