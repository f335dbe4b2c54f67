"""Every rule says the same in CEL and in Python: random specs, both verdicts, rule by rule.

CEL runs in cel-python here; the wire tests run a selection on the real API server. Rules about a change (`oldSelf`)
and those that the schema itself says have no second form.
"""

from __future__ import annotations

import functools
from typing import Any

import celpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from tests.builders.manifests import MODEL, Json, a_group, a_job, a_pool, merged

from supernode.api.group import SuperNodeGroupSpec
from supernode.api.job import TrainingJob, TrainingJobSpec
from supernode.api.pool import AcceleratorPoolSpec
from supernode.api.rules import Rule
from supernode.api.run_policy import FailureRule
from supernode.api.template import PodSpec
from supernode.api.training import ModelSpec

MODELS: tuple[type[Any], ...] = (
    TrainingJob, TrainingJobSpec, ModelSpec, PodSpec, AcceleratorPoolSpec, SuperNodeGroupSpec, FailureRule,
)  # fmt: skip
SMALL = st.integers(1, 6)
LEVEL = st.sampled_from(["a", "b", "node"])


def _maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """A dict with any subset of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


JOB_SPECS = st.fixed_dictionaries(
    {
        "parallelism": _maybe(
            tensor=SMALL, pipeline=SMALL, data=st.integers(1, 24), context=SMALL, expert=SMALL, interleave=SMALL,
            microBatchSize=SMALL, globalBatchSize=st.integers(1, 48),
        ),
        "scheduling": st.fixed_dictionaries(
            {
                "policy": st.fixed_dictionaries({"gang": _maybe(minCount=st.integers(1, 24))}),
                "constraints": _maybe(
                    topology=st.lists(st.fixed_dictionaries({"level": LEVEL}), max_size=3),
                    slices=st.lists(st.fixed_dictionaries({"level": LEVEL, "size": SMALL}), max_size=4),
                ),
            }
        ),
    },
    optional={
        "pools": st.lists(st.sampled_from(["p", "q", "r"]), min_size=1, max_size=3, unique=True),
        "mix": st.sampled_from(["None", "Stages"]),
        "workers": st.integers(1, 24),
        "acceleratorsPerWorker": SMALL,
        "model": _maybe(layers=SMALL, attentionHeads=SMALL, experts=SMALL).map(
            lambda given: {**MODEL, "hiddenSize": 720, "sequenceLength": 12, **given}
        ),
    },
).map(lambda changes: merged(a_job()["spec"], changes))  # fmt: skip
JOBS = st.tuples(
    st.sampled_from(["gpt", "3gpt", "a.b", "a-", "a" * 53, "a" * 54, "a" * 55]), st.sampled_from([1, 10, 11, 100, 101])
).map(lambda drawn: a_job(name=drawn[0], workers=drawn[1]))
SHAPES = _maybe(
    hiddenSize=st.integers(1, 24), attentionHeads=SMALL, kvHeads=SMALL, headSize=SMALL, experts=SMALL,
    expertsPerToken=SMALL,
).map(lambda changes: {**MODEL, **changes})  # fmt: skip
NAMES = st.sampled_from(["worker", "supernode-emulator", "other"])
CONTAINERS = st.lists(st.fixed_dictionaries({"name": NAMES}), min_size=1, max_size=2)
POD_SPECS = st.fixed_dictionaries(
    {"containers": CONTAINERS},
    optional={
        "initContainers": CONTAINERS,
        "volumes": st.lists(st.fixed_dictionaries({"name": NAMES}), max_size=2),
        **{field: st.just("x") for field in ("nodeName", "schedulerName", "hostname", "subdomain")},
    },
)
POOL_SPECS = _maybe(
    chip=st.sampled_from(["x", ...]),
    chipSpec=st.just({"name": "x"}),
    mode=st.sampled_from(["Hardware", "Emulated", ...]),
    devicesPerNode=st.sampled_from([1, ...]),
    resourceNames=st.sampled_from([[], ["a.b/c"], ["cpu"], ["a.b/c", "x.kubernetes.io/y"], ["requests.a.b/c"]]),
).map(lambda changes: merged(a_pool()["spec"], changes))
GROUP_SPECS = st.fixed_dictionaries(
    {
        "levels": st.lists(
            st.tuples(LEVEL, st.sampled_from(["x/1", "x/2", "x/3"])).map(
                lambda drawn: {"name": drawn[0], "nodeLabel": drawn[1], "bandwidthGBps": 1, "latencyMicroseconds": 1}
            ),
            min_size=1,
            max_size=3,
        )
    },
    optional={
        "storage": st.lists(
            st.tuples(st.sampled_from(["s", "t"]), LEVEL).map(
                lambda drawn: {"name": drawn[0], "level": drawn[1], "domain": "d", "readGBps": 1, "writeGBps": 1}
            ),
            max_size=2,
        )
    },
).map(lambda changes: merged(a_group()["spec"], changes))
FAILURE_RULES = st.fixed_dictionaries(
    {"action": st.sampled_from(["FailJob", "Ignore", "Count"])},
    optional={
        "onExitCodes": st.just({"operator": "In", "values": [1]}),
        "onReasons": st.just(["OOMKilled"]),
        "onPodConditions": st.just([{"type": "DisruptionTarget"}]),
    },
)


@functools.cache
def _runner(cel: str) -> celpy.Runner:
    environment = celpy.Environment(runner_class=celpy.InterpretedRunner)
    return environment.program(environment.compile(cel))


def _with_defaults(model: BaseModel) -> Json:
    """The value as the API server would hand it to CEL: defaults filled in, what is absent left out."""
    value = model.model_dump(by_alias=True, exclude_none=True)
    return _without_empty(value)


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item != []}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def _agree(model: type[Any], value: Json, seen: dict[str, set[bool]]) -> None:
    try:
        parsed = model.model_validate(value)
    except ValidationError:
        return
    activation = {"self": celpy.json_to_cel(_with_defaults(parsed))}
    for rule in _rules(model):
        assert rule.holds is not None
        python = rule.holds(parsed)
        assert bool(_runner(rule.cel).evaluate(activation)) == python, (rule.field, rule.cel, value)
        seen.setdefault(rule.cel, set()).add(python)
        if not python and rule.explain is not None:
            assert rule.explain(parsed)


def _rules(model: type[Any]) -> list[Rule[Any]]:
    return [rule for rule in model.rules if rule.cel and "oldSelf" not in rule.cel]


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (TrainingJobSpec, JOB_SPECS),
        (TrainingJob, JOBS),
        (ModelSpec, SHAPES),
        (PodSpec, POD_SPECS),
        (AcceleratorPoolSpec, POOL_SPECS),
        (SuperNodeGroupSpec, GROUP_SPECS),
        (FailureRule, FAILURE_RULES),
    ],
)
def test_cel_and_python_agree(model: type[Any], values: st.SearchStrategy[Json]) -> None:
    seen: dict[str, set[bool]] = {}
    for rule in _rules(model):
        _runner(rule.cel)  # compiled out here, because cel-python raises the recursion limit as it does so

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(values)
    def check(value: Json) -> None:
        _agree(model, value, seen)

    check()
    # A rule that never fails, or never holds, on what was drawn would not have been compared at all.
    assert {cel: both for cel, both in seen.items() if len(both) < 2} == {}


def test_every_rule_has_both_forms_or_a_reason() -> None:
    for model in MODELS:
        for rule in model.rules:
            if "oldSelf" in rule.cel:
                assert rule.holds is None
            else:
                assert rule.holds is not None
            assert rule.message
            assert rule.message[-1] != "."
