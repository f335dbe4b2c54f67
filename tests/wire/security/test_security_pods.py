"""Pods under the `restricted` Pod Security level, as the real API server's own admission judges them."""

from __future__ import annotations

import pytest
from tests.wire.operatorlab import NAMESPACES, Lab

from supernode.cluster.kinds import Json

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(180)]

RESTRICTED: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def a_template(container: Json, **spec: object) -> Json:
    return {"spec": {"containers": [{"name": "trainer", "image": "team/train:1", **container}], **spec}}


@pytest.fixture
async def restricted(lab: Lab) -> Lab:
    """The laboratory's namespace lets in what is `restricted`, nothing else."""
    enforce = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await lab.client.patch(NAMESPACES, lab.namespace, enforce)
    lab.operator()
    return lab


async def test_a_restricted_template_makes_restricted_pods(restricted: Lab) -> None:
    lab = restricted
    for name, framework in (("torch", "PyTorch"), ("mpi", "MPI")):
        template = a_template({"securityContext": RESTRICTED})
        await lab.add_job(name, framework=framework, template=template)
    for name in ("torch", "mpi"):
        await lab.until_state(name, "Running")
        pods = await lab.job_pods(name)
        assert [pod["spec"]["initContainers"][0]["name"] for pod in pods] == ["supernode-emulator"] * 2
        for pod in pods:
            security = pod["spec"]["initContainers"][0]["securityContext"]
            assert security == {**RESTRICTED, "readOnlyRootFilesystem": True}
            assert not pod["spec"].get("securityContext"), "what the pod as a whole may is the user's to say"


async def test_what_breaks_out_is_left_to_the_cluster_and_said(restricted: Lab) -> None:
    lab = restricted
    own = {"securityContext": RESTRICTED}
    privileged = {"securityContext": {"privileged": True}}
    root = [{"name": "root", "hostPath": {"path": "/"}}]
    careless = {
        "plain": (a_template({}), "allowPrivilegeEscalation != false"),
        # The API server's own flag comes first here.
        "privileged": (a_template(privileged), "privileged: Forbidden"),
        "network": (a_template(own, hostNetwork=True), "hostNetwork=true"),
        "processes": (a_template(own, hostPID=True), "hostPID=true"),
        "path": (a_template(own, volumes=root), "hostPath"),
    }
    for name, (template, _) in careless.items():
        await lab.add_job(name, workers=1, devices=1, template=template)
    for name, (_, words) in careless.items():
        status = await lab.until_status(name, "is refused", lambda s, words=words: words in s.get("message", ""))
        assert "the pods were refused: worker 0 was refused" in status["message"]
        assert "PodSecurity" in status["message"] or name == "privileged"
        assert await lab.job_pods(name) == []
