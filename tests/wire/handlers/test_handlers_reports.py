"""What pools and groups report, on the real API server (which keeps only fields that the CRDs know)."""

from __future__ import annotations

import json

import pytest
from tests.builders.manifests import MODEL
from tests.wire.operatorlab import Lab

from supernode.cluster.kinds import GROUPS, JOBS, NODES, POOLS, Json, Kind

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(120)]


async def until(lab: Lab, kind: Kind, name: str, what: str, **wanted: object) -> Json:
    """Wait until the status of a pool or group has these values; gives the status."""

    async def check() -> Json | None:
        status: Json = (await lab.client.get(kind, name)).get("status") or {}
        return status if all(status.get(field) == value for field, value in wanted.items()) else None

    found: Json = await lab.until(f"{name}: {what}", check)
    return found


def ready(status: Json) -> Json:
    found: Json = next(c for c in status["conditions"] if c["type"] == "Ready")
    return found


async def test_a_group_reports_what_its_pools_do(lab: Lab) -> None:
    lab.operator()
    empty = await until(lab, GROUPS, lab.group, "all free", capacity=8, free=8, allocated=0, unhealthy=0, nodes=4)
    assert empty["domains"] == {"spine": 1, "supernode": 2}
    assert ready(empty)["message"] == "4 nodes with 8 accelerators, 8 free, 1 spine, 2 supernode"
    assert "effective" not in empty, "nothing has run yet"
    cut = {"data": 2, "globalBatchSize": 8}
    await lab.add_job("train", workers=1, model=MODEL, parallelism=cut, framework="None")
    placed = await lab.until_state("train", "Running")
    assert placed["status"]["placement"]["predictedStepSeconds"] > 0
    held = await until(lab, GROUPS, lab.group, "two are held", capacity=8, free=6, allocated=2)
    room = {(each["pool"], each["level"]): each for each in held["room"]}
    assert sorted(level for _, level in room) == ["node", "spine", "supernode"]
    assert {level: each["largestGang"] for (_, level), each in room.items()} == {"spine": 6, "supernode": 4, "node": 2}
    assert room[lab.pool, "supernode"]["domainSize"] == 4
    of_pool = (await lab.client.get(POOLS, lab.pool))["status"]
    for each in of_pool["room"]:
        mine = room[lab.pool, each["level"]]
        assert {name: mine[name] for name in mine.keys() - {"pool"}} == {n: each[n] for n in each.keys() - {"group"}}

    async def told(kind: Kind, name: str) -> Json | None:
        effective = ((await lab.client.get(kind, name))["status"]).get("effective") or {}
        return effective if effective.get("predictedTFLOPS") else None

    by_group = await lab.until("the group's effective compute", lambda: told(GROUPS, lab.group))
    assert by_group == await lab.until("the pool's", lambda: told(POOLS, lab.pool))
    assert 0 < by_group["predictedTFLOPS"] < by_group["peakTFLOPS"]
    # The worker's last words say how long a step took: what it really got out of the chips.
    report = json.dumps({"step": 10, "stepSeconds": placed["status"]["placement"]["predictedStepSeconds"] * 2})
    sidecar = {"name": "supernode-emulator", "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
    sidecar["state"] = {"terminated": {"exitCode": 0, "message": report}}
    await lab.client.patch(
        Kind("", "v1", "pods", "Pod"),
        "train-worker-0",
        {"status": {"initContainerStatuses": [sidecar]}},
        lab.namespace,
        subresource="status",
    )

    async def observed() -> Json | None:
        effective: Json = ((await lab.client.get(GROUPS, lab.group))["status"])["effective"]
        return effective if effective["observedTFLOPS"] else None

    seen = await lab.until("the observed compute", observed)
    assert seen["observedTFLOPS"] == pytest.approx(seen["predictedTFLOPS"] / 2, rel=0.05)
    await lab.client.delete(JOBS, "train", lab.namespace)
    nothing = {"peakTFLOPS": 0, "predictedTFLOPS": 0, "observedTFLOPS": 0}
    await until(lab, GROUPS, lab.group, "all free again", free=8, effective=nothing)


async def test_unhealthy_devices_and_labels_that_do_not_fit_are_told(lab: Lab) -> None:
    lab.operator()
    await until(lab, GROUPS, lab.group, "all free", free=8)
    sick, odd, bare = lab.nodes[0], lab.nodes[1], lab.nodes[2]
    note = {"metadata": {"annotations": {"supernode.dev/unhealthy-devices": "1"}}}
    await lab.client.patch(NODES, sick, note)
    for kind, name in ((POOLS, lab.pool), (GROUPS, lab.group)):
        await until(lab, kind, name, "one is unhealthy", capacity=8, free=7, allocated=0, unhealthy=1)
    await lab.client.patch(NODES, odd, {"metadata": {"labels": {"supernode.dev/supernode": None}}})
    await lab.client.patch(NODES, bare, {"metadata": {"labels": {"supernode.dev/spine": ""}}})
    status = await until(lab, GROUPS, lab.group, "two do not fit", unlabelledNodes=2, nodes=2, capacity=4, unhealthy=1)
    said = ready(status)
    assert (said["status"], said["reason"]) == ("False", "NodesUnlabelled")
    assert f"node {odd} lacks the label supernode.dev/supernode" in said["message"]
    assert f"node {bare} lacks the label supernode.dev/spine" in said["message"]
    # The pool has them all the same.
    await until(lab, POOLS, lab.pool, "has all nodes", nodes=4, capacity=8)
    await lab.client.patch(NODES, sick, {"metadata": {"annotations": {"supernode.dev/unhealthy-devices": None}}})
    for node in (odd, bare):
        labels = {"supernode.dev/supernode": "sn-0", "supernode.dev/spine": "spine-0"}
        await lab.client.patch(NODES, node, {"metadata": {"labels": labels}})
    status = await until(lab, GROUPS, lab.group, "all fit", unlabelledNodes=0, free=8, unhealthy=0)
    assert ready(status)["status"] == "True"
