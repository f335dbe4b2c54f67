"""The admission policy that docs/security.md shows does what is said of it, on the real API server."""

from __future__ import annotations

import re

import pytest
import yaml
from tests.wire.operatorlab import NAMESPACES, ROOT, Lab

from supernode.cluster.kinds import JOBS, Json, Kind
from supernode.errors import BadRequestError, ForbiddenError

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(120)]

GROUP = "admissionregistration.k8s.io"
KINDS = {
    kind: Kind(GROUP, "v1", plural, kind, namespaced=False)
    for kind, plural in [
        ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
        ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
    ]
}


async def test_only_some_namespaces_may_name_a_class(lab: Lab) -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    objects: list[Json] = list(yaml.safe_load_all(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]))
    urgent = {"priorityClassName": "training-high"}
    for obj in objects:
        await lab.client.create(KINDS[obj["kind"]], obj)
    try:

        async def refused() -> bool:
            try:
                await lab.add_job("urgent", scheduling=urgent)
            except (BadRequestError, ForbiddenError) as exc:
                assert "may not use the PriorityClass training-high" in str(exc)
                return True
            await lab.client.delete(JOBS, "urgent", lab.namespace)
            return False

        await lab.until("the policy is known to the server", refused)
        await lab.add_job("plain")
        await lab.add_job("other", scheduling={"priorityClassName": "training-low"})
        label = {"metadata": {"labels": {"training/urgent": "true"}}}
        await lab.client.patch(NAMESPACES, lab.namespace, label)

        async def let_in() -> bool:
            return not await refused()

        await lab.until("the label is known to the server", let_in)
    finally:
        for obj in objects:
            await lab.client.delete(KINDS[obj["kind"]], obj["metadata"]["name"])
