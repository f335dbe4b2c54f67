"""What the user wrote of a pod is what the pod is; what we add is exactly what docs/security.md lists.

The oracle takes the additions off again, by a list of its own, and compares the rest with the template as written:
whatever breaks out (host paths, privileges, host networks, service accounts) is the user's own, never ours.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.cluster import manifests
from supernode.cluster.manifests import GangPlan, PoolPlan, WorkerPlan

Json = dict[str, Any]
NAME = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
# Everything by which a pod breaks out of its sandbox, or by which it is hardened; all of it is the user's to say.
SECURITY = st.fixed_dictionaries(
    {},
    optional={
        "privileged": st.booleans(),
        "runAsUser": st.integers(0, 65535),
        "runAsNonRoot": st.booleans(),
        "allowPrivilegeEscalation": st.booleans(),
        "readOnlyRootFilesystem": st.booleans(),
        "capabilities": st.just({"add": ["SYS_ADMIN"], "drop": ["NET_RAW"]}),
        "seccompProfile": st.sampled_from([{"type": "Unconfined"}, {"type": "RuntimeDefault"}]),
        "procMount": st.just("Unmasked"),
    },
)
SOURCE = st.sampled_from(
    [
        {"hostPath": {"path": "/"}},
        {"emptyDir": {}},
        {"secret": {"secretName": "theirs"}},
        {"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        {"nfs": {"server": "s", "path": "/"}},
    ]
)
VOLUME = st.builds(lambda name, source: {"name": name, **source}, NAME, SOURCE)
ENV = st.one_of(
    st.builds(lambda name: {"name": name.upper(), "value": "v"}, NAME),
    st.just({"name": "SUPERNODE_RANK", "value": "forged"}),
    st.just({"name": "MASTER_ADDR", "value": "evil"}),
    st.just({"name": "T", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "k"}}}),
)
CONTAINER = st.fixed_dictionaries(
    {"name": NAME, "image": st.just("team/train:1")},
    optional={
        "securityContext": SECURITY,
        "env": st.lists(ENV, max_size=3),
        "envFrom": st.just([{"secretRef": {"name": "theirs"}}]),
        "volumeMounts": st.lists(
            st.builds(lambda n: {"name": n, "mountPath": f"/{n}", "mountPropagation": "Bidirectional"}, NAME),
            max_size=2,
        ),
        "ports": st.just([{"containerPort": 22, "hostPort": 22}]),
        "command": st.just(["sh"]),
        "resources": st.sampled_from([{}, {"limits": {"cpu": "2"}}, {"requests": {"memory": "1Gi"}}]),
        "terminationMessagePolicy": st.just("File"),
        "lifecycle": st.just({"preStop": {"exec": {"command": ["sh"]}}}),
        "restartPolicy": st.just("Never"),
    },
)
SPEC = st.fixed_dictionaries(
    {"containers": st.lists(CONTAINER, min_size=1, max_size=3)},
    optional={
        "initContainers": st.lists(CONTAINER, max_size=2),
        "volumes": st.lists(VOLUME, max_size=3),
        "hostNetwork": st.booleans(),
        "hostPID": st.booleans(),
        "hostIPC": st.booleans(),
        "hostUsers": st.booleans(),
        "shareProcessNamespace": st.booleans(),
        "serviceAccountName": NAME,
        "automountServiceAccountToken": st.booleans(),
        "securityContext": SECURITY,
        "nodeSelector": st.just({"disk": "ssd"}),
        "tolerations": st.just([{"operator": "Exists"}]),
        "affinity": st.just({"nodeAffinity": {}}),
        "restartPolicy": st.sampled_from(["Never", "OnFailure", "Always"]),
        "priorityClassName": NAME,
        "runtimeClassName": NAME,
        "dnsPolicy": st.just("ClusterFirst"),
        "imagePullSecrets": st.just([{"name": "theirs"}]),
        "hostAliases": st.just([{"ip": "127.0.0.1", "hostnames": ["a"]}]),
        "terminationGracePeriodSeconds": st.integers(0, 60),
        "enableServiceLinks": st.booleans(),
    },
)
TEMPLATE = st.fixed_dictionaries(
    {"spec": SPEC},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(NAME, NAME, max_size=2),
                "annotations": st.dictionaries(NAME, NAME, max_size=2),
            },
        )
    },
)
# What docs/security.md says that we add.
OUR_VOLUMES = {"supernode-emulator", "supernode-mpi", "supernode-requests"}
OUR_SPEC = {"hostname", "subdomain", "nodeName", "schedulerName"}
SIDECAR = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def taken_off(pod: Json, template: Json) -> Json:
    """The pod's spec without what we add; None where the template has nothing."""
    spec = {name: value for name, value in copy.deepcopy(pod["spec"]).items() if name not in OUR_SPEC}
    written = template["spec"]
    if "restartPolicy" not in written:
        assert spec.pop("restartPolicy") == "Never"
    if "priorityClassName" not in written:
        spec.pop("priorityClassName", None)
    if spec.get("initContainers") and spec["initContainers"][0]["name"] == "supernode-emulator":
        assert spec["initContainers"].pop(0)["securityContext"] == SIDECAR
    spec["volumes"] = [volume for volume in spec.get("volumes") or [] if volume["name"] not in OUR_VOLUMES]
    first, own = spec["containers"][0], written["containers"][0]
    first["volumeMounts"] = [m for m in first.get("volumeMounts") or [] if m["name"] not in OUR_VOLUMES]
    kept = own.get("env") or []
    if kept:
        theirs = [entry for entry in kept if not str(entry["name"]).startswith("SUPERNODE_")]
        assert first["env"][len(first["env"]) - len(theirs) :] == theirs, "the user's own come last, as he wrote them"
    first.pop("env", None)
    for side in ("requests", "limits"):
        first.get("resources", {}).get(side, {}).pop("hygon.com/hcu", None)
    if "terminationMessagePolicy" not in own:
        assert first.pop("terminationMessagePolicy") == "FallbackToLogsOnError"
    return spec


def without_empty(value: Any) -> Any:
    """Empty lists and objects say the same as nothing."""
    if isinstance(value, dict):
        found = {name: without_empty(inner) for name, inner in value.items()}
        return {name: inner for name, inner in found.items() if inner not in ({}, [])}
    return [without_empty(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=200)
@given(
    TEMPLATE, st.sampled_from(["None", "PyTorch", "MPI"]), st.sampled_from([None, "hygon-bw1000"]), st.integers(0, 2)
)
def test_a_pod_is_its_template_and_what_is_documented(
    template: Json, framework: str, chip: str | None, devices: int
) -> None:
    before = copy.deepcopy(template)
    worker = WorkerPlan(1, "n1", "dcu", tuple(range(devices)))
    plan = GangPlan(
        job="gpt",
        namespace="team-a",
        uid="0123456789",
        attempt=0,
        framework=framework,
        devices_per_worker=devices,
        workers=(WorkerPlan(0, "n0", "dcu", tuple(range(devices))), worker),
        pools={"dcu": PoolPlan("dcu", "hygon.com/hcu", chip)},
        template=template,
        parallelism={},
        topology={},
        emulator_image="supernode:9",
        priority_class="high",
    )
    pod = manifests.pod(plan, worker)
    assert template == before, "the template itself is left alone"
    written = copy.deepcopy(before["spec"])
    written["containers"][0].pop("env", None)
    assert without_empty(taken_off(pod, before)) == without_empty(written)
    for word in ("hostPath", "hostNetwork", "hostPID", "privileged", "serviceAccount", "SYS_ADMIN", "hostPort"):
        assert json.dumps(pod).count(word) == json.dumps(before).count(word), f"{word} is never added by us"
    meta = before.get("metadata") or {}
    for kind in ("labels", "annotations"):
        given_ = meta.get(kind) or {}
        ours = {n for n in pod["metadata"][kind] if "/" in n}
        assert {n: v for n, v in pod["metadata"][kind].items() if n not in ours} == given_


def test_labels_and_annotations_of_ours_can_not_be_set_in_a_template() -> None:
    forged = {"supernode.dev/job-uid": "x", "supernode.dev/rank": "7", "supernode.dev/job": "other"}
    notes = {"supernode.dev/devices": "0,1,2,3"}
    template = {"metadata": {"labels": forged, "annotations": notes}, "spec": {"containers": [{"name": "c"}]}}
    worker = WorkerPlan(0, "n0", "dcu", (1,))
    plan = GangPlan(
        "gpt", "a", "uid", 0, "None", 1, (worker,), {"dcu": PoolPlan("dcu", "r/x", None)}, template, {}, {}, "i"
    )
    found = manifests.pod(plan, worker)["metadata"]
    assert (found["labels"]["supernode.dev/job-uid"], found["labels"]["supernode.dev/rank"]) == ("uid", "0")
    assert found["annotations"]["supernode.dev/devices"] == "1"
