"""What kind, Docker and the examples are made of: they parse, fit together, and name only what is there.

Nothing here runs Docker or kind. That the examples are taken by a real API server is a wire test.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernode import __version__
from supernode.api import group_from, job_from, model_from, pool_from, validate_job, validate_pool
from supernode.errors import InputError

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "kind/examples").glob("*.yaml"))
DOCKERFILE = ROOT / "operator/Dockerfile"
Json = dict[str, Any]


def objects(*names: str) -> list[Json]:
    return [obj for path in EXAMPLES if not names or path.name in names for obj in yaml.safe_load_all(path.read_text())]


def kind_nodes(name: str) -> list[Json]:
    config = yaml.safe_load((ROOT / "kind" / name).read_text())
    assert (config["kind"], config["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    return list(config["nodes"])


def test_the_examples_in_order() -> None:
    assert [path.name for path in EXAMPLES] == [
        "10-pools.yaml", "20-group.yaml", "30-job-gpt.yaml", "40-job-wide.yaml", "50-job-broken.yaml",
    ]  # fmt: skip
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in objects()] == [
        ("AcceleratorPool", "dcu-bw1000"),
        ("AcceleratorPool", "npu-910c"),
        ("SuperNodeGroup", "scalex"),
        ("TrainingJob", "gpt"),
        ("TrainingJob", "wide"),
        ("TrainingJob", "broken-pool"),
        ("TrainingJob", "broken-parallelism"),
    ]
    for path in EXAMPLES:
        assert path.read_text().startswith("# "), "each file says what it is about"


def test_good_examples_are_accepted_and_broken_ones_are_not() -> None:
    pools = {obj["metadata"]["name"]: pool_from(obj) for obj in objects("10-pools.yaml")}
    groups = [group_from(obj) for obj in objects("20-group.yaml")]
    for pool in pools.values():
        assert validate_pool(pool) == []
    for obj in objects("30-job-gpt.yaml", "40-job-wide.yaml"):
        assert validate_job(job_from(obj), pools, groups) == []
    unknown, sums = objects("50-job-broken.yaml")
    (problem,) = validate_job(job_from(unknown), pools, groups)
    assert problem.field == "spec.pools[0]"
    with pytest.raises(InputError) as caught:
        model_from(sums)
    assert caught.value.field == "spec.parallelism"


def test_the_second_job_fits_only_when_the_first_has_ended() -> None:
    pool = pool_from(objects("10-pools.yaml")[0])
    nodes = [node for node in kind_nodes("super-nodes.yaml") if pool.spec.node_selector.matches(node.get("labels", {}))]
    devices = len(nodes) * (pool.spec.devices_per_node or 0)
    first, second = (job_from(obj).spec.accelerators for obj in objects("30-job-gpt.yaml", "40-job-wide.yaml"))
    assert (first, second, devices) == (4, 8, 8)


def test_model_and_arguments_of_the_jobs_say_the_same() -> None:
    from supernode.demo.train import build_parser

    for obj in objects("30-job-gpt.yaml", "40-job-wide.yaml"):
        spec = job_from(obj).spec
        container = obj["spec"]["template"]["spec"]["containers"][0]
        assert container["command"] == ["python", "-m", "supernode.demo.train"]
        args = build_parser().parse_args(container["args"])
        model = spec.model
        assert model is not None
        assert (args.layers, args.hidden, args.heads, args.sequence, args.dtype) == (
            model.layers, model.hidden_size, model.attention_heads, model.sequence_length, model.dtype,
        )  # fmt: skip
        assert model.vocabulary_size == 256
        assert args.batch == spec.parallelism.micro_batch_size
        assert spec.parallelism.global_batch_size == args.batch * spec.data


def test_the_examples_run_under_the_restricted_profile_with_our_image() -> None:
    for obj in objects():
        if obj["kind"] == "TrainingJob":
            pod = obj["spec"]["template"]["spec"]
            assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
            for container in pod["containers"]:
                assert container["image"] == f"supernode:{__version__}"
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", ["one-node.yaml", "super-nodes.yaml"])
def test_labels_of_kind_nodes_are_those_that_the_examples_select(name: str) -> None:
    nodes = [node["labels"] for node in kind_nodes(name) if "labels" in node]
    group = group_from(objects("20-group.yaml")[0])
    pools = [pool_from(obj) for obj in objects("10-pools.yaml")]
    for labels in nodes:
        assert sum(pool.spec.node_selector.matches(labels) for pool in pools) == 1
        if group.spec.node_selector.matches(labels):
            assert {level.node_label for level in group.spec.levels} <= set(labels)
    wired = [labels for labels in nodes if group.spec.node_selector.matches(labels)]
    if name == "super-nodes.yaml":
        assert sorted(labels["supernode.dev/supernode"] for labels in wired) == ["sn-0", "sn-0", "sn-1", "sn-1"]
        assert {labels["supernode.dev/spine"] for labels in wired} == {"spine-0"}
        assert [labels for labels in nodes if labels not in wired] == [{"supernode.dev/chip": "huawei-ascend-910c"}]


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_everything_that_the_image_copies_is_there_and_sent_to_the_builder() -> None:
    ignored = (ROOT / "operator/Dockerfile.dockerignore").read_text().split()
    sources = [
        source
        for word, rest in _instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]
    assert "requirements/runtime.txt" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_the_image_is_locked_non_root_and_starts_our_command() -> None:
    instructions = _instructions()
    assert ("ENTRYPOINT", '["supernode"]') in instructions
    assert instructions.index(("USER", "65532:65532")) > max(
        i for i, (word, _) in enumerate(instructions) if word == "RUN"
    )
    runs = [rest for word, rest in instructions if word == "RUN"]
    assert "--require-hashes" in runs[0]
    assert "--no-deps" in runs[1]
    assert "--no-index" in runs[2]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (default,) = (rest.partition("=")[2] for word, rest in instructions if word == "ARG" and rest.startswith("EXTRAS"))
    assert set(default.split(",")) <= set(extras)
    assert "hash=sha256" in (ROOT / "requirements/runtime.txt").read_text()


def test_the_loading_script() -> None:
    script = ROOT / "kind/load-image.sh"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    if (shellcheck := shutil.which("shellcheck")) is not None:
        done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_loading_script_says_what_is_missing(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "sed", "head"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "/nowhere")
    done = subprocess.run(
        [str(ROOT / "kind/load-image.sh")], capture_output=True, text=True, env={"PATH": str(tmp_path)}, timeout=30
    )
    assert done.returncode == 1
    assert "docker is not installed" in done.stderr
    assert "supernode local up" in done.stderr


def test_the_loading_script_builds_and_loads(tmp_path: Path) -> None:
    """With docker and kind that only write down what they were asked for."""
    log = tmp_path / "log"
    for tool in ("docker", "kind"):
        fake = tmp_path / tool
        fake.write_text(f'#!/bin/bash\necho "{tool} $*" >> {log}\n[[ "$1" != get ]] || echo mine\n')
        fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "EXTRAS": ""}
    done = subprocess.run(
        [str(ROOT / "kind/load-image.sh"), "mine"], capture_output=True, text=True, env=environment, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == [
        "kind get clusters",
        f"docker build --file {ROOT}/operator/Dockerfile --tag supernode:{__version__} --build-arg EXTRAS= {ROOT}",
        f"kind load docker-image supernode:{__version__} --name mine",
    ]
    done = subprocess.run(
        [str(ROOT / "kind/load-image.sh"), "other"], capture_output=True, text=True, env=environment, timeout=30
    )
    assert done.returncode == 1
    assert "kind create cluster --name other" in done.stderr
