"""How many pods a namespace's quotas leave room for. `tests/wire/security` asks the real API server the same."""

from __future__ import annotations

from typing import Any

import pytest

from supernode.cluster.kinds import Json
from supernode.cluster.resourcequota import shortage, usage


def a_quota(hard: Json, used: Json | None = None, name: str = "compute", **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used or {}}}


def a_pod(requests: Json | None = None, limits: Json | None = None, **spec: Any) -> Json:
    resources = {"requests": requests or {}, "limits": limits or {}}
    return {"spec": {"containers": [{"name": "c", "resources": resources}], **spec}}


def test_what_is_counted_has_the_names_that_quotas_use() -> None:
    sidecar = {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}}
    pod = a_pod({"cpu": "1", "x.io/y": "2"}, {"cpu": "2", "x.io/y": "2", "memory": "1Ki"}, initContainers=[sidecar])
    assert usage(pod["spec"]) == {
        "pods": 1,
        "count/pods": 1,
        "cpu": 1050,
        "requests.cpu": 1050,
        "limits.cpu": 2000,
        "memory": 1024,
        "requests.memory": 1024,
        "limits.memory": 1024,
        "requests.x.io/y": 2,
    }


@pytest.mark.parametrize(
    ("quota", "pod", "room"),
    [
        (a_quota({"pods": "5"}, {"pods": "2"}), a_pod(), 3),
        (a_quota({"pods": "5"}, {"pods": "9"}), a_pod(), 0),
        (a_quota({"requests.x.io/y": "7"}, {"requests.x.io/y": "2"}), a_pod({"x.io/y": "2"}), 2),
        (a_quota({"requests.memory": "1Gi"}), a_pod({"memory": "300Mi"}), 3),
        (a_quota({"requests.memory": "1Gi"}), a_pod(), None),
        (a_quota({"services": "0"}), a_pod(), None),
        (a_quota({"pods": "odd"}), a_pod(), None),
        (a_quota({"pods": "1"}, scopes=["BestEffort"]), a_pod({"cpu": "1"}), None),
        (a_quota({"pods": "1"}, scopes=["BestEffort"]), a_pod({"x.io/y": "1"}), 1),
        (a_quota({"pods": "1"}, scopes=["Terminating"]), a_pod(activeDeadlineSeconds=5), 1),
        (a_quota({"pods": "1"}, scopes=["NewScopeOfTomorrow"]), a_pod(), None),
        (a_quota({"pods": "1"}, scopes=["PriorityClass"]), a_pod(priorityClassName="high"), 1),
        (a_quota({"pods": "1"}, scopes=["CrossNamespacePodAffinity"]), a_pod(), None),
    ],
)
def test_room(quota: Json, pod: Json, room: int | None) -> None:
    counts = [count for count in range(1, 8) if not shortage([quota], pod, count)]
    assert counts == list(range(1, 8 if room is None else room + 1))


def test_affinity_to_other_namespaces() -> None:
    quota = a_quota({"pods": "1"}, scopes=["CrossNamespacePodAffinity"])
    term = {"topologyKey": "x", "namespaces": ["other"]}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}
    assert shortage([quota], a_pod(affinity={"podAntiAffinity": preferred}), 2)


def test_the_sentence_has_the_numbers_and_the_first_quota_by_name() -> None:
    quotas = [a_quota({"pods": "1"}, name="b"), a_quota({"requests.cpu": "2"}, {"requests.cpu": "500m"}, name="a")]
    assert shortage(quotas, a_pod({"cpu": "1"}), 2) == (
        "ResourceQuota a leaves room for 1 of 2 workers: each needs requests.cpu 1, and 500m of 2 are used"
    )
