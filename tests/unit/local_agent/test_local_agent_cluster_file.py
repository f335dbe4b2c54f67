"""The cluster file: NodeSets expand, and each mistake is named with its object and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from supernode.errors import InputError
from supernode.local import cluster_file
from supernode.local.cluster_file import parse_cluster_file

SET = """
apiVersion: supernode.dev/v1alpha1
kind: NodeSet
metadata: {name: NAME}
spec: {count: 4, start: 2, template: {metadata: {labels: {rack: "r{index//2}", odd: "{index % 2}", n: "{index}"}}}}
"""


def a_set(name: str) -> str:
    return SET.replace("NAME", name)


def test_a_node_set_expands_with_its_index() -> None:
    nodes = parse_cluster_file(a_set("dcu")).nodes
    assert [node["metadata"]["name"] for node in nodes] == ["dcu-2", "dcu-3", "dcu-4", "dcu-5"]
    assert [node["metadata"]["labels"]["rack"] for node in nodes] == ["r1", "r1", "r2", "r2"]
    assert [node["metadata"]["labels"]["odd"] for node in nodes] == ["0", "1", "0", "1"]


def test_a_name_may_hold_the_index() -> None:
    nodes = parse_cluster_file(a_set('"r{index//4}-n{index}"')).nodes
    assert [node["metadata"]["name"] for node in nodes] == ["r0-n2", "r0-n3", "r1-n4", "r1-n5"]


def test_other_objects_are_kept_in_order_and_lists_are_opened() -> None:
    text = """
    kind: List
    apiVersion: v1
    items:
    - {apiVersion: v1, kind: Node, metadata: {name: a}}
    - {apiVersion: supernode.dev/v1alpha1, kind: AcceleratorPool, metadata: {name: p}}
    ---
    ---
    {apiVersion: v1, kind: Namespace, metadata: {name: n}}
    """
    found = parse_cluster_file("\n".join(line[4:] for line in text.splitlines()))
    assert [node["metadata"]["name"] for node in found.nodes] == ["a"]
    assert [obj["kind"] for obj in found.objects] == ["AcceleratorPool", "Namespace"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("[1]", "object 1"),
        ("kind: Node", "metadata.name"),
        (a_set("dcu") + "---" + a_set("dcu"), "another node"),
        (a_set("x").replace("count: 4", "count: 0"), "spec.count"),
        (a_set("x").replace("count: 4", "count: true"), "spec.count"),
        (a_set("x").replace("start: 2", "start: -1"), "spec.start"),
        (a_set("x").replace("start: 2", "begin: 2"), "spec.begin"),
        (a_set("x").replace("v1alpha1", "v1"), "apiVersion"),
        (a_set("Dcu"), "lower-case"),
        ("{kind: Node, metadata: {name: a}, status: {capacity: {cpu: lots}}}", "status.capacity[cpu]"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        parse_cluster_file(text, "file.yaml")


def test_the_default_file_has_two_super_nodes_and_another_vendors_node() -> None:
    text = Path(cluster_file.__file__).with_name("demo-cluster.yaml").read_text()
    nodes = {node["metadata"]["name"]: node["metadata"]["labels"] for node in parse_cluster_file(text).nodes}
    assert list(nodes) == ["dcu-0", "dcu-1", "dcu-2", "dcu-3", "npu-0"]
    assert [nodes[f"dcu-{i}"]["supernode.dev/supernode"] for i in range(4)] == ["sn-0", "sn-0", "sn-1", "sn-1"]
    assert nodes["npu-0"]["supernode.dev/chip"] == "huawei-ascend-910c"


def test_the_default_file_is_the_cluster_of_kind_label_for_label() -> None:
    text = Path(cluster_file.__file__).with_name("demo-cluster.yaml").read_text()
    kind = yaml.safe_load((Path(__file__).parents[3] / "kind/super-nodes.yaml").read_text())
    workers = [node["labels"] for node in kind["nodes"] if node["role"] == "worker"]
    ours = [node["metadata"]["labels"] for node in parse_cluster_file(text).nodes]
    assert [{k: v for k, v in labels.items() if k.startswith("supernode.dev/")} for labels in ours] == workers
