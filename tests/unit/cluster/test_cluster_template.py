"""Templates that are no pod's: refused with the field's name, and never a surprise to those who read them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.cluster import manifests, nodes, translate
from supernode.cluster.manifests import GangPlan, PoolPlan, WorkerPlan
from supernode.cluster.template import check_template
from supernode.errors import InputError

CONTAINERS = [{"name": "trainer", "image": "python"}]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
NODE: dict[str, Any] = {
    "metadata": {"name": "n0", "labels": {"a": "b"}},
    "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
}


def affinity(terms: Any) -> dict[str, Any]:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"affinity": "x"}, "spec.template.spec.affinity: must be an object, found a text: 'x'"),
        ({"nodeSelector": {"a": 1}}, "spec.template.spec.nodeSelector.a: must be a text, found a number: '1'"),
        ({"tolerations": [{"key": 5}]}, "spec.template.spec.tolerations[0].key: must be a text, found a number: '5'"),
        ({"tolerations": {}}, "spec.template.spec.tolerations: must be a list, found an object: '{}'"),
        ({"nodeSelector": True}, "spec.template.spec.nodeSelector: must be an object, found a boolean: 'True'"),
        ({"initContainers": [{}, 3]}, "spec.template.spec.initContainers[1]: must be an object"),
        ({"tolerations": [None]}, "spec.template.spec.tolerations[0]: must not be null"),
        (affinity("x"), "nodeSelectorTerms: must be a list, found a text"),
        (
            affinity([{"matchExpressions": [{"key": "a", "operator": "Within"}]}]),
            f"spec.template.spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].operator: "
            "must be one of In, NotIn, Exists, DoesNotExist, Gt, Lt, found 'Within'",
        ),
        (
            {"containers": [{**CONTAINERS[0], "resources": []}]},
            "containers[0].resources: must be an object, found a list",
        ),
        ({"containers": [{**CONTAINERS[0], "env": ["A=B"]}]}, "containers[0].env[0]: must be an object, found a text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check_template({"spec": {"containers": CONTAINERS, **spec}})
    assert sentence in str(caught.value)


def test_what_is_absent_or_null_is_fine() -> None:
    check_template({"metadata": None, "spec": {"containers": CONTAINERS, "affinity": None, "tolerations": None}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", "1", "Exists"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "key", "name"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def perhaps(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, JSON)


def fields(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return perhaps(st.fixed_dictionaries({}, optional={name: perhaps(value) for name, value in members.items()}))


WORD = st.sampled_from(["a", "b", "In", "Exists", "Gt", "NoSchedule", "metadata.name"])
REQUIREMENT = fields(key=WORD, operator=WORD, values=st.lists(perhaps(WORD), max_size=2))
TERM = fields(matchExpressions=st.lists(REQUIREMENT, max_size=2), matchFields=st.lists(REQUIREMENT, max_size=2))
RESOURCES = fields(requests=fields(cpu=st.just("1")), limits=fields(memory=st.just("1Gi")))
MORE = {
    "resources": RESOURCES,
    "env": st.lists(fields(name=WORD, value=WORD), max_size=2),
    "volumeMounts": st.lists(fields(mountPath=WORD), max_size=1),
    "restartPolicy": st.just("Always"),
}
# What the CRD makes sure of: containers and volumes are lists of objects with names; labels are texts.
CONTAINER = st.fixed_dictionaries({"name": st.just("c")}, optional={n: perhaps(s) for n, s in MORE.items()})
TEMPLATES = st.fixed_dictionaries(
    {
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(CONTAINER, min_size=1, max_size=2)},
            optional={
                "initContainers": st.none() | st.lists(CONTAINER, max_size=1),
                "nodeSelector": fields(a=WORD),
                "tolerations": perhaps(st.lists(fields(key=WORD, operator=WORD, effect=WORD), max_size=2)),
                "affinity": fields(nodeAffinity=fields(**{REQUIRED: fields(nodeSelectorTerms=st.lists(TERM))})),
                "resources": RESOURCES,
                "overhead": fields(cpu=st.just("1")),
                "volumes": st.none() | st.just([{"name": "v"}]),
                "restartPolicy": st.none() | st.just("OnFailure"),
            },
        )
    },
    optional={"metadata": st.none() | st.just({"labels": None}) | st.just({"labels": {"a": "b"}})},
)


@settings(max_examples=150, deadline=None)
@given(TEMPLATES)
def test_a_template_is_refused_or_can_be_read_by_all(template: dict[str, Any]) -> None:
    try:
        translate.worker_request(template, emulated=True)
    except InputError as exc:
        assert exc.field.startswith("spec.template.")
        return
    nodes.allows(NODE, template["spec"])
    nodes.placement_rules(template["spec"])
    worker = WorkerPlan(0, "n0", "dcu", (0, 1))
    pools = {"dcu": PoolPlan("dcu", "hygon.com/hcu", "hygon-bw1000")}
    plan = GangPlan("j", "t", "u", 0, "MPI", 2, (worker,), pools, template, {}, {}, "supernode:9")
    pod = manifests.pod(plan, worker)
    assert pod["spec"]["restartPolicy"] in ("Never", "OnFailure")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["hygon.com/hcu"] == "2"
