"""The largest status that a job of 1,000 workers can have is kept by a real API server, with room to spare."""

from __future__ import annotations

import json
import uuid

import pytest
from tests.builders.manifests import a_job
from tests.builders.placements import placed_on, workers_in
from tests.wire.operatorlab import NAMESPACES, install_definitions

from supernode.api.conditions import MESSAGE_LIMIT, ConditionType
from supernode.api.job_status import MOST_NODES_NAMED
from supernode.cluster.client import Client
from supernode.cluster.kinds import JOBS, Json
from supernode.handlers.bounds import ALWAYS_FITS, too_many_workers

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(120)]

# etcd's limit of a request as it comes: 1.5 MiB.
LIMIT = 3 * 2**19
NODE = "n" * 247
POOL = "p" * 63
STAMP = "2026-11-22T12:00:00Z"


async def test_the_largest_status_of_a_thousand_workers(admin: Client) -> None:
    await install_definitions(admin)
    namespace = f"size-{uuid.uuid4().hex[:6]}"
    await admin.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = await admin.create(JOBS, a_job("large", namespace, workers=ALWAYS_FITS, pools=[POOL]), namespace)
    ranks = range(ALWAYS_FITS)
    nodes = [f"{NODE}{rank:06d}" for rank in ranks]
    assert too_many_workers(ALWAYS_FITS, 64, [POOL], nodes) == ""
    words = "w" * MESSAGE_LIMIT
    conditions = [
        {"type": str(kind), "status": "True", "reason": "R" * 60, "message": words, "lastTransitionTime": STAMP}
        for kind in ConditionType
    ]
    status: Json = {
        "state": "Starting",
        "message": words,
        "conditions": conditions,
        "placement": {
            "attempt": 0,
            "pool": POOL,
            # No two in the same way, as short as it may be for none of them.
            **placed_on(
                [{"node": nodes[rank], "pool": POOL, "devices": list(range(rank % 2, 64, 2))} for rank in ranks]
            ),
        },
        # Every worker but one is replaced at once, and every node is to blame.
        "disruption": {
            "kind": "Repair",
            "by": "b" * 512,
            "message": "m" * 1000,
            "requestedAt": STAMP,
            "workers": ALWAYS_FITS,
            "nodes": nodes[:MOST_NODES_NAMED],
            "replacing": [{"rank": rank, "uid": str(uuid.uuid4())} for rank in ranks[1:]],
        },
    }
    body = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "status": status}
    kept = await admin.patch(JOBS, "large", body, namespace, subresource="status")
    assert len(workers_in(kept["status"]["placement"])) == ALWAYS_FITS
    assert len(kept["status"]["disruption"]["replacing"]) == ALWAYS_FITS - 1
    assert len(json.dumps(kept, separators=(",", ":")).encode()) < 0.8 * LIMIT
    await admin.delete(JOBS, "large", namespace)
