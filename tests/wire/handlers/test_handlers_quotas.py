"""Quotas hold at every moment, in accelerators and in effective compute; who waits reads whose turn it is."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import NAMESPACES, Lab
from tests.wire.promises import free_the_lease

from supernode.chips import find_chip
from supernode.cluster.kinds import JOBS, POOLS, Json

pytestmark = pytest.mark.timeout(180)
PEAK = find_chip("hygon-bw1000").peak_flops("bf16") / 1e12


async def quota(lab: Lab, **figures: float) -> None:
    quotas = [{"namespace": lab.namespace, **figures}]
    await lab.client.patch(POOLS, lab.pool, {"spec": {"quotas": quotas}})


async def use(lab: Lab, namespace: str) -> Json:
    """What the pool's status says that a namespace has of it."""
    rows: list[Json] = (await lab.client.get(POOLS, lab.pool)).get("status", {}).get("quotas") or []
    return next((row for row in rows if row["namespace"] == namespace), {})


async def held(lab: Lab) -> int:
    """Devices that the namespace's gangs hold by the API."""
    jobs: list[Json] = (await lab.client.list_page(JOBS, lab.namespace))["items"]
    ended = ("Succeeded", "Failed")
    statuses = [job.get("status", {}) for job in jobs]
    placed = [status.get("placement") or {} for status in statuses if status.get("state") not in ended]
    return sum(len(worker["devices"]) for placement in placed for worker in workers_in(placement))


async def test_a_limit_in_tflops_lets_as_much_run_as_fits_into_it(either_lab: Lab) -> None:
    lab = either_lab
    await quota(lab, limitTFLOPS=5 * PEAK)
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    for name, workers in (("second", 1), ("third", 1), ("huge", 3)):
        await lab.add_job(name, workers=workers)
        await lab.until_state(name, "Waiting")
        await asyncio.sleep(1.1)  # stamps have whole seconds, and the queue goes by them
    said = await lab.condition("second", "Scheduled")
    assert said["reason"] == "WaitingForQuota"
    assert f"uses {4 * PEAK:.4g} of at most {5 * PEAK:.4g}" in said["message"]
    assert "it is the next, place 1 of 2" in said["message"]
    third = await lab.condition("third", "Scheduled")
    assert f"the turn of {lab.namespace}/second, place 2 of 2" in third["message"]
    assert (await lab.condition("huge", "Scheduled"))["reason"] == "ExceedsMaxQuota"
    # Room in the quota is not room for others' sake: another namespace uses what is left of the pool.
    mine, lab.namespace = lab.namespace, f"other-{lab.suffix}"
    await lab.client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": lab.namespace}})
    await lab.add_job("theirs", workers=2)
    await lab.until_state("theirs", "Running")
    await lab.client.delete(JOBS, "theirs", lab.namespace)
    lab.namespace = mine
    lab.kubelet.endings |= {"first-worker-0": 0, "first-worker-1": 0}
    await lab.until_state("second", "Running")
    await lab.until_state("third", "Running")
    assert (await lab.job("huge"))["status"]["state"] == "Waiting"


@pytest.mark.parametrize("figures", [{"limit": 4}, {"limitTFLOPS": 4 * PEAK}], ids=["devices", "tflops"])
async def test_no_limit_is_ever_exceeded_however_often_the_operator_is_killed(
    either_lab: Lab, figures: dict[str, float]
) -> None:
    lab = either_lab
    await quota(lab, **figures)
    chance, process = random.Random(3), lab.operator()
    for index in range(5):
        await lab.add_job(f"job-{index}", workers=chance.choice([1, 1, 2]), runPolicy={"backoffLimit": 9})
    most = 0
    step = 0
    # A busy machine takes its time until somebody runs at all.
    while step < 60 or (most == 0 and step < 600):
        step += 1
        await asyncio.sleep(0.1)
        most = max(most, await held(lab))
        assert most <= 4
        if step in (5, 25):
            process.kill()
            await free_the_lease(lab)
            process = lab.operator()
        if step % 20 == 15:
            lab.kubelet.endings |= {f"job-{i}-worker-{rank}": 0 for i in range(5) for rank in range(2)}
    assert most > 0, "somebody ran"


async def test_who_waits_for_his_quota_reads_who_borrows_and_whose_turn_it_is(either_lab: Lab) -> None:
    lab = either_lab
    mine, other = lab.namespace, f"other-{lab.suffix}"
    await lab.client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    quotas = [{"namespace": mine, "limit": 4}, {"namespace": other, "guaranteed": 2}]
    await lab.client.patch(POOLS, lab.pool, {"spec": {"quotas": quotas}})
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    lab.namespace = other
    await lab.add_job("theirs", workers=2)
    await lab.until_state("theirs", "Running")
    lab.namespace = mine
    await lab.add_job("second", workers=1)
    await lab.until_state("second", "Waiting")
    said = await lab.condition("second", "Scheduled")
    assert said["reason"] == "WaitingForQuota"
    assert f"{mine} borrows 4, {other} borrows 2 in pool {lab.pool}" in said["message"]
    assert "it is the next, place 1 of 1 in the queue" in said["message"]
    await lab.client.delete(JOBS, "theirs", other)


async def test_guaranteed_tflops_are_lent_told_and_taken_back(either_lab: Lab) -> None:
    lab = either_lab
    mine, other = lab.namespace, f"other-{lab.suffix}"
    await lab.client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    await quota(lab, guaranteedTFLOPS=4 * PEAK, limitTFLOPS=6 * PEAK)
    lab.operator()
    lab.namespace = other
    await lab.add_job("big", workers=4, runPolicy={"checkpointSeconds": 1})
    await lab.until_state("big", "Running")

    async def lent() -> bool:
        return (await use(lab, "*")).get("borrowed") == 8 and (await use(lab, mine)).get("used") == 0

    await lab.until("all is lent", lent)
    assert (await use(lab, mine))["guaranteedTFLOPS"] == 4 * PEAK
    # One whose place promises more than is guaranteed takes nothing back, whatever it is told.
    lab.namespace = mine
    await lab.add_job("huge", workers=3)
    await lab.until_state("huge", "Waiting")
    assert (await lab.condition("huge", "Scheduled"))["reason"] == "InsufficientAccelerators"
    await lab.add_job("train", workers=2)
    await lab.until_state("train", "Running", seconds=60)
    lab.namespace = other
    await lab.until_status("big", "waits again", lambda s: "placement" not in s and s["state"] == "Waiting")
    lab.namespace = mine

    async def taken_back() -> bool:
        row = await use(lab, mine)
        return (row.get("used"), row.get("usedTFLOPS"), row.get("borrowedTFLOPS")) == (4, 4 * PEAK, 0)

    await lab.until("what is guaranteed is in use", taken_back)
    await lab.client.delete(JOBS, "big", other)


MODEL = {"layers": 8, "hiddenSize": 1024, "attentionHeads": 16, "vocabularySize": 32000, "sequenceLength": 512}


async def test_a_gang_with_a_model_counts_with_what_its_place_promises(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("probe", workers=1, model=MODEL)
    first = (await lab.until_state("probe", "Running"))["status"]["placement"]
    promised = first["promised"]
    assert [each["pool"] for each in promised] == [lab.pool]
    tflops = promised[0]["tflops"]
    assert 0 < tflops < 2 * PEAK
    # It goes on where it was, and counts as before.
    lab.kubelet.endings["probe-worker-0"] = 1
    again = await lab.until_status(
        "probe", "runs again", lambda s: s.get("state") == "Running" and s.get("attempt") == 1
    )
    for name in ("promised", "predictedStepSeconds", "assignment"):
        assert again["placement"][name] == first[name]
    # Room for one and a half of them: the second one waits, a third that says nothing can never start.
    await quota(lab, limitTFLOPS=1.5 * tflops)

    async def known() -> bool:
        return "limitTFLOPS" in await use(lab, lab.namespace)

    await lab.until("the operator knows the quota", known)
    await lab.add_job("second", workers=1, model=MODEL)
    await lab.until_state("second", "Waiting")
    said = await lab.condition("second", "Scheduled")
    assert said["reason"] == "WaitingForQuota"
    assert f"promises {tflops:.4g} TFLOPS" in said["message"]
    await lab.add_job("silent", workers=1)
    await lab.until_state("silent", "Waiting")
    assert (await lab.condition("silent", "Scheduled"))["reason"] == "ExceedsMaxQuota"
    lab.kubelet.endings["probe-worker-0"] = 0
    await lab.until_state("second", "Running")
