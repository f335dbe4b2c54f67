"""What the CRD accepts and what the models accept is the same: random objects, right and wrong, through both.

The CRD is judged by the API machinery of the local cluster, which wire tests hold to the real API server's answers.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders.manifests import MODEL, Json, a_group, a_job, a_pool

from supernode.api import KINDS, model_from
from supernode.api.crd import crd
from supernode.errors import InputError
from supernode.local.machinery import crd as definitions
from supernode.local.machinery.refusals import RefusedError

SERVED = {kind.name: definitions.compile(crd(kind))["v1alpha1"] for kind in KINDS}
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 6, 8, 64, 65, 1024, 1025, 2**17, 2**17 + 1, 2**20, 2**31, 0.5, 1e9, 2e9])
OTHERS = st.sampled_from([None, True, "2", "", [], {}, [1], "a", "Full", "node", "A_B", "x" * 64])
NAMES = st.sampled_from(["gpt", "3gpt", "a.b", "a" * 54, "a" * 55, "b-1"])
LEVEL = {"name": "leaf", "nodeLabel": "l/leaf", "bandwidthGBps": 1, "latencyMicroseconds": 0}
STORE = {"name": "s", "level": "spine", "domain": "d", "readGBps": 1, "writeGBps": 1}
FULL = a_job(
    workers=8,
    model={**MODEL, "kvHeads": 4, "headSize": 8, "feedForwardSize": 64},
    parallelism={"tensor": 2, "pipeline": 2, "data": 4, "globalBatchSize": 8, "interleave": 2},
    scheduling={
        "policy": {"gang": {"minCount": 4}},
        "constraints": {
            "topology": [{"level": "spine"}, {"level": "supernode", "mode": "Preferred"}],
            "slices": [{"level": "supernode", "size": 4}, {"level": "node", "size": 2}],
        },
        "disruptionMode": "Single",
        "priorityClassName": "high",
    },
    runPolicy={"suspend": True, "ttlSecondsAfterFinished": 1, "activeDeadlineSeconds": 1, "cleanPodPolicy": "All"},
    storage={"dataset": "s", "checkpoint": {"store": "s", "everySteps": 1, "sizeGB": 1}},
    template={"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "volumes": [{"name": "v"}]}},
)
POOL = a_pool(
    resourceNames=["a.b/c", "d.e/f"],
    interconnect={"bandwidthGBps": 1.5, "latencyMicroseconds": 0},
    quotas=[
        {"namespace": "a", "guaranteed": 1, "limit": 2},
        {"namespace": "b", "guaranteedTFLOPS": 1.5, "limitTFLOPS": 2},
    ],
    nodeSelector={"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]},
)
OWN_CHIP = a_pool(chip=..., chipSpec={"name": "c", "memoryGiB": 1, "tflops": {"bf16": 1}, "linkDomain": 1})
GROUP = a_group(storage=[STORE], levels=[*a_group()["spec"]["levels"], LEVEL])


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place inside a value."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [path, *(found for key, item in items for found in paths(item, (*path, key)))] if path else [
        found for key, item in items for found in paths(item, (key,))
    ]  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn, base: Json) -> Json:
    """`base` with one to three places changed, taken out, doubled or added to."""
    obj: Json = {**base, "metadata": dict(base["metadata"]), "spec": _copy(base["spec"])}
    for _ in range(draw(st.integers(1, 3))):
        places = paths(obj["spec"])
        if not places:
            break
        *outer, last = draw(st.sampled_from(places))
        target: Any = obj["spec"]
        for key in outer:
            target = target[key]
        match draw(st.sampled_from(["number", "number", "other", "remove", "unknown", "twice"])):
            case "number":
                target[last] = draw(NUMBERS)
            case "other":
                target[last] = _copy(draw(OTHERS))  # what is drawn is the same object each time
                if target[last] is None and outer and outer[-1] in ("matchLabels", "labels"):
                    # The server drops the label, and so widens the selector; a file that says so is refused.
                    target[last] = ""
            case "remove":
                del target[last]
            case "unknown" if (
                isinstance(target, dict) and "spec" not in outer and not {"labels", "matchLabels"} & set(outer)
            ):
                target["unknownField"] = _copy(draw(OTHERS))
            case "twice" if isinstance(target, list):
                target.append(_copy(target[last]))  # type: ignore[index]
    if obj["kind"] == "TrainingJob" and draw(st.integers(0, 9)) == 0:
        obj["metadata"]["name"] = draw(NAMES)
    return obj


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def served(obj: Json) -> str:
    """What the API server objects to; empty if it takes the object."""
    try:
        SERVED[obj["kind"]].admit(_copy(obj), None, "Strict")
    except RefusedError as exc:
        return str(exc) or "refused"
    return ""


def read(obj: Json) -> str:
    """What the models object to; empty if they take the object."""
    try:
        model_from(obj)
    except InputError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    "base", [FULL, a_job(), POOL, OWN_CHIP, GROUP], ids=["job", "small-job", "pool", "chip", "group"]
)
def test_both_accept_the_same(base: Json) -> None:
    assert (served(base), read(base)) == ("", "")
    verdicts = set()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutants(base))
    def check(obj: Json) -> None:
        server, models = served(obj), read(obj)
        assert bool(server) == bool(models), f"{obj['spec']}\nserver: {server}\nmodels: {models}"
        verdicts.add(bool(server))

    check()
    assert verdicts == {True, False}
