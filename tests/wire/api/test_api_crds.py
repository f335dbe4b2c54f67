"""The CRDs on both API servers: accepted, defaulting, refusing what they should with our words, scaling, explained.

Everything goes through the real kubectl; the real kube-apiserver and the embedded one must answer alike. Objects that
are wrong are applied together and their answers told apart by name, because kubectl takes its time to start.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.builders.kube import ASSETS
from tests.builders.manifests import MODEL, Json, a_group, a_job, a_pool, merged
from tests.conformance.engines import embedded
from tests.wire.controlplane import ControlPlane

from supernode.api import crds, job_from

pytestmark = pytest.mark.envtest
ROOT = Path(__file__).parents[3]
SUSPENDED = "can change only while the job is suspended"


class Kubectl:
    """kubectl as administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def run(self, *arguments: str, stdin: Json | list[Json] | None = None) -> subprocess.CompletedProcess[str]:
        items = stdin if isinstance(stdin, list) else [stdin]
        text = None if stdin is None else "\n---\n".join(json.dumps(item) for item in items)
        command = [str(Path(ASSETS) / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)

    def good(self, *arguments: str, stdin: Json | list[Json] | None = None) -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> Json:
        found: Json = json.loads(self.good("get", *arguments, "-o", "json"))
        return found

    def refused(self, objects: list[Json]) -> dict[str, str]:
        """What the server said to each object, by its name; every one must be refused as invalid."""
        done = self.run("apply", "-f", "-", stdin=objects)
        parts = re.split(r'(?:The \w+|\w+\.supernode\.dev) "([^"]+)" is invalid: ', done.stderr)
        said = dict(zip(parts[1::2], parts[2::2], strict=True))
        assert set(said) == {obj["metadata"]["name"] for obj in objects}, done.stdout + done.stderr
        return said


@pytest.fixture(scope="module", params=["real", "embedded"])
def kubectl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    if request.param == "real":
        cluster: ControlPlane = request.getfixturevalue("real_cluster")
        yield _prepared(Kubectl(cluster.admin))
    else:
        with embedded(tmp_path_factory.mktemp("embedded")) as engine:
            yield _prepared(Kubectl(engine.kubeconfig))


def _prepared(kubectl: Kubectl) -> Kubectl:
    kubectl.good("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crds())
    names = [f"crd/{item['metadata']['name']}" for item in crds()]
    kubectl.good("wait", "--for=condition=Established", *names, "--timeout=30s")
    return kubectl


def test_the_server_has_no_complaint_about_the_schemas(kubectl: Kubectl) -> None:
    for item in crds():
        found = kubectl.get("crd", item["metadata"]["name"])
        conditions = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_defaults_are_those_of_the_models(kubectl: Kubectl) -> None:
    kubectl.good("apply", "-f", "-", stdin=a_job("defaults", model=MODEL))
    stored = kubectl.get("tjob", "defaults")
    assert stored["spec"]["parallelism"]["tensor"] == 1
    assert stored["spec"]["scheduling"]["policy"] == {"gang": {"growAfterSeconds": 300}}
    # What the server filled in is what the models fill in themselves.
    assert job_from(stored).spec == job_from(a_job("defaults", model=MODEL)).spec


GOOD = [
    a_pool(),
    a_pool("own", chip=..., chipSpec={"name": "mine", "memoryGiB": 31.5, "tflops": {"bf16": 100}}),
    a_pool("hardware", mode="Hardware", devicesPerNode=..., quotas=[{"namespace": "a", "guaranteed": 1, "limit": 2}]),
    a_group(storage=[{"name": "s", "level": "spine", "domain": "spine-0", "readGBps": 40, "writeGBps": 0.5}]),
    a_job("plain"),
    a_job("a" * 54),
    a_job(
        "full",
        workers=16,
        acceleratorsPerWorker=8,
        framework="PyTorch",
        model={**MODEL, "layers": 24, "kvHeads": 2, "experts": 4, "expertsPerToken": 2},
        parallelism={"tensor": 8, "pipeline": 4, "data": 4, "interleave": 3, "expert": 2, "globalBatchSize": 16},
        scheduling={
            "policy": {"gang": {"minCount": 8}},
            "constraints": {
                "topology": [{"level": "spine"}, {"level": "supernode", "mode": "Preferred"}],
                "slices": [{"level": "supernode", "size": 8}, {"level": "node", "size": 2}],
            },
            "priorityClassName": "high",
        },
        runPolicy={"ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 60, "cleanPodPolicy": "All"},
        storage={"dataset": "s", "checkpoint": {"store": "s", "everySteps": 5, "sizeGB": 2.5}},
        template={"spec": {"restartPolicy": "ExitCode", "tolerations": [{"operator": "Exists"}]}},
    ),
]


def test_good_objects_are_taken(kubectl: Kubectl) -> None:
    kubectl.good("apply", "--dry-run=server", "-f", "-", stdin=GOOD)
    kubectl.good("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=GOOD)


def test_the_examples_are_taken_but_for_the_one_whose_sums_are_wrong(kubectl: Kubectl) -> None:
    paths = sorted((ROOT / "kind/examples").glob("*.yaml"))
    *good, broken = (obj for path in paths for obj in yaml.safe_load_all(path.read_text()))
    kubectl.good("apply", "--dry-run=server", "-f", "-", stdin=good)
    (said,) = kubectl.refused([broken]).values()
    assert "spec.parallelism: Invalid value: tensor 2 x pipeline 1 x context 1 x data 3 = 6, but workers 2" in said


def test_every_field_of_the_template_is_kept(kubectl: Kubectl) -> None:
    job = a_job("template", template={"metadata": {"annotations": {"a": "b"}}})
    job["spec"]["template"]["spec"] = {
        "containers": [
            {"name": "w", "image": "i", "env": [{"name": "A", "value": "1"}], "resources": {"limits": {"cpu": "1"}}}
        ],
        "securityContext": {"runAsNonRoot": True},
    }
    kubectl.good("apply", "-f", "-", stdin=job)
    assert kubectl.get("tjob", "template")["spec"]["template"] == job["spec"]["template"]


BAD: list[tuple[Json, str, str]] = [
    (a_job(parallelism={"data": 3}), "spec.parallelism: ", "x data 3 = 3, but workers 2 x acceleratorsPerWorker 2 = 4"),
    (a_job(parallelism={"tensor": 3}), "spec.parallelism: ", "context 1 = 3 does not divide workers 2 x"),
    (a_job(parallelism={"globalBatchSize": 6}), "spec.parallelism.globalBatchSize: ", "of microBatchSize 1 x data 4"),
    (a_job(parallelism={"interleave": 2}), "spec.parallelism.interleave: ", "at least 2 pipeline stages"),
    (a_job(model={**MODEL, "hiddenSize": 65}), "spec.model.attentionHeads: ", "hiddenSize 65 is not a multiple of"),
    (a_job(model={**MODEL, "kvHeads": 3}), "spec.model.kvHeads: ", "attentionHeads 8 can not be shared by kvHeads 3"),
    (a_job(workers=0), "spec.workers: ", "greater than or equal to 1"),
    (a_job(workers=-1), "spec.workers: ", "greater than or equal to 1"),
    (a_job(acceleratorsPerWorker=65), "spec.acceleratorsPerWorker: ", "less than or equal to 64"),
    (a_job(framework="Torch"), "spec.framework: ", 'supported values: "PyTorch"'),
    (a_job(pools=["a", "a"]), "spec.pools[1]: ", "Duplicate value"),
    (a_job(mix="Stages"), "spec.mix: ", "at least two pools"),
    (a_job(scheduling={"policy": {"gang": {"minCount": 3}}}), "gang.minCount: ", "minCount 3 is more than workers 2"),
    (
        a_job(scheduling={"constraints": {"slices": [{"level": "s", "size": 2}, {"level": "t", "size": 3}]}}),
        "spec.scheduling.constraints.slices: ",
        "workers 2 can not be cut into slices of 3",
    ),
    (
        a_job(
            workers=12,
            scheduling={"constraints": {"slices": [{"level": "s", "size": 4}, {"level": "t", "size": 3}]}},
        ),
        "spec.scheduling.constraints.slices: ",
        "multiple of the next",
    ),
    (a_job("3gpt"), "metadata.name: ", "must start with a letter"),
    (a_job("a" * 55), "metadata.name: ", "at most 63 characters"),
    (a_job("b" * 54, workers=11), "metadata.name: ", "at most 63 characters"),
    (a_job(template={"spec": {"nodeName": "n"}}), "spec.template.spec.nodeName: ", "leave nodeName out"),
    (
        a_job(template={"spec": {"initContainers": [{"name": "supernode-emulator"}]}}),
        "spec.template.spec.containers: ",
        "kept for the emulator",
    ),
    (a_job(template={"spec": {"containers": []}}), "spec.template.spec.containers: ", "at least 1 items"),
    (a_pool("x", chip=...), "spec.chip: ", "exactly one of chip"),
    (a_pool("x", chipSpec={"name": "y"}), "spec.chip: ", "exactly one of chip"),
    (a_pool("x", devicesPerNode=...), "spec.devicesPerNode: ", "Emulated needs devicesPerNode"),
    (a_pool("x", quotas=[{"namespace": "a"}, {"namespace": "a"}]), "spec.quotas[1]: ", "Duplicate value"),
    (
        a_pool("x", quotas=[{"namespace": "a", "guaranteed": 2, "limit": 1}]),
        "spec.quotas[0].limit: ",
        "at least `guaranteed`",
    ),
    (a_pool("x", interconnect={"bandwidthGBps": 0}), "spec.interconnect.bandwidthGBps: ", "greater than 0"),
    (
        a_group("x", storage=[{"name": "s", "level": "leaf", "domain": "d", "readGBps": 1, "writeGBps": 1}]),
        "spec.storage: ",
        "one of the group's levels",
    ),
    (
        a_group("x", levels=[{"name": "node", "nodeLabel": "l", "bandwidthGBps": 1, "latencyMicroseconds": 1}]),
        "spec.levels: ",
        "implied as the innermost",
    ),
]  # fmt: skip


def test_bad_objects_are_refused_naming_the_field(kubectl: Kubectl) -> None:
    named = []
    for index, (obj, field, message) in enumerate(BAD):
        own = obj["metadata"]["name"] if "metadata.name" in field else f"bad-{index}"
        named.append((merged(obj, {"metadata": {"name": own}}), field, message))
    said = kubectl.refused([obj for obj, _, _ in named])
    for obj, field, message in named:
        text = said[obj["metadata"]["name"]]
        assert field in text
        assert message in text
        assert "failed rule" not in text


def test_an_unknown_field_is_refused_by_kubectl_apply(kubectl: Kubectl) -> None:
    said = kubectl.run("apply", "-f", "-", stdin=a_job("unknown", parallelism={"datas": 4})).stderr
    assert 'strict decoding error: unknown field "spec.parallelism.datas"' in said


FULL = GOOD[-1]
CHANGES: list[tuple[Json, str]] = [
    ({"pools": ["other"]}, "spec.pools"),
    ({"mix": "Stages", "pools": ["dcu-bw1000", "b"]}, "spec.mix"),
    ({"acceleratorsPerWorker": 4, "parallelism": {"data": 2}}, "spec.acceleratorsPerWorker"),
    ({"framework": "MPI"}, "spec.framework"),
    ({"model": {"layers": 48}}, "spec.model"),
    ({"model": ...}, "spec.model"),
    ({"parallelism": {"microBatchSize": 2}}, "spec.parallelism"),
    ({"scheduling": {"constraints": {"topology": [{"level": "spine"}]}}}, "spec.scheduling.constraints"),
    ({"scheduling": {"disruptionMode": "Single"}}, "spec.scheduling.disruptionMode"),
    ({"scheduling": {"priorityClassName": ...}}, "spec.scheduling.priorityClassName"),
    ({"storage": {"dataset": "t"}}, "spec.storage"),
    ({"storage": ...}, "spec.storage"),
    ({"template": {"spec": {"tolerations": [{"operator": "Equal"}]}}}, "spec.template"),
    ({"template": {"spec": {"containers": [{"name": "worker", "image": "other:2"}]}}}, "spec.template"),
]


def test_what_a_job_is_may_change_only_while_it_is_suspended(kubectl: Kubectl) -> None:
    running = [merged(FULL, {"metadata": {"name": f"fixed-{index}"}}) for index in range(len(CHANGES))]
    pause = {"spec": {"runPolicy": {"suspend": True}}}
    suspended = [merged(job, pause) for job in running]
    kubectl.good("apply", "-f", "-", stdin=running)
    changed = [merged(job, {"spec": change}) for job, (change, _) in zip(running, CHANGES, strict=True)]
    # Suspending and changing at once is a change of a running job still.
    for said in (kubectl.refused(changed), kubectl.refused([merged(job, pause) for job in changed])):
        for index, (_, field) in enumerate(CHANGES):
            assert f"{field}: Invalid value: {SUSPENDED}" in said[f"fixed-{index}"]
    kubectl.good("apply", "-f", "-", stdin=suspended)
    kubectl.good("apply", "--dry-run=server", "-f", "-", stdin=[merged(job, pause) for job in changed])
    # Resuming with the change in one write is a change of a suspended job, and fine.
    kubectl.good("apply", "--dry-run=server", "-f", "-", stdin=changed)


def test_what_a_job_does_may_change_at_any_time(kubectl: Kubectl) -> None:
    job = a_job("changing")
    kubectl.good("apply", "-f", "-", stdin=job)
    for change in (
        {"runPolicy": {"suspend": True}},
        {"runPolicy": {"backoffLimit": 9, "ttlSecondsAfterFinished": 5}},
        {"workers": 4},
        {"workers": 4, "scheduling": {"policy": {"gang": {"minCount": 2}}}},
    ):
        kubectl.good("apply", "-f", "-", stdin=merged(job, {"spec": change}))


def test_the_mode_of_a_pool_never_changes(kubectl: Kubectl) -> None:
    kubectl.good("apply", "-f", "-", stdin=a_pool("fixed"))
    said = kubectl.refused([a_pool("fixed", mode="Hardware", devicesPerNode=...)])
    assert "spec.mode: Invalid value: can't change" in said["fixed"]
    kubectl.good("apply", "-f", "-", stdin=a_pool("fixed", devicesPerNode=4))


def test_scale(kubectl: Kubectl) -> None:
    kubectl.good("apply", "-f", "-", stdin=a_job("scaled"))
    kubectl.good("scale", "tjob", "scaled", "--replicas=5")
    assert kubectl.get("tjob", "scaled")["spec"]["workers"] == 5
    kubectl.good("apply", "-f", "-", stdin=a_job("unscaled", parallelism={"data": 4}))
    done = kubectl.run("scale", "tjob", "unscaled", "--replicas=5")
    assert "data 4 = 4, but workers 5 x acceleratorsPerWorker 2 = 10" in done.stderr
    assert "greater than or equal to 1" in kubectl.run("scale", "tjob", "scaled", "--replicas=0").stderr


def test_status_is_written_apart_and_shown_in_columns(kubectl: Kubectl) -> None:
    kubectl.good("apply", "-f", "-", stdin=a_job("shown"))
    a_place = {"pool": "dcu-bw1000", "nodes": ["dcu-0", "dcu-1"], "devices": ["0-3,6", ""]}
    status = {
        "state": "Running",
        "ready": "2/2",
        "replicas": 2,
        "selector": "supernode.dev/job=shown",
        "mfu": 0.4375,
        "placement": {"pool": "dcu-bw1000", "domain": "spine-0/sn-0", "assignment": [a_place]},
        "progress": {"step": 12, "loss": 2.5, "updatedAt": "2026-01-01T00:00:00Z"},
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Valid",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    kubectl.good("patch", "tjob", "shown", "--type=merge", "-p", json.dumps({"status": status}))
    assert "status" not in kubectl.get("tjob", "shown")
    patch = json.dumps({"status": status})
    kubectl.good("patch", "tjob", "shown", "--subresource=status", "--type=merge", "-p", patch)
    assert kubectl.get("tjob", "shown")["status"] == status  # nothing is filled in, or the operator would fight it
    head, row = kubectl.good("get", "tjob", "shown").splitlines()
    assert head.split() == ["NAME", "STATE", "READY", "POOL", "DOMAIN", "MFU", "AGE"]
    assert row.split()[:-1] == ["shown", "Running", "2/2", "dcu-bw1000", "spine-0/sn-0", "0.4375"]
    assert kubectl.get("tjob", "shown", "--subresource=scale")["status"] == {
        "replicas": 2,
        "selector": "supernode.dev/job=shown",
    }


def test_pool_and_group_columns(kubectl: Kubectl) -> None:
    kubectl.good("apply", "-f", "-", stdin=[a_pool("columns"), a_group("columns")])
    head = kubectl.good("get", "apool", "columns").splitlines()[0].split()
    assert head == ["NAME", "CHIP", "MODE", "NODES", "CAPACITY", "ALLOCATED", "FREE", "READY", "AGE"]
    head, row = kubectl.good("get", "sng", "columns").splitlines()
    assert head.split() == ["NAME", "NODES", "UNLABELLED", "OUTERMOST", "READY", "AGE"]
    assert "spine" in row


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("tjob.spec.scheduling", ["disruptionMode\t<string>", "enum: All, Single", "priorityClassName"]),
        ("tjob.spec.parallelism.data", ["Replicas that see different samples"]),
        ("apool.spec.chipSpec", ["memoryGBps\t<number>", "tflops\t<Object>"]),
        ("sng.spec.levels", ["nodeLabel\t<string> -required-", "bandwidthGBps"]),
    ],
)
def test_explain(kubectl: Kubectl, path: str, texts: list[str]) -> None:
    # The server publishes a CRD's OpenAPI some time after it is established.
    deadline = time.monotonic() + 30
    while (done := kubectl.run("explain", path)).returncode != 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    for text in texts:
        assert text in done.stdout, done.stdout + done.stderr
