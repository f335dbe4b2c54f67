"""The objects a gang becomes, against the contract that the sidecar and the node agent read."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from supernode import names
from supernode.api.job import Framework
from supernode.cluster import manifests, translate
from supernode.cluster.manifests import GangPlan, PoolPlan, WorkerPlan
from supernode.cluster.pods import request_of
from supernode.cluster.rendezvous import Gang, frameworks, hostfile, machinefile, variables
from supernode.errors import InputError

TEMPLATE = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"note": "x"}},
    "spec": {
        "containers": [
            {
                "name": "trainer",
                "image": "team/train:1",
                "env": [{"name": "MASTER_PORT", "value": "1234"}, {"name": "SUPERNODE_RANK", "value": "99"}],
                "resources": {"requests": {"cpu": "1"}},
            },
            {"name": "logger", "image": "log:1"},
        ],
        "initContainers": [{"name": "fetch", "image": "fetch:1"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    },
}


def a_plan(framework: str = "PyTorch", chip: str | None = "hygon-bw1000", **more: Any) -> GangPlan:
    return GangPlan(
        **{
            "job": "gpt",
            "namespace": "team-a",
            "uid": "u-1",
            "attempt": 3,
            "framework": framework,
            "devices_per_worker": 2,
            "workers": (WorkerPlan(0, "n0", "dcu", (0, 1)), WorkerPlan(1, "n1", "dcu", (2, 5))),
            "pools": {"dcu": PoolPlan("dcu", "hygon.com/hcu", chip)},
            "template": TEMPLATE,
            "parallelism": {"tensor": 1, "data": 4},
            "topology": {"levels": [], "domains": []},
            "emulator_image": "supernode:9",
            **more,
        }
    )


def env_of(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_pod_is_bound_named_and_owned() -> None:
    pod = manifests.pod(a_plan(), a_plan().workers[1])
    spec, metadata = pod["spec"], pod["metadata"]
    assert (metadata["name"], spec["hostname"], spec["subdomain"]) == ("gpt-worker-1", "gpt-worker-1", "gpt")
    assert (spec["nodeName"], spec["schedulerName"], spec["restartPolicy"]) == ("n1", "supernode", "Never")
    assert metadata["annotations"] == {"note": "x", names.ANNOTATION_DEVICES: "2,5"}
    assert metadata["labels"] == {
        "team": "a",
        names.LABEL_JOB: "gpt",
        names.LABEL_JOB_UID: "u-1",
        names.LABEL_RANK: "1",
        names.LABEL_ATTEMPT: "3",
        names.LABEL_POOL: "dcu",
        names.LABEL_KUBEFLOW_JOB: "gpt",
        names.LABEL_KUBEFLOW_TYPE: "worker",
        names.LABEL_KUBEFLOW_INDEX: "1",
        names.LABEL_COMPLETION_INDEX: "1",
    }
    (owner,) = metadata["ownerReferences"]
    assert owner == {
        "apiVersion": "supernode.dev/v1alpha1",
        "kind": "TrainingJob",
        "name": "gpt",
        "uid": "u-1",
        "controller": True,
        "blockOwnerDeletion": True,
    }


def test_the_sidecar_is_as_the_emulator_expects() -> None:
    pod = manifests.pod(a_plan(), a_plan().workers[1])
    sidecar, fetch = pod["spec"]["initContainers"]
    assert fetch["name"] == "fetch"
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("supernode-emulator", "Always")
    assert (sidecar["image"], sidecar["args"]) == ("supernode:9", ["emulator", "--socket-mode=666"])
    assert env_of(sidecar) == {
        "SUPERNODE_CHIP": "hygon-bw1000",
        "SUPERNODE_DEVICES": "2",
        "SUPERNODE_RANK": "1",
        "SUPERNODE_WORKERS": "2",
        "SUPERNODE_ATTEMPT": "3",
        "SUPERNODE_RENDEZVOUS": "gpt-worker-0.gpt.team-a.svc:29400",
        "SUPERNODE_POD_IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "SUPERNODE_EMULATOR_SOCKET": "/var/run/supernode/emulator.sock",
        "SUPERNODE_FABRIC_SECRET": {"secretKeyRef": {"name": "gpt-fabric-u-1", "key": "secret"}},
        "SUPERNODE_TOPOLOGY": {"configMapKeyRef": {"name": "gpt-fabric-u-1", "key": "topology.json"}},
    }
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/readyz", "port": 29401}
    security = sidecar["securityContext"]
    assert security["runAsNonRoot"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    mounts = {m["name"]: m["mountPath"] for m in sidecar["volumeMounts"]}
    assert mounts == {"supernode-emulator": "/var/run/supernode"}
    assert {"name": "supernode-emulator", "emptyDir": {"medium": "Memory"}} in pod["spec"]["volumes"]


def test_the_worker_gets_devices_variables_and_the_socket() -> None:
    pod = manifests.pod(a_plan(), a_plan().workers[1])
    worker, logger = pod["spec"]["containers"]
    assert worker["resources"] == {
        "requests": {"cpu": "1", "hygon.com/hcu": "2"},
        "limits": {"hygon.com/hcu": "2"},
    }
    env = env_of(worker)
    assert env["SUPERNODE_EMULATOR_SOCKET"] == "/var/run/supernode/emulator.sock"
    assert env["HIP_VISIBLE_DEVICES"] == "0,1"
    assert env["SUPERNODE_RANK"] == "1", "ours are always ours"
    assert env["MASTER_PORT"] == "1234", "the user's word goes before the framework's"
    assert env["PET_MASTER_PORT"] == "29500"
    assert json.loads(env["SUPERNODE_PARALLELISM"]) == {"tensor": 1, "data": 4}
    assert len(env) == len(worker["env"]), "no variable twice"
    assert "env" not in logger
    assert worker["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert "terminationMessagePolicy" not in logger


def test_on_real_devices_there_is_no_emulator() -> None:
    pod = manifests.pod(a_plan(chip=None), a_plan().workers[0])
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["fetch"]
    worker = pod["spec"]["containers"][0]
    assert [mount["name"] for mount in worker["volumeMounts"]] == ["supernode-requests"]
    assert "HIP_VISIBLE_DEVICES" not in env_of(worker), "the device plugin says which"
    assert worker["resources"]["limits"] == {"hygon.com/hcu": "2"}


def test_the_same_plan_gives_the_same_objects_and_leaves_the_template_alone() -> None:
    before = copy.deepcopy(TEMPLATE)
    plan = a_plan()
    assert manifests.pod(plan, plan.workers[0]) == manifests.pod(plan, plan.workers[0])
    assert before == TEMPLATE


def test_the_sidecars_requests_are_those_that_are_planned_with() -> None:
    with_it = request_of(manifests.pod(a_plan(), a_plan().workers[0])["spec"])
    without = request_of(manifests.pod(a_plan(chip=None), a_plan().workers[0])["spec"])
    difference = {name: with_it[name] - without.get(name, 0) for name in with_it}
    assert {k: v for k, v in difference.items() if v} == manifests.sidecar_request()


def test_the_service_finds_pods_before_they_are_ready() -> None:
    spec = manifests.service(a_plan())["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is True
    assert spec["selector"] == {names.LABEL_JOB_UID: "u-1"}


def test_every_framework_of_the_api_is_known_and_no_other() -> None:
    assert frameworks() == frozenset(Framework.__args__)  # type: ignore[attr-defined]


GANG = Gang("gpt", "team-a", 3, 4)
HOST = "gpt-worker-{}.gpt.team-a.svc"


@pytest.mark.parametrize(
    ("framework", "expected"),
    [
        ("None", {}),
        (
            "PyTorch",
            {
                "MASTER_ADDR": HOST.format(0),
                "MASTER_PORT": "29500",
                "RANK": "2",
                "WORLD_SIZE": "3",
                "PET_NNODES": "3",
                "PET_NODE_RANK": "2",
                "PET_NPROC_PER_NODE": "4",
                "PET_MASTER_ADDR": HOST.format(0),
                "PET_MASTER_PORT": "29500",
            },
        ),
        (
            "JAX",
            {
                "JAX_COORDINATOR_ADDRESS": HOST.format(0) + ":29500",
                "JAX_NUM_PROCESSES": "3",
                "JAX_PROCESS_ID": "2",
                "COORDINATOR_ADDRESS": HOST.format(0),
                "COORDINATOR_PORT": "29500",
                "NUM_PROCESSES": "3",
                "PROCESS_ID": "2",
            },
        ),
        (
            "PaddlePaddle",
            {
                "PADDLE_MASTER": HOST.format(0) + ":29500",
                "PADDLE_NNODES": "3",
                "PADDLE_RANK": "2",
                "PADDLE_NPROC_PER_NODE": "4",
                "PADDLE_JOB_ID": "gpt",
                "PADDLE_TRAINER_ID": "2",
                "PADDLE_TRAINERS_NUM": "3",
                "PADDLE_TRAINER_ENDPOINTS": ",".join(HOST.format(rank) + ":6170" for rank in range(3)),
                "PADDLE_CURRENT_ENDPOINT": HOST.format(2) + ":6170",
            },
        ),
        (
            "MindSpore",
            {
                "MS_SCHED_HOST": HOST.format(0),
                "MS_SCHED_PORT": "8118",
                "MS_WORKER_NUM": "12",
                "MS_ROLE": "MS_WORKER",
                "MS_NODE_RANK": "2",
            },
        ),
    ],
)
def test_what_each_framework_reads(framework: str, expected: dict[str, str]) -> None:
    assert dict(variables(framework, GANG, 2)) == expected


def test_tensorflow_reads_one_json() -> None:
    (name, value), *rest = variables("TensorFlow", GANG, 1)
    assert (name, rest) == ("TF_CONFIG", [])
    assert json.loads(value) == {
        "cluster": {"worker": [HOST.format(rank) + ":2222" for rank in range(3)]},
        "task": {"type": "worker", "index": 1},
    }


def test_mpi_gets_a_hostfile_with_a_slot_for_each_device() -> None:
    assert hostfile(GANG) == "".join(HOST.format(rank) + " slots=4\n" for rank in range(3))
    assert machinefile(GANG) == "".join(HOST.format(rank) + ":4\n" for rank in range(3))
    pod = manifests.pod(a_plan("MPI"), a_plan().workers[0])
    worker = pod["spec"]["containers"][0]
    assert env_of(worker)["OMPI_MCA_orte_default_hostfile"] == "/etc/mpi/hostfile"
    assert {"name": "supernode-mpi", "mountPath": "/etc/mpi", "readOnly": True} in worker["volumeMounts"]
    assert env_of(worker)["HYDRA_HOST_FILE"] == "/etc/mpi/machinefile"
    (volume,) = (entry for entry in pod["spec"]["volumes"] if entry["name"] == "supernode-mpi")
    data = manifests.config_map(a_plan("MPI"))["data"]
    assert [data[item["key"]].count("2\n") for item in volume["configMap"]["items"]] == [2, 2]
    assert [item["path"] for item in volume["configMap"]["items"]] == ["hostfile", "machinefile"]


def test_paddles_launcher_takes_rank_0_for_the_master_and_the_others_for_its_guests() -> None:
    first = [dict(variables("PaddlePaddle", GANG, rank)) for rank in range(3)]
    assert [found["PADDLE_MASTER"].split(":")[0] for found in first] == ["127.0.0.1", HOST.format(0), HOST.format(0)]
    assert [found["PADDLE_TRAINER_ENDPOINTS"].split(":")[0] for found in first] == [
        "127.0.0.1",
        HOST.format(0),
        HOST.format(0),
    ]
    assert first[0]["PADDLE_CURRENT_ENDPOINT"] == "127.0.0.1:6170"


@pytest.mark.parametrize(
    ("amounts", "variables"),
    [
        ({"hygon.com/hcucores": "60", "hygon.com/hcumem": "16384"}, {"CORES": "60", "MEMORY_MIB": "16384"}),
        ({"hygon.com/dcucores": 30, "hygon.com/dcumem": "2k"}, {"CORES": "30", "MEMORY_MIB": "2000"}),
        ({"hygon.com/hcumem": "1Ki"}, {"MEMORY_MIB": "1024"}),
        ({}, {}),
    ],
)
def test_a_share_of_a_card_goes_to_the_sidecar(amounts: dict[str, Any], variables: dict[str, str]) -> None:
    template = copy.deepcopy(TEMPLATE)
    resources = template["spec"]["containers"][0]["resources"]  # type: ignore[index]
    resources["limits"] = dict(amounts)
    resources["requests"] |= dict(amounts)
    emulated = manifests.pod(a_plan(template=template), a_plan().workers[0])["spec"]
    sidecar = emulated["initContainers"][0]
    assert {k: v for k, v in env_of(sidecar).items() if k.startswith("SUPERNODE_DEVICE_")} == {
        f"SUPERNODE_DEVICE_{name}": value for name, value in variables.items()
    }
    # No device plugin counts these resources on the emulated node.
    for side in ("requests", "limits"):
        assert not set(emulated["containers"][0]["resources"][side]) & set(amounts)
        assert emulated["containers"][0]["resources"][side]["hygon.com/hcu"] == "2"
    assert not set(translate.worker_request(template, emulated=True)) & set(amounts)
    # On hardware the plugin does.
    real = manifests.pod(a_plan(template=template, chip=None), a_plan().workers[0])["spec"]
    assert set(amounts) <= set(real["containers"][0]["resources"]["limits"])
    assert "initContainers" not in real or len(real["initContainers"]) == 1
    assert set(amounts) <= set(translate.worker_request(template, emulated=False))


@pytest.mark.parametrize(("name", "amount"), [("hcucores", "0"), ("hcucores", "101"), ("dcumem", "0")])
def test_a_share_that_is_none_is_refused_where_the_job_is_read(name: str, amount: str) -> None:
    template = copy.deepcopy(TEMPLATE)
    template["spec"]["containers"][0]["resources"]["requests"][f"hygon.com/{name}"] = amount  # type: ignore[index]
    with pytest.raises(InputError, match=f"from 1 to .*, not {amount}"):
        translate.worker_request(template, emulated=True)
