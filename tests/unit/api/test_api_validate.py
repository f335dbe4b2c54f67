"""What depends on other objects: names that lead nowhere, figures that are missing, workers no node can hold."""

from __future__ import annotations

import pytest
from tests.builders.manifests import MODEL, Json, a_group, a_job, a_pool

from supernode.api import (
    AcceleratorPool,
    Problem,
    SuperNodeGroup,
    group_from,
    job_from,
    pool_chip,
    pool_from,
    validate_group,
    validate_job,
    validate_pool,
)
from supernode.api.fields import NodeSelector
from supernode.errors import ChipError

STORE = {"name": "parastor-a", "level": "spine", "domain": "spine-0", "readGBps": 40, "writeGBps": 20}


def _pools(*objects: Json) -> dict[str, AcceleratorPool]:
    return {obj["metadata"]["name"]: pool_from(obj) for obj in objects}


def _groups(*objects: Json) -> list[SuperNodeGroup]:
    return [group_from(obj) for obj in objects]


def _problems(job: Json, *pools: Json, group: Json | None = None) -> list[tuple[str, str]]:
    found = validate_job(job_from(job), _pools(*pools or (a_pool(),)), _groups(group or a_group(storage=[STORE])))
    return [(problem.field, problem.message) for problem in found]


def test_a_job_whose_names_all_lead_somewhere_has_no_problem() -> None:
    job = a_job(
        model=MODEL,
        scheduling={"constraints": {"topology": [{"level": "spine"}, {"level": "node", "mode": "Preferred"}]}},
        storage={"dataset": "parastor-a", "checkpoint": {"store": "parastor-a", "everySteps": 1, "sizeGB": 1}},
    )
    assert _problems(job) == []


@pytest.mark.parametrize(
    ("job", "field", "message"),
    [
        (
            a_job(pools=["dcu-bw1000", "nowhere"]),
            "spec.pools[1]",
            "no AcceleratorPool is called 'nowhere'; known: dcu-bw1000",
        ),
        (a_job(pools=["dcu-bw100"]), "spec.pools[0]", "did you mean dcu-bw1000?"),
        (
            a_job(scheduling={"constraints": {"topology": [{"level": "rack"}]}}),
            "spec.scheduling.constraints.topology[0].level",
            "no level in any SuperNodeGroup is called 'rack'; known: node, spine, supernode",
        ),
        (
            a_job(scheduling={"constraints": {"slices": [{"level": "supernodes", "size": 1}]}}),
            "spec.scheduling.constraints.slices[0].level",
            "did you mean supernode?",
        ),
        (a_job(storage={"dataset": "nfs"}), "spec.storage.dataset", "known: parastor-a"),
        (
            a_job(storage={"checkpoint": {"store": "nfs", "everySteps": 1, "sizeGB": 1}}),
            "spec.storage.checkpoint.store",
            "known: parastor-a",
        ),
        (
            a_job(acceleratorsPerWorker=4),
            "spec.acceleratorsPerWorker",
            "4 accelerators are asked for each worker, but a node of pool dcu-bw1000 has 2",
        ),
        (a_job(model={**MODEL, "dtype": "fp8"}), "spec.model.dtype", "the fp8 peak of chip hygon-bw1000 is not known"),
    ],
)
def test_what_leads_nowhere_is_named(job: Json, field: str, message: str) -> None:
    ((found, text),) = _problems(job)
    assert found == field
    assert message in text


def test_without_any_pool_or_group() -> None:
    found = validate_job(job_from(a_job(storage={"dataset": "nfs"})), {}, [])
    assert [str(problem).split(": ")[0] for problem in found] == ["spec.pools[0]", "spec.storage.dataset"]
    assert all("there is none yet" in problem.message for problem in found)


def test_a_pool_that_is_not_accepted_is_a_problem_of_its_jobs() -> None:
    ((field, message),) = _problems(a_job(), a_pool(chip="bw9999"))
    assert field == "spec.pools[0]"
    assert "AcceleratorPool dcu-bw1000 is not accepted: spec.chip: no chip 'bw9999'" in message


def test_pools() -> None:
    assert validate_pool(pool_from(a_pool())) == []
    assert validate_pool(pool_from(a_pool(chip="BW1000"))) == []
    hardware: Json = {"mode": "Hardware", "devicesPerNode": ...}
    assert validate_pool(pool_from(a_pool(chip="metax-c550", **hardware))) == []
    (unknown,) = validate_pool(pool_from(a_pool(chip="bw9999")))
    assert unknown.field == "spec.chip"
    missing = validate_pool(pool_from(a_pool(chip="metax-c550")))
    assert [problem.field for problem in missing] == ["spec.chip"] * 4
    assert "memoryGiB" in missing[0].message
    assert validate_group(group_from(a_group())) == []


def test_a_chip_spec_stands_in_for_the_catalogue() -> None:
    spec: Json = {"name": "mine", "memoryGiB": 16, "memoryGBps": 900, "tflops": {"f32": 20}, "linkGBps": 50}
    ours = pool_from(a_pool(chip=..., chipSpec={**spec, "resourceNames": ["example.com/chip"]}))
    assert validate_pool(ours) == []
    assert pool_chip(ours.spec).memory_bytes == 16 * 2**30
    (problem,) = validate_pool(pool_from(a_pool(chip=..., chipSpec=spec)))
    assert problem.field == "spec.resourceNames"
    named = pool_from(a_pool(chip=..., chipSpec=spec, resourceNames=["example.com/other"]))
    assert pool_chip(named.spec).resource_names == ("example.com/other",)


def test_the_pool_overrides_names_and_links_of_the_catalogue() -> None:
    pool = pool_from(a_pool(resourceNames=["hygon.com/dcu"], interconnect={"bandwidthGBps": 100}))
    chip = pool_chip(pool.spec)
    assert chip.resource_names == ("hygon.com/dcu",)
    assert chip.link_bandwidth == 100e9
    assert pool_chip(pool_from(a_pool()).spec).link_bandwidth == 224e9
    with pytest.raises(ChipError) as caught:
        pool_chip(pool_from(a_pool(chip="910B")).spec)
    assert caught.value.field == "spec.chip"


def test_selectors_follow_kubernetes() -> None:
    def selects(labels: dict[str, str], **selector: object) -> bool:
        return NodeSelector.model_validate(selector).matches(labels)

    both = {"a": "1", "b": "2"}
    assert selects(both)  # an empty selector selects everything
    assert selects(both, matchLabels={"a": "1"})
    assert not selects(both, matchLabels={"a": "1", "c": "3"})
    for operator, values, chosen in (
        ("In", ["1", "9"], True), ("In", ["9"], False), ("NotIn", ["9"], True), ("NotIn", ["1"], False),
        ("Exists", [], True), ("DoesNotExist", [], False),
    ):  # fmt: skip
        assert selects(both, matchExpressions=[{"key": "a", "operator": operator, "values": values}]) is chosen
    # A node without the label is not In, and is NotIn, as in Kubernetes.
    assert not selects({}, matchExpressions=[{"key": "a", "operator": "In", "values": ["1"]}])
    assert selects({}, matchExpressions=[{"key": "a", "operator": "NotIn", "values": ["1"]}])


def test_a_problem_reads_as_one_line() -> None:
    assert str(Problem("spec.pools[0]", "is wrong")) == "spec.pools[0]: is wrong"
