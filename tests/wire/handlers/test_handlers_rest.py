"""An operator that comes again beside running jobs touches nothing that is right, and goes on with what is new."""

from __future__ import annotations

import asyncio

import pytest
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease

from supernode.cluster.kinds import CONFIG_MAPS, EVENTS, GROUPS, JOBS, NODES, PODS, SECRETS, SERVICES
from supernode.errors import NotFoundError

pytestmark = pytest.mark.timeout(180)


async def picture(lab: Lab) -> dict[str, str]:
    """Version of everything that the operator may write, by kind and name; whoever was touched has another one."""
    found: dict[str, str] = {}
    for kind in (JOBS, PODS, SERVICES, SECRETS, CONFIG_MAPS, EVENTS, NODES, GROUPS):
        for obj in (await lab.client.list_page(kind, lab.namespace if kind.namespaced else None))["items"]:
            metadata = obj["metadata"]
            if kind.namespaced or metadata["name"] in (*lab.nodes, lab.group):
                found[f"{kind.kind}/{metadata['name']}"] = f"{metadata['uid']} {metadata['resourceVersion']}"
    return found


async def test_a_service_that_somebody_deletes_comes_back(either_lab: Lab) -> None:
    """In turn each minute, and at once when an operator starts."""
    lab = either_lab
    process = lab.operator()
    await lab.add_job("one", workers=2)
    await lab.until_state("one", "Running")
    before = await lab.client.get(SERVICES, "one", lab.namespace)
    await lab.client.delete(SERVICES, "one", lab.namespace)
    assert await asyncio.to_thread(process.stop) == 0
    await free_the_lease(lab)
    lab.operator()

    async def back() -> bool:
        try:
            return bool(await lab.client.get(SERVICES, "one", lab.namespace))
        except NotFoundError:
            return False

    await lab.until("the Service is there again", back)
    after = await lab.client.get(SERVICES, "one", lab.namespace)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]

    async def told() -> bool:
        found = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
        return any(each["reason"] == "ServiceRestored" for each in found)

    await lab.until("it is told", told)
    status = (await lab.job("one"))["status"]
    assert (status["state"], status["attempt"]) == ("Running", 0)


async def test_what_is_right_is_left_alone(either_lab: Lab) -> None:
    lab = either_lab
    process = lab.operator()
    await lab.add_job("one", workers=2)
    await lab.add_job("two", workers=1)
    await lab.until_state("one", "Running")
    await lab.until_state("two", "Running")
    # A change that needs no other, to see that all that came before it has been dealt with.
    await lab.add_job("last", workers=1, runPolicy={"suspend": True})
    await lab.until_state("last", "Suspended")
    # Told to stop, it writes all its events. Not in this thread: one of the API servers lives in its loop.
    assert await asyncio.to_thread(process.stop) == 0
    before = await picture(lab)
    assert len(before) > 12

    await lab.add_job("new", workers=1)
    await free_the_lease(lab)
    lab.operator()
    await lab.until_state("new", "Running")
    after = await picture(lab)
    touched = {name for name, version in before.items() if after.get(name) != version}
    # Only the group counts what the new job has taken.
    assert touched <= {f"SuperNodeGroup/{lab.group}"}
