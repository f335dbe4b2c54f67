"""What the pods of a gang share is there before them, whatever kind of device they have."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from supernode.errors import UnavailableError
from supernode.handlers import gang


def test_no_pod_is_made_before_its_gangs_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody would make the Service: once all pods are there, nothing of the gang is missing any more."""
    made: list[int] = []

    async def away(*args: Any, **kwargs: Any) -> str:
        await asyncio.sleep(0)
        raise UnavailableError("the API server is away")

    async def pod(context: Any, plan: Any, worker: int, encoder: Any) -> None:
        made.append(worker)

    monkeypatch.setattr(gang.shared, "create", away)
    monkeypatch.setattr(gang, "_create_pod", pod)
    context, plan = SimpleNamespace(protobuf=False), SimpleNamespace(workers=(0, 1), pools={})
    with pytest.raises(UnavailableError):
        asyncio.run(gang.create(cast("Any", context), cast("Any", plan), [0, 1]))
    assert made == []
