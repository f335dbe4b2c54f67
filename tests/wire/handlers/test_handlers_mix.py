"""One gang over two pools, by stages: each pod is of its own pool, and a new operator finds all of it again."""

from __future__ import annotations

import json

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease

pytestmark = pytest.mark.timeout(180)

MODEL = {"layers": 24, "hiddenSize": 1024, "attentionHeads": 16, "vocabularySize": 1000, "sequenceLength": 256}
CUT = {"tensor": 2, "pipeline": 3, "globalBatchSize": 16}


async def test_stages_run_in_two_pools(either_lab: Lab) -> None:
    """Four nodes of one chip and two of the other: three stages of two workers each take them all."""
    lab = either_lab
    other = f"npu-{lab.suffix}"
    await lab.add_nodes(2, lab=other)
    await lab.add_pool(other, chip="huawei-ascend-910c", nodeSelector={"matchLabels": {"lab": other}})
    first = lab.operator()
    pools = [lab.pool, other]
    await lab.add_job("gpt", workers=6, pools=pools, mix="Stages", model=MODEL, parallelism=CUT)
    await lab.until_state("gpt", "Running")
    place = (await lab.job("gpt"))["status"]["placement"]
    assert sorted(place["pool"].split(",")) == sorted(pools)
    stages = place["stages"]
    assert len(stages) == 3
    assert sum(stage["layers"] for stage in stages) == 24
    assert [worker["pool"] for worker in workers_in(place)] == [stage["pool"] for stage in stages for _ in range(2)]
    resources = {lab.pool: "hygon.com/hcu", other: "huawei.com/Ascend910"}
    chips = {lab.pool: "hygon-bw1000", other: "huawei-ascend-910c"}
    for pod in await lab.job_pods("gpt"):
        worker = workers_in(place)[int(pod["metadata"]["labels"]["supernode.dev/rank"])]
        container, (sidecar,) = pod["spec"]["containers"][0], pod["spec"]["initContainers"]
        words = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert json.loads(words["SUPERNODE_PARALLELISM"])["stages"] == stages
        assert container["resources"]["requests"] == {resources[worker["pool"]]: "2"}
        assert {e["name"]: e.get("value") for e in sidecar["env"]}["SUPERNODE_CHIP"] == chips[worker["pool"]]
        assert pod["spec"]["nodeName"] == worker["node"]
    # Whoever comes now finds both pools full, also for an operator that was not there when the gang was placed.
    first.kill()
    await free_the_lease(lab)
    lab.operator()
    for name, pool in (("more", lab.pool), ("again", other)):
        await lab.add_job(name, workers=1, pools=[pool])
        await lab.until_state(name, "Waiting")
        assert f"{lab.namespace}/gpt holds" in (await lab.condition(name, "Scheduled"))["message"]
    assert (await lab.job("gpt"))["status"]["attempt"] == 0
