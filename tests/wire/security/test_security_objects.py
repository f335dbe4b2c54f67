"""A job's secret is that job's alone, and nothing that is somebody else's is overwritten, adopted or deleted."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request

import pytest
from tests.wire.controlplane import OPERATOR_USER
from tests.wire.operatorlab import Lab

from supernode.cluster.kinds import CONFIG_MAPS, EVENTS, JOBS, PODS, SECRETS, SERVICES, Json, Kind
from supernode.errors import NotFoundError

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(180)]

REVIEWS = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
ROLES = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role")
BINDINGS = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")


async def may(lab: Lab, user: str, verb: str, resource: str) -> bool:
    attributes = {"namespace": lab.namespace, "verb": verb, "resource": resource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    found: bool = (await lab.client.create(REVIEWS, review))["status"]["allowed"]
    return found


async def shared_name(lab: Lab, job: str) -> str:
    return f"{job}-fabric-{(await lab.job(job))['metadata']['uid'][:8]}"


async def secret_of(lab: Lab, job: str) -> Json:
    return await lab.client.get(SECRETS, await shared_name(lab, job), lab.namespace)


async def is_there(lab: Lab, kind: Kind, name: str) -> bool:
    try:
        await lab.client.get(kind, name, lab.namespace)
    except NotFoundError:
        return False
    return True


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


async def gone(lab: Lab, name: str) -> None:
    async def check() -> bool:
        return not await is_there(lab, JOBS, name)

    await lab.until(f"{name} is gone", check)


async def test_every_job_has_a_secret_of_its_own(lab: Lab) -> None:
    lab.operator()
    for name in ("a", "b"):
        await lab.add_job(name)
        await lab.until_state(name, "Running")
    secrets = {name: await secret_of(lab, name) for name in ("a", "b")}
    values = {base64.b64decode(secret["data"]["secret"]) for secret in secrets.values()}
    assert len(values) == 2
    assert {len(value) for value in values} == {64}
    for name, secret in secrets.items():
        owner = secret["metadata"]["ownerReferences"]
        assert [(o["kind"], o["name"], o["controller"]) for o in owner] == [("TrainingJob", name, True)]
        for pod in await lab.job_pods(name):
            named = {
                entry["valueFrom"]["secretKeyRef"]["name"]
                for part in ("containers", "initContainers")
                for container in pod["spec"][part]
                for entry in container.get("env", [])
                if "secretKeyRef" in entry.get("valueFrom", {})
            }
            assert named == {secret["metadata"]["name"]}
            # The worker itself has no use for it: only the sidecar reads it.
            assert "secret" not in json.dumps(pod["spec"]["containers"]).lower()
    # Another attempt's sidecars share another secret.
    lab.kubelet.endings["a-worker-0"] = 1
    await lab.until_status("a", "runs again", lambda s: s["state"] == "Running" and s["attempt"] == 1)
    assert (await secret_of(lab, "a"))["data"] != secrets["a"]["data"]
    assert (await secret_of(lab, "b"))["data"] == secrets["b"]["data"]
    names = {name: await shared_name(lab, name) for name in ("a", "b")}
    await lab.client.delete(JOBS, "a", lab.namespace)
    await gone(lab, "a")
    left = [await is_there(lab, kind, names["a"]) for kind in (SECRETS, CONFIG_MAPS)]
    assert [*left, await is_there(lab, SERVICES, "a")] == [False] * 3
    assert await is_there(lab, SECRETS, names["b"])


async def test_who_may_make_jobs_may_not_read_their_secrets(lab: Lab) -> None:
    rule = {"apiGroups": ["supernode.dev"], "resources": ["trainingjobs"], "verbs": ["*"]}
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "trainers"}, "rules": [rule]}
    await lab.client.create(ROLES, role, lab.namespace)
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "trainers"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "trainers"},
        "subjects": [{"kind": "User", "name": f"ada-{lab.suffix}", "apiGroup": rbac}],
    }
    await lab.client.create(BINDINGS, binding, lab.namespace)
    for user in (f"ada-{lab.suffix}", OPERATOR_USER):
        for verb in ("get", "list", "watch", "patch", "update", "deletecollection"):
            assert not await may(lab, user, verb, "secrets"), f"{user} may {verb} secrets"


async def test_nothing_of_the_same_name_is_touched(lab: Lab) -> None:
    """A Service, ConfigMap, Secret and pod that were there before, with labels as if they were the job's."""
    lab.operator()
    forged = {"supernode.dev/job": "train", "supernode.dev/job-uid": "forged"}
    made: dict[Kind, Json] = {}
    bodies = {
        SERVICES: ("train", {"spec": {"clusterIP": "None", "ports": [{"port": 1}]}}),
        SECRETS: ("train-fabric", {"stringData": {"secret": "theirs"}}),
        CONFIG_MAPS: ("train-fabric", {"data": {"hostfile": "theirs"}}),
    }
    for kind, (name, body) in bodies.items():
        metadata = {"name": name, "labels": forged}
        whole = {"apiVersion": "v1", "kind": kind.kind, "metadata": metadata, **body}
        made[kind] = await lab.client.create(kind, whole, lab.namespace)
    await lab.add_job("train")
    words = "Service train is there already and is not this job's"
    await lab.until_status("train", "is told", lambda s: words in s.get("message", ""))
    assert await lab.job_pods("train") == []
    await lab.client.delete(SERVICES, "train", lab.namespace)
    await lab.until_state("train", "Running", seconds=60)
    await lab.client.delete(JOBS, "train", lab.namespace)
    await gone(lab, "train")
    for kind in (SECRETS, CONFIG_MAPS):
        assert await lab.client.get(kind, "train-fabric", lab.namespace) == made[kind]


async def test_labels_with_the_jobs_own_uid_make_nothing_its_own(lab: Lab) -> None:
    """Who knows the uid can write it on his objects; without the owner reference they stay his."""
    lab.operator()
    await lab.add_job("train", runPolicy={"suspend": True})
    uid = (await lab.until_state("train", "Suspended"))["metadata"]["uid"]
    labels = {
        "supernode.dev/job": "train",
        "supernode.dev/job-uid": uid,
        "supernode.dev/rank": "0",
        "supernode.dev/attempt": "0",
    }
    pod = {
        "metadata": {"name": "train-worker-0", "labels": labels},
        # On no node, so that it takes no room from anybody.
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "x"}]},
    }
    await lab.client.create(PODS, {"apiVersion": "v1", "kind": "Pod", **pod}, lab.namespace)
    plain = {**pod, "metadata": {"name": "train-worker-1"}}
    await lab.client.create(PODS, {"apiVersion": "v1", "kind": "Pod", **plain}, lab.namespace)
    notes = {"metadata": {"name": "train-data", "labels": labels}, "data": {"precious": "yes"}}
    await lab.client.create(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", **notes}, lab.namespace)
    await lab.client.patch(JOBS, "train", {"spec": {"runPolicy": {"suspend": False}}}, lab.namespace)
    waiting = await lab.until_state("train", "Waiting")
    told = "pod train-worker-{} is there already and is not this job's, which needs that name; it starts when that"
    assert waiting["status"]["message"] == f"{told.format(0)} pod is gone"
    await lab.client.delete(PODS, "train-worker-0", lab.namespace, grace=0)
    # Seen as it goes: everything is looked at once a minute anyhow.
    await lab.until_status("train", "waits for the other", lambda s: told.format(1) in s["message"], seconds=20)
    await lab.client.delete(PODS, "train-worker-1", lab.namespace, grace=0)
    await lab.until_state("train", "Running", seconds=20)
    await lab.client.delete(JOBS, "train", lab.namespace)
    await gone(lab, "train")
    assert await is_there(lab, CONFIG_MAPS, "train-data")


async def test_an_earlier_jobs_service_gives_way_to_the_next(lab: Lab) -> None:
    lab.operator()
    owner = {"apiVersion": JOBS.api_version, "kind": "TrainingJob", "name": "train", "uid": "past", "controller": True}
    metadata = {"name": "train", "ownerReferences": [owner]}
    spec = {"clusterIP": "None", "ports": [{"port": 1}]}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    before = await lab.client.create(SERVICES, body, lab.namespace)
    await lab.add_job("train")
    await lab.until_state("train", "Running")
    after = await lab.client.get(SERVICES, "train", lab.namespace)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


async def test_no_secret_is_told_at_the_finest_level_of_the_log(lab: Lab) -> None:
    """A whole life at debug level: the secrets of both attempts, raw, in base64 and in hex, are nowhere."""
    process = lab.operator("--log-level", "debug")
    await lab.add_job("train", framework="MPI", runPolicy={"backoffLimit": 1})
    values = []
    await lab.until_state("train", "Running")
    values.append(base64.b64decode((await secret_of(lab, "train"))["data"]["secret"]))
    lab.kubelet.endings["train-worker-1"] = 1
    await lab.until_status("train", "runs again", lambda s: s["state"] == "Running" and s["attempt"] == 1)
    values.append(base64.b64decode((await secret_of(lab, "train"))["data"]["secret"]))
    lab.kubelet.endings |= {"train-worker-0": 0, "train-worker-1": 0}
    await lab.until_state("train", "Succeeded")
    port = next(line for line in process.text().splitlines() if "metrics on port" in line).rsplit(" ", 1)[1]
    told = {"metrics": await asyncio.to_thread(read, f"http://127.0.0.1:{port}/metrics"), "log": process.text()}
    for kind in (JOBS, PODS, EVENTS, CONFIG_MAPS, SERVICES):
        told[kind.plural] = json.dumps(await lab.client.list_page(kind, lab.namespace))
    token = json.loads(lab.cluster.admin.read_text())["users"][0]["user"]["token"].encode()
    for value in (*values, token):
        forms = (value, base64.b64encode(value), value.hex().encode(), bytes.fromhex(value.decode()).hex().encode())
        for where, text in told.items():
            assert len(text) > 100
            assert not [form for form in forms if form.decode() in text], f"a secret stands in {where}"
