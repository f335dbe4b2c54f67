"""`supernode place` as a person calls it: files in, table or JSON out, exit status."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernode.cli import main

CLUSTER = """
apiVersion: supernode.dev/v1alpha1
kind: NodeSet
metadata: {name: dcu}
spec:
  count: 4
  template:
    metadata:
      labels:
        supernode.dev/chip: hygon-bw1000
        supernode.dev/group: scalex
        supernode.dev/spine: spine-0
        supernode.dev/supernode: sn-{index//2}
    status: {capacity: {cpu: "64", memory: 512Gi, pods: "110"}}
---
apiVersion: v1
kind: Node
metadata: {name: npu-0, labels: {supernode.dev/chip: huawei-ascend-910c}}
---
apiVersion: supernode.dev/v1alpha1
kind: AcceleratorPool
metadata: {name: dcu-bw1000}
spec:
  chip: hygon-bw1000
  mode: Emulated
  devicesPerNode: 2
  nodeSelector: {matchLabels: {supernode.dev/chip: hygon-bw1000}}
---
apiVersion: supernode.dev/v1alpha1
kind: AcceleratorPool
metadata: {name: npu}
spec:
  chip: huawei-ascend-910c
  mode: Emulated
  devicesPerNode: 2
  nodeSelector: {matchLabels: {supernode.dev/chip: huawei-ascend-910c}}
---
apiVersion: supernode.dev/v1alpha1
kind: SuperNodeGroup
metadata: {name: scalex}
spec:
  nodeSelector: {matchLabels: {supernode.dev/group: scalex}}
  levels:
  - {name: spine, nodeLabel: supernode.dev/spine, bandwidthGBps: 50, latencyMicroseconds: 10}
  - {name: supernode, nodeLabel: supernode.dev/supernode, bandwidthGBps: 224, latencyMicroseconds: 2}
"""
# As `kubectl get tjob -o yaml` shows a running job: it holds super-node 0.
RUNNING = """
---
apiVersion: supernode.dev/v1alpha1
kind: TrainingJob
metadata: {name: gpt, namespace: default}
spec:
  pools: [dcu-bw1000]
  workers: 2
  acceleratorsPerWorker: 2
  template: {spec: {containers: [{name: trainer, image: x}]}}
status:
  state: Running
  placement:
    pool: dcu-bw1000
    assignment:
    - {pool: dcu-bw1000, nodes: [dcu-0, dcu-1], devices: [0-1]}
"""


def a_job(**spec: Any) -> dict[str, Any]:
    model = {
        "layers": 2,
        "hiddenSize": 256,
        "attentionHeads": 4,
        "vocabularySize": 256,
        "sequenceLength": 128,
        "dtype": "bf16",
    }
    base = {
        "pools": ["dcu-bw1000"],
        "workers": 2,
        "acceleratorsPerWorker": 2,
        "model": model,
        "scheduling": {"constraints": {"topology": [{"level": "spine", "mode": "Required"}]}},
        "template": {"spec": {"containers": [{"name": "trainer", "image": "x"}]}},
    }
    return {
        "apiVersion": "supernode.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "big"},
        "spec": {**base, **spec},
    }


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def call(*arguments: str) -> Done:
    """The command inside this process: starting Python 15 times over would only measure Python."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["place", *arguments])
    return Done(status, out.getvalue(), err.getvalue())


def run(folder: Path, job: dict[str, Any] | str, *options: str, cluster: str = CLUSTER) -> Done:
    (folder / "cluster.yaml").write_text(cluster, encoding="utf-8")
    text = job if isinstance(job, str) else yaml.safe_dump(job)
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    return call("--cluster", str(folder / "cluster.yaml"), "--job", str(folder / "job.yaml"), *options)


def test_as_a_process(tmp_path: Path) -> None:
    run(tmp_path, a_job())
    command = [sys.executable, "-m", "supernode", "place", "--cluster", "cluster.yaml", "--job", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "2 workers on 2 nodes" in done.stdout


def test_a_table_for_people(tmp_path: Path) -> None:
    done = run(tmp_path, a_job())
    assert done.returncode == 0, done.stderr
    assert "2 workers on 2 nodes of pool dcu-bw1000, supernode spine-0/sn-0; predicted" in done.stdout
    assert "0      dcu-0  0,1" in done.stdout
    assert "spine-0/sn-1  supernode" in done.stdout


def test_json_for_programs(tmp_path: Path) -> None:
    done = run(tmp_path, a_job(), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["placed"] is True
    assert answer["workers"] == [
        {"rank": 0, "node": "dcu-0", "devices": [0, 1]},
        {"rank": 1, "node": "dcu-1", "devices": [0, 1]},
    ]
    assert (answer["pool"], answer["level"], answer["domain"]) == ("dcu-bw1000", "supernode", "spine-0/sn-0")
    assert answer["predicted_step_s"] == pytest.approx(sum(answer["prediction"]["parts"].values()))
    assert answer["runners_up"][0]["predicted_step_s"] >= answer["predicted_step_s"]


def test_why_not(tmp_path: Path) -> None:
    done = run(tmp_path, a_job(workers=4), "--json", cluster=CLUSTER + RUNNING)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["placed"], answer["reason"], answer["workers"]) == (False, "InsufficientAccelerators", [])
    assert answer["message"] == (
        "needs 4 workers x 2 hygon.com/hcu in one spine (8 devices); pool dcu-bw1000 has 8 devices on 4 nodes, 4 free: "
        "sn-0 0, sn-1 4; 4 more are missing; default/gpt holds 4"
    )
    human = run(tmp_path, a_job(workers=4), cluster=CLUSTER + RUNNING)
    assert human.returncode == 1
    assert human.stdout.startswith("not placed (InsufficientAccelerators): needs 4 workers")


def test_what_a_quota_still_allows_is_told(tmp_path: Path) -> None:
    quota = "devicesPerNode: 2\n  quotas: [{namespace: default, guaranteed: 2, limit: 5}]"
    cluster = CLUSTER.replace("devicesPerNode: 2", quota, 1)
    found = json.loads(run(tmp_path, a_job(workers=4), "--json", cluster=cluster).stdout)
    assert found["reason"] == "ExceedsMaxQuota"
    assert found["alternatives"] == ["fits now with 2 workers"]


@pytest.mark.parametrize("layers", [32, 2000])
def test_a_cut_that_fits_is_told(tmp_path: Path, layers: int) -> None:
    model = {
        "layers": layers,
        "hiddenSize": 4096,
        "attentionHeads": 32,
        "vocabularySize": 32000,
        "sequenceLength": 2048,
    }
    found = json.loads(run(tmp_path, a_job(workers=4, model=model), "--json").stdout)
    assert found["reason"] == "OutOfDeviceMemory"
    (words,) = found["alternatives"]
    if layers == 2000:
        assert words.startswith("no cut over 8 devices of pool dcu-bw1000 fits: the smallest needs ")
        return
    cut = dict(re.findall(r"(tensor|pipeline|data|context|interleave|microBatchSize|zeroStage) (\d+)", words))
    parallelism: dict[str, Any] = {name: int(value) for name, value in cut.items()}
    parallelism["sequenceParallel"] = "sequenceParallel" in words
    parallelism["recompute"] = next((mode for mode in ("Selective", "Full") if f"recompute {mode}" in words), "None")
    again = run(tmp_path, a_job(workers=4, model=model, parallelism={**parallelism, "globalBatchSize": 8}), "--json")
    answer = json.loads(again.stdout)
    assert answer["placed"], (words, answer["message"])
    assert f"{answer['prediction']['memory_gib']:.1f} GiB" in words


def test_pods_of_others_count(tmp_path: Path) -> None:
    pod = """
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: team-b}
spec:
  nodeName: dcu-0
  containers: [{name: c, image: x, resources: {requests: {cpu: "64"}}}]
status: {phase: Running}
"""
    done = run(tmp_path, a_job(workers=1), "--json", cluster=CLUSTER + pod)
    assert json.loads(done.stdout)["workers"][0]["node"] == "dcu-1"


def test_node_without_a_group(tmp_path: Path) -> None:
    done = run(tmp_path, a_job(pools=["npu"], workers=1, scheduling={}), "--json")
    answer = json.loads(done.stdout)
    assert answer["workers"] == [{"rank": 0, "node": "npu-0", "devices": [0, 1]}]
    assert answer["level"] == "node"


@pytest.mark.parametrize(
    ("job", "reason", "words"),
    [
        (a_job(pools=["dcu-bw100"]), "NoMatchingPool", "spec.pools[0]: no AcceleratorPool is called 'dcu-bw100'"),
        (a_job(parallelism={"data": 3}), "Misconfigured", "spec.parallelism"),
        (a_job(workers=0), "Misconfigured", "spec.workers: must be at least 1"),
        (a_job(colour="red"), "Misconfigured", "spec.colour: unknown field"),
    ],
)
def test_broken_jobs_name_their_field(tmp_path: Path, job: dict[str, Any], reason: str, words: str) -> None:
    done = run(tmp_path, job, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["placed"], answer["reason"]) == (False, reason)
    assert words in answer["message"]


@pytest.mark.parametrize(
    ("job", "cluster", "words"),
    [
        ("a: [", CLUSTER, "job.yaml: not YAML"),
        ("{}", CLUSTER, "job.yaml: must hold one TrainingJob, found 0"),
        (a_job(), "a: [", "cluster.yaml: not YAML"),
        (a_job(), "kind: Node", "metadata.name"),
        (a_job(), CLUSTER.replace("chip: hygon-bw1000\n  mode", "chip: hygon-bw1\n  mode"), "hygon-bw1"),
    ],
)
def test_broken_files_are_one_line_on_standard_error(
    tmp_path: Path, job: dict[str, Any] | str, cluster: str, words: str
) -> None:
    done = run(tmp_path, job, cluster=cluster)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("supernode place: ")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = call("--cluster", str(tmp_path / "no.yaml"), "--job", str(tmp_path / "no.yaml"))
    assert done.returncode == 1
    assert "no.yaml: can't be read" in done.stderr
