"""What the operator promises at every moment, whoever was killed when; and who leads next, without the wait."""

from __future__ import annotations

from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab

from supernode.cluster.kinds import JOBS, LEASES, PODS, Json
from supernode.errors import NotFoundError
from supernode.names import LEASE_NAME, LEASE_NAMESPACE


async def free_the_lease(lab: Lab) -> None:
    """What waiting for the dead leader's lease to run out comes to, without the wait."""
    try:
        await lab.client.delete(LEASES, LEASE_NAME, LEASE_NAMESPACE)
    except NotFoundError:
        return


def invariants(jobs: list[Json], pods: list[Json]) -> list[str]:
    """What must hold at every moment, whoever was killed when."""
    wrong: list[str] = []
    by_uid = {job["metadata"]["uid"]: job for job in jobs}
    claims: dict[tuple[str, int], str] = {}
    for job in jobs:
        name, status = job["metadata"]["name"], job.get("status") or {}
        if status.get("state") in ("Succeeded", "Failed"):
            continue
        for worker in workers_in(status.get("placement")):
            for device in worker["devices"]:
                other = claims.setdefault((worker["node"], device), name)
                if other != name:
                    wrong.append(f"{worker['node']} device {device}: claimed by {other} and {name}")
    for pod in pods:
        labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
        job = by_uid.get(labels["supernode.dev/job-uid"])
        if job is None:
            wrong.append(f"orphan pod {name}")
            continue
        placement = (job.get("status") or {}).get("placement")
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            continue
        if placement is None:
            wrong.append(f"pod {name} runs without a claim")
        elif labels["supernode.dev/attempt"] == str(placement.get("attempt", 0)):
            rank = int(labels["supernode.dev/rank"])
            workers = {worker["rank"]: worker for worker in workers_in(placement)}
            devices = pod["metadata"]["annotations"]["supernode.dev/devices"]
            worker = workers.get(rank)
            if worker is None or (pod["spec"]["nodeName"], devices) != (
                worker["node"],
                ",".join(map(str, worker["devices"])),
            ):
                wrong.append(f"pod {name} on {pod['spec']['nodeName']} ({devices}) is not where its job says: {worker}")
    return wrong


async def look(lab: Lab) -> list[str]:
    # Pods first: a job read later can only be newer, and no pod may outlive its job's claim.
    pods = (await lab.client.list_page(PODS, lab.namespace))["items"]
    jobs = (await lab.client.list_page(JOBS, lab.namespace))["items"]
    found = invariants(jobs, pods)
    if not found:
        return []
    # The two lists are not of one moment: only what a second look shows too is real.
    again = (await lab.client.list_page(PODS, lab.namespace))["items"]
    there = {pod["metadata"]["uid"] for pod in again}
    return invariants(
        (await lab.client.list_page(JOBS, lab.namespace))["items"],
        [pod for pod in pods if pod["metadata"]["uid"] in there],
    )
