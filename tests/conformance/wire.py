"""A plain HTTP client for the suite: what exactly goes over the wire, nothing hidden."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: Any
    media: str
    warnings: tuple[str, ...] = ()


@dataclass
class Wire:
    """Requests to one server as one user."""

    url: str
    token: str
    headers: dict[str, str] = field(default_factory=dict)

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> urllib.request.Request:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "User-Agent": "suite/1", **self.headers, **headers}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        return urllib.request.Request(self.url + path, method=method, data=data, headers=sent)

    def _open(self, request: urllib.request.Request, timeout: float) -> Any:
        context = ssl._create_unverified_context() if self.url.startswith("https:") else None
        return urllib.request.urlopen(request, timeout=timeout, context=context)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; headers are given with underscores (`Content_Type`)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with self._open(self._request(method, path, body, named), 30) as response:
                return self._answer(response)
        except urllib.error.HTTPError as exc:
            with exc:
                return self._answer(exc)

    def _answer(self, response: Any) -> Answer:
        raw = response.read()
        media = response.headers.get("Content-Type", "")
        body = json.loads(raw) if raw.startswith(b"{") else raw.decode(errors="replace")
        return Answer(response.status, body, media, tuple(response.headers.get_all("Warning") or ()))

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.call("GET", path, None, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """POST."""
        return self.call("POST", path, body, **headers)

    def put(self, path: str, body: Any, **headers: str) -> Answer:
        """PUT."""
        return self.call("PUT", path, body, **headers)

    def delete(self, path: str, body: Any = None, **headers: str) -> Answer:
        """DELETE."""
        return self.call("DELETE", path, body, **headers)

    def patch(self, path: str, body: Any, kind: str = "merge", **headers: str) -> Answer:
        """PATCH; `kind` is merge, json, strategic-merge or apply."""
        media = f"application/{kind}-patch+{'yaml' if kind == 'apply' else 'json'}"
        return self.call("PATCH", path, body, **{"Content_Type": media, **headers})

    def watch(self, path: str, *, seconds: float = 10, **headers: str) -> Iterator[Any]:
        """Events of a watch until the server ends it or `seconds` have passed (timeoutSeconds is set to that)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        joined = path + ("&" if "?" in path else "?") + f"watch=1&timeoutSeconds={int(seconds)}"
        with self._open(self._request("GET", joined, None, named), seconds + 10) as response:
            for line in response:
                yield json.loads(line)

    def until(self, path: str, wanted: Any, *, seconds: float = 30) -> Answer:
        """GET again until `wanted(answer)` holds.

        Raises:
            AssertionError: it never did.
        """
        deadline = time.monotonic() + seconds
        while True:
            answer = self.get(path)
            if wanted(answer):
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"{path} did not come to what was wanted: {answer}")
            time.sleep(0.05)


def query(**parameters: Any) -> str:
    """A query string."""
    return "?" + urllib.parse.urlencode(parameters)
